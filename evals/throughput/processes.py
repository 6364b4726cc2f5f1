"""Processes: the ranks of this run before they have met, and processes of their own beside it."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What a launcher sets and a process of its own must not inherit.
OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "MASTER_", "LOCAL_", "GROUP_", "ROLE_", "TORCHELASTIC_")


def ranks_started() -> int:
    """Count the ranks that a launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Tell whether this is the rank that prints and writes."""
    return os.environ.get("RANK", "0") == "0"


def run_alone(
    command: Sequence[str], *, timeout_s: float, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a process that no launcher started and that sees the first GPU alone."""
    kept = {name: v for name, v in os.environ.items() if not name.startswith(OF_LAUNCHERS)}
    paths = [str(ROOT), *kept.get("PYTHONPATH", "").split(os.pathsep)]
    kept["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    kept["CUDA_VISIBLE_DEVICES"] = kept.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return subprocess.run(
        command,
        env={**kept, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def last_line(text: str) -> str:
    """Give the last line that says something."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
