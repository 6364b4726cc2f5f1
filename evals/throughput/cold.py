"""The first step from nothing: a new process, empty caches of compiled kernels."""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from evals.throughput.bench import Bench, Case, Row, Section
from evals.throughput.loops import engine_run
from evals.throughput.processes import last_line, run_alone
from helix import config as configs
from helix.config import ConfigError

TIMEOUT_S = 460


def cold_cases(bench: Bench) -> Iterator[Case]:
    """Take one step."""
    yield Case({}, partial(cold_row, bench))


def cold_row(bench: Bench) -> Row:
    """Start a process and read the time of each phase; see first_step.py."""
    with tempfile.TemporaryDirectory() as folder:
        config, phases = Path(folder) / "run.yaml", Path(folder) / "phases.json"
        configs.save(engine_run(bench.run, n_micro_batches=1, n_steps=10), config)
        caches = {
            "TRITON_CACHE_DIR": f"{folder}/triton",
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
        }
        command = [sys.executable, "-m", "evals.throughput.first_step", str(config), str(phases)]
        done = run_alone([*command, str(time.time())], timeout_s=TIMEOUT_S, **caches)
        if done.returncode or not phases.exists():
            raise ConfigError(f"first_step: the process failed: {last_line(done.stdout)}")
        return json.loads(phases.read_text())


FIRST_STEP = Section(
    cold_cases,
    note="seconds; from the start of the process to the end of its first optimizer step under "
    "DeepSpeed, and the phases of that",
)
