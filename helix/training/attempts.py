"""attempts.jsonl: with which software and on how many of what each attempt of a run was made."""

import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import helix
from helix.training.lines import append_line, read_lines

PACKAGES = ("torch", "deepspeed", "triton", "numpy", "sentencepiece")


def attempts_path(run_dir: str | Path) -> Path:
    """Say where a run folder keeps them."""
    return Path(run_dir) / "attempts.jsonl"


def describe(attempt: int, *, n_ranks: int, device: torch.device) -> dict[str, Any]:
    """Name what this attempt runs on; a package that is not installed is left out."""
    is_gpu = device.type == "cuda"
    return {
        "attempt": attempt,
        "time_unix_s": round(time.time(), 3),
        "n_ranks": n_ranks,
        "device": torch.cuda.get_device_name(device) if is_gpu else platform.machine(),
        "versions": {
            "helix": helix.__version__,
            "python": platform.python_version(),
            **{name: version for name in PACKAGES if (version := version_of(name))},
            **({"cuda": torch.version.cuda} if is_gpu else {}),
        },
    }


def version_of(package: str) -> str:
    """Give a package's version; empty where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def append(run_dir: str | Path, entry: dict[str, Any]) -> None:
    """Add the line of an attempt."""
    append_line(attempts_path(run_dir), entry)


def read(run_dir: str | Path) -> list[dict[str, Any]]:
    """Read all attempts; a line torn by a kill is left out."""
    entries = read_lines(attempts_path(run_dir))
    return [entry for entry in entries if isinstance(entry.get("versions"), dict)]
