"""The report of a tokenizer: how it was made, what it spends on held-out text, its gates."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_tools.compare_tokenizers import Comparison, print_comparison
from data_tools.tokenizer_gates import LIMITED_FROM_N_VOCAB, Gate, TextUse


@dataclass(frozen=True, kw_only=True)
class TokenizerReport:
    """What is known of a tokenizer.

    Attributes:
        model: Where the model lies.
        fingerprint: SHA-256 of the model file.
        n_symbols: Reserved symbols of a chat.
        used_share: Ids that the held-out text used, of all ids.
        uses: By language; then by language and domain where documents name domains.
        limits: Tokens per 100 words at the most, by language.
        settings: Of the training; empty where a model was only measured.
        train_s: Seconds of training.
        measure_s: Seconds of measuring and of the gates.
    """

    model: str
    fingerprint: str
    n_vocab: int
    n_symbols: int
    used_share: float
    uses: tuple[TextUse, ...]
    limits: dict[str, float]
    gates: tuple[Gate, ...]
    settings: dict[str, Any]
    train_s: float
    measure_s: float
    comparison: Comparison | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give the report as plain values, with the quotients that a reader looks for."""
        uses = [
            asdict(use)
            | {
                "tokens_per_byte": use.tokens_per_byte,
                "tokens_per_100_words": use.tokens_per_100_words,
            }
            for use in self.uses
        ]
        return asdict(self) | {"uses": uses}


def write_report(report: TokenizerReport, path: Path) -> None:
    """Write the report as .json, under a temporary name until complete."""
    partial = path.with_name(path.name + ".partial")
    content = json.dumps(report.as_dict(), indent=1, ensure_ascii=False)
    partial.write_text(content + "\n", encoding="utf-8")
    partial.replace(path)


def print_report(report: TokenizerReport, *, as_json: bool) -> None:
    """Print the report for a person or a machine."""
    if as_json:
        print(json.dumps(report.as_dict(), indent=1, ensure_ascii=False))
        return
    console = Console()
    console.print(uses_table(report))
    gates = Table("gate", "found", "")
    for gate in report.gates:
        gates.add_row(Text(gate.name), Text(gate.found), "passed" if gate.has_passed else "FAILED")
    console.print(gates)
    for line in summarise(report):
        console.print(line, soft_wrap=True, markup=False)
    if report.comparison is not None:
        print_comparison(report.comparison, console)


def uses_table(report: TokenizerReport) -> Table:
    """Lay out what the held-out text costs."""
    table = Table("language", "domain")
    for name in ("documents", "words", "tokens/byte", "tokens/100 words"):
        table.add_column(name, justify="right")
    for use in report.uses:
        table.add_row(
            Text(use.language),
            Text(use.domain or "all"),
            f"{use.n_documents:,}",
            f"{use.n_words:,}",
            f"{use.tokens_per_byte:.4f}",
            f"{use.tokens_per_100_words:.1f}",
        )
    return table


def summarise(report: TokenizerReport) -> list[str]:
    """Say the rest in lines."""
    lines = [
        f"{report.model}: {report.n_vocab:,} ids, {report.n_symbols} of them reserved symbols; "
        f"the held-out text used {report.used_share:.1%} of the ids",
        f"sha256 {report.fingerprint}",
        f"{report.train_s:.1f} s of training, {report.measure_s:.1f} s of measuring",
    ]
    if not report.limits:
        lines.append(
            f"held to no limit of tokens per 100 words: below {LIMITED_FROM_N_VOCAB:,} ids only "
            "given ones count"
        )
    return lines
