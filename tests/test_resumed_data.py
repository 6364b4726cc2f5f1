"""A run of two sources, killed on two ranks, ended on one: no token is read twice in an epoch."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from data_tools.inspect_run import InspectOptions, inspect_step
from helix.training.metrics import read_records
from tests.commands import clean_environment
from tests.conftest import tiny_config

N_STEPS = 24
WORDS = (
    "data.weights={de: 0.55, en: 0.45}",
    f"training.n_steps={N_STEPS}",
    "training.micro_batch_rows=2",
    "training.checkpoint_every_steps=4",
    "training.keep_checkpoints=2",
)
TIMEOUT_S = 180


def losses(run_dir):
    """The loss of each step as the last attempt that took it has it."""
    records = read_records(run_dir)
    return {r["step"]: r["train/loss_nats_per_token"] for r in records if "speed/step_ms" in r}


def start(run_dir, n_ranks):
    torchrun = Path(sys.executable).parent / "torchrun"
    ranks = ["--standalone", "--nproc_per_node", str(n_ranks)]
    return subprocess.Popen(
        [torchrun, *ranks, "-m", "helix", "train", f"run_dir={run_dir}"],
        env=clean_environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_after(process, run_dir, n_steps):
    """Kill all ranks with SIGKILL as soon as so many steps are written."""
    deadline = time.monotonic() + TIMEOUT_S
    while len(losses(run_dir)) < n_steps:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.ranks
def test_a_run_killed_on_two_ranks_and_ended_on_one_reads_each_token_once(corpus, tmp_path):
    from helix.config import save, saved_path
    from helix.training.trainer import train

    undisturbed = tiny_config(*WORDS, run_dir=tmp_path / "whole", data_path=corpus)
    assert train(undisturbed) == 0
    run_dir = tmp_path / "killed"
    run_dir.mkdir()
    save(tiny_config(*WORDS, run_dir=run_dir, data_path=corpus), saved_path(run_dir))
    for n_steps in (6, 13):
        kill_after(start(run_dir, 2), run_dir, n_steps)
    ended = start(run_dir, 1)
    _, told = ended.communicate(timeout=TIMEOUT_S)
    assert ended.returncode == 0, told
    assert losses(run_dir) == pytest.approx(losses(undisturbed.run_dir), rel=2e-6)

    n_tokens: Counter[str] = Counter()
    seen: Counter[tuple] = Counter()
    for step in range(1, N_STEPS + 1):
        found = inspect_step(InspectOptions(run_dir=str(run_dir), step=step))
        for part in found.parts:
            n_tokens[part.source] += part.n_tokens
            for token in range(part.first_token, part.first_token + part.n_tokens):
                seen[part.source, part.epoch, part.document, token] += 1
    assert set(seen.values()) == {1}
    assert n_tokens["de"] / n_tokens.total() == pytest.approx(0.55, abs=0.01)
