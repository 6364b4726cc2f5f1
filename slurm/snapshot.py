"""A copy of the code and the config of a job, so that editing a checkout changes no queued job."""

import importlib
import json
import os
import shutil
import subprocess
from pathlib import Path

PACKAGES = ("helix", "data_tools", "evals", "slurm", "ds_configs")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def copy_code(target: Path) -> None:
    """Copy all packages as they are now, and note the commit that they were made from."""
    for name in PACKAGES:
        source = Path(str(importlib.import_module(name).__file__)).parent
        shutil.copytree(source, target / name, ignore=LEFT_OUT)
    (target / "commit.json").write_text(json.dumps(describe_commit(), indent=1))


def describe_commit() -> dict[str, str | bool]:
    """Name the commit of the checkout, and whether files differ from it; empty without git."""
    root = Path(__file__).parents[1]
    commit = git(root, "rev-parse", "HEAD")
    changed = git(root, "status", "--porcelain", "--", *PACKAGES)
    return {"commit": commit.strip(), "is_changed": bool(changed)} if commit else {}


def git(root: Path, *words: str) -> str:
    """Ask git; give an empty text where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def environment_of(code: Path) -> dict[str, str]:
    """Give the variables that make python import a copy, also when started in a checkout."""
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{code}:{before}" if before else str(code), "PYTHONSAFEPATH": "1"}
