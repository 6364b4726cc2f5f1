"""Commands as a person starts them: real processes, with none of the ranks that this one has."""

import os
import subprocess
import sys

OF_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def clean_environment(**variables: str) -> dict[str, str]:
    """Give the environment of a shell: the tests' own process group has left its marks in ours."""
    kept = {name: value for name, value in os.environ.items() if name not in OF_RANKS}
    return {**kept, "OMP_NUM_THREADS": "1", **variables}


def start_helix(*words: str) -> subprocess.Popen[str]:
    """Start `helix` and give the process; what it writes can be read from it."""
    return subprocess.Popen(
        [sys.executable, "-m", "helix", *words],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
