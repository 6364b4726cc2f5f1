"""The report: one table for people, or JSON for machines."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from helix.preflight.findings import VERDICTS, Finding

STYLES = {"ok": "green", "warning": "yellow", "FAILED": "bold red"}


def print_report(findings: Sequence[Finding], *, is_json: bool) -> None:
    """Print all findings."""
    counts = {verdict: sum(f.verdict == verdict for f in findings) for verdict in VERDICTS}
    if is_json:
        record = {"counts": counts, "findings": [asdict(finding) for finding in findings]}
        json.dump(record, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    table = Table("check", "found", "verdict")
    for finding in findings:
        style = STYLES[finding.verdict]
        verdict = f"[{style}]{finding.verdict}[/]"
        if finding.advice:
            verdict += f": {escape(finding.advice)}"
        table.add_row(finding.name, escape(finding.found), verdict)
    console = Console()
    console.print(table)
    told = ", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number)
    end = "mend what failed before you train" if counts["FAILED"] else "ready to train"
    console.print(f"{told} in {sum(f.seconds for f in findings):.1f} s: {end}")
