"""The spike detector: what it never takes for a spike, what it always does, and that it repeats."""

import math

from hypothesis import given
from hypothesis import strategies as st

from helix.config import GuardConfig
from helix.training.guard import GRADIENT_FLOOR, LOSS_FLOOR, Guard
from helix.training.spikes import Window

CONFIG = GuardConfig(window_steps=32, least_steps=16)
FIGURE = st.floats(0, 1e6) | st.sampled_from([math.nan, math.inf, 1e300])
STEP = st.tuples(FIGURE, FIGURE, st.booleans())  # loss, norm, whether DeepSpeed saw a NaN itself


def judge(guard, number, loss, norm, is_seen):
    """Take a step as the trainer does."""
    guard.begin(number, loss)
    is_applied = not is_seen and guard.accepts(norm) and math.isfinite(norm)
    return guard.end(is_applied=is_applied)


def judge_all(guard, history, first=1):
    return [judge(guard, number, *step) for number, step in enumerate(history, first)]


@given(st.lists(STEP, max_size=120), st.data())
def test_run_that_goes_on_from_a_state_decides_as_the_undisturbed_one(history, data):
    import json

    cut = data.draw(st.integers(0, len(history)))
    whole = Guard(CONFIG)
    expected = judge_all(whole, history)
    begun = Guard(CONFIG)
    found = judge_all(begun, history[:cut])
    resumed = Guard(CONFIG, json.loads(json.dumps(begun.state_dict())))
    found += judge_all(resumed, history[cut:], cut + 1)
    assert repr(found) == repr(expected)
    assert resumed.state_dict() == whole.state_dict()


@given(st.floats(0, 1e12), st.integers(1, 300))
def test_constant_figures_are_no_spike(figure, n_steps):
    guard = Guard(CONFIG)
    assert not any(judge_all(guard, [(figure, figure, False)] * n_steps))


@given(
    start=st.floats(1e-3, 1e3),
    changes=st.lists(st.floats(-0.01, 0.01), min_size=1, max_size=300),
)
def test_figures_that_change_by_a_percent_a_step_are_no_spike(start, changes):
    guard = Guard(CONFIG)
    figure, history = start, []
    for change in changes:
        figure *= 1 + change
        history.append((figure, figure, False))
    assert not any(judge_all(guard, history))


@given(st.lists(st.floats(2.0, 2.2), min_size=32, max_size=64), st.floats(10, 1e6))
def test_loss_far_above_the_others_is_a_spike_and_widens_nothing(losses, spike):
    guard = Guard(CONFIG)
    assert not any(judge_all(guard, [(loss, 1.0, False) for loss in losses]))
    before = guard.state_dict()["losses"]
    for number in range(3):
        incident = judge(guard, 100 + number, spike, 1.0, False)
        assert incident.kind == "loss_spike"
        assert incident.score > CONFIG.loss_score
    assert guard.state_dict()["losses"] == before


@given(st.lists(st.floats(0.5, 2.0), min_size=32, max_size=64))
def test_norm_far_above_the_others_is_a_spike(norms):
    guard = Guard(CONFIG)
    assert not any(judge_all(guard, [(2.0, norm, False) for norm in norms]))
    assert judge(guard, 100, 2.0, 1000.0, False).kind == "gradient_spike"


@given(st.lists(st.floats(0, 1e3), max_size=15))
def test_nothing_finite_is_a_spike_before_there_is_enough_to_compare_with(figures):
    guard = Guard(CONFIG)
    assert not any(judge_all(guard, [(figure, figure, False) for figure in figures]))
    assert judge(guard, 100, 1e9, 1e9, False) is None


def test_not_finite_figures_are_told_apart():
    guard = Guard(CONFIG)
    assert judge(guard, 1, math.nan, 1.0, False).kind == "loss_not_finite"
    assert judge(guard, 2, math.nan, math.nan, True).kind == "loss_not_finite"
    assert judge(guard, 3, 1.0, math.inf, False).kind == "gradient_not_finite"
    assert judge(guard, 4, 1.0, 1.0, True).kind == "gradient_not_finite"
    assert guard.incidents == [1, 2, 3, 4]
    assert not guard.is_rollback_due
    judge(guard, 5, math.nan, 1.0, False)
    assert guard.is_rollback_due
    judge(guard, 5 + CONFIG.within_steps, 1.0, 1.0, False)
    assert guard.incidents == []


def test_score_of_zero_looks_for_no_spikes():
    guard = Guard(GuardConfig(loss_score=0, gradient_score=0, window_steps=32, least_steps=16))
    assert not any(judge_all(guard, [(1.0, 1.0, False)] * 40 + [(1e9, 1e9, False)]))


def test_score_is_in_deviations_of_a_normal_distribution():
    window = Window(range(-100, 101), n_steps=201, n_least=1, floor=0.0)
    assert window.score(0) == 0
    assert window.score(148.26) == 148.26 / (1.4826 * 50)
    assert LOSS_FLOOR < GRADIENT_FLOOR
