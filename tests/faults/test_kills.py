"""A run is killed at a hundred moments, half of them inside a save, and loses nothing.

After every kill: each loss that was ever written is, to the bit, that of the undisturbed run; the
checkpoint that was pointed to is still there and intact, or a newer one is.
"""

import random
import time
from pathlib import Path

import pytest

from helix.training import checkpoint
from helix.training.metrics import read_records
from tests.conftest import TINY_MODEL
from tests.faults.children import Attempt

pytestmark = [pytest.mark.faults, pytest.mark.ranks]

N_STEPS = 60
OWN = {
    "training.n_steps": N_STEPS,
    "training.micro_batch_rows": 2,
    "training.checkpoint_every_steps": 3,
    "training.validate_every_steps": 20,
    "guard.requeue_wait_s": 0,
}
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def words(corpus):
    kept = [word for word in TINY_MODEL if word.partition("=")[0] not in OWN]
    return [*kept, f"data.path={corpus}", *(f"{key}={value}" for key, value in OWN.items())]


@pytest.fixture(scope="module", params=[1, 2])
def undisturbed(request, words, tmp_path_factory):
    """Of so many ranks: their number, and the loss of each step."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    attempt = Attempt(run_dir, words, n_ranks=request.param)
    assert set(attempt.join(TIMEOUT_S)) == {0}, attempt.log.read_text()
    return request.param, losses(run_dir)


def losses(run_dir):
    name = "train/loss_nats_per_token"
    return {r["step"]: r[name] for r in read_records(run_dir) if name in r}


def step_pointed_to(run_dir):
    try:
        return int((run_dir / "checkpoints" / "latest").read_text().removeprefix("step-"))
    except OSError:
        return 0


def is_saving(run_dir):
    return any((run_dir / "checkpoints").glob(".partial-*"))


def wait_for(attempt, condition):
    """Wait until something holds, or the attempt has ended."""
    deadline = time.monotonic() + TIMEOUT_S
    while attempt.is_alive and not condition():
        assert time.monotonic() < deadline, attempt.log.read_text()
        time.sleep(0.0005)


def wait_for_moment(attempt, run_dir, draw):
    """Wait for a moment to kill: inside a save every other time; give the kind of it."""
    n_before = len(losses(run_dir))
    wait_for(attempt, lambda: run_dir.exists() and len(losses(run_dir)) > n_before)
    if draw.random() < 0.5:
        wait_for(attempt, lambda: is_saving(run_dir))
        time.sleep(draw.uniform(0, 0.02))
        return "save"
    time.sleep(draw.expovariate(1 / 0.1))
    return "any"


def check_after_kill(run_dir: Path, pointed: int, whole: dict) -> None:
    for step, loss in losses(run_dir).items():
        assert loss == whole[step], f"step {step}"
    found = checkpoint.newest(run_dir)
    step = checkpoint.read_state(found).progress.step if found else 0
    assert step >= pointed


def test_killed_at_fifty_moments_a_run_loses_nothing(undisturbed, words, tmp_path):
    n_ranks, whole = undisturbed
    draw = random.Random(n_ranks)
    kinds, n_runs = [], 0
    run_dir = tmp_path / "run-0"
    while len(kinds) < 50:
        attempt = Attempt(run_dir, words, n_ranks=n_ranks)
        kind = wait_for_moment(attempt, run_dir, draw)
        pointed = step_pointed_to(run_dir)
        was_alive = attempt.is_alive
        attempt.kill(only=draw.choice([None, *range(n_ranks)]) if n_ranks > 1 else None)
        statuses = attempt.join(TIMEOUT_S)
        assert None not in statuses, attempt.log.read_text()
        if was_alive and -9 in statuses:
            kinds.append(kind)
        check_after_kill(run_dir, pointed, whole)
        if set(statuses) == {0} or max(losses(run_dir), default=0) == N_STEPS:
            attempt = Attempt(run_dir, words, n_ranks=n_ranks)
            assert set(attempt.join(TIMEOUT_S)) == {0}, attempt.log.read_text()
            assert losses(run_dir) == whole
            n_runs += 1
            run_dir = tmp_path / f"run-{n_runs}"
    attempt = Attempt(run_dir, words, n_ranks=n_ranks)
    assert set(attempt.join(TIMEOUT_S)) == {0}, attempt.log.read_text()
    assert losses(run_dir) == whole
    assert 15 <= kinds.count("save") <= 35
