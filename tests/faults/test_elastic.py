"""A run goes from two ranks to one to four, and from ZeRO-1 to 2 to 3, with no step by hand."""

import signal
import time

import pytest

from helix.training.metrics import read_records
from tests.conftest import TINY_MODEL
from tests.faults.children import Attempt
from tests.training.runs import stage_words

pytestmark = [pytest.mark.faults, pytest.mark.ranks]

N_STEPS = 24
OWN = {
    "training.n_steps": N_STEPS,
    "training.micro_batch_rows": 1,
    "training.checkpoint_every_steps": 4,
    "data.n_workers": 2,
}
TIMEOUT_S = 240


def figures(run_dir, name):
    return {r["step"]: r[name] for r in read_records(run_dir) if name in r}


def steps_of(run_dir):
    return len(figures(run_dir, "speed/step_ms"))


def test_losses_stay_within_a_millionth_over_ranks_and_stages(corpus, tmp_path):
    kept = [word for word in TINY_MODEL if word.partition("=")[0] not in OWN]
    words = [*kept, f"data.path={corpus}", *(f"{key}={value}" for key, value in OWN.items())]
    whole = tmp_path / "whole"
    undisturbed = Attempt(whole, [*words, *stage_words(1, tmp_path)], n_ranks=1)
    assert undisturbed.join(TIMEOUT_S) == [0], undisturbed.log.read_text()

    moved = tmp_path / "moved"
    for stage, n_ranks, until in ((1, 2, 7), (2, 1, 14), (3, 4, N_STEPS)):
        attempt = Attempt(moved, [*words, *stage_words(stage, tmp_path)], n_ranks=n_ranks)
        deadline = time.monotonic() + TIMEOUT_S
        while attempt.is_alive and (steps_of(moved) < until or until == N_STEPS):
            assert time.monotonic() < deadline, attempt.log.read_text()
            time.sleep(0.01)
        attempt.signal(signal.SIGTERM)
        statuses = attempt.join(TIMEOUT_S)
        expected = {0} if until == N_STEPS else {128 + signal.SIGTERM}
        assert set(statuses) == expected, attempt.log.read_text()
        assert f"ZeRO-{stage} on cpu: 4 rows a step = {n_ranks} ranks" in attempt.log.read_text()
    for name in ("train/loss_nats_per_token", "validation/de/bits_per_byte"):
        assert figures(moved, name) == pytest.approx(figures(whole, name), rel=1e-6)
    assert figures(moved, "tokens") == figures(whole, "tokens")
