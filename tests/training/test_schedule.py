import itertools

from hypothesis import given
from hypothesis import strategies as st

from helix.training.schedule import ScheduleConfig, rate_ratio


@st.composite
def schedules(draw):
    n_steps = draw(st.integers(2, 2000))
    shape = draw(st.sampled_from(["cosine", "warmup_stable_decay", "constant"]))
    n_warmup = draw(st.integers(0, n_steps - 1))
    n_decay = draw(st.integers(1, n_steps - n_warmup)) if shape == "warmup_stable_decay" else 0
    final = draw(st.floats(0, 1))
    return (
        ScheduleConfig(
            shape=shape, n_warmup_steps=n_warmup, n_decay_steps=n_decay, final_ratio=final
        ),
        n_steps,
    )


@given(schedules())
def test_rate_stays_within_zero_and_the_peak(drawn):
    config, n_steps = drawn
    rates = [rate_ratio(config, step, n_steps) for step in range(n_steps + 1)]
    assert all(0 <= rate <= 1 for rate in rates)
    if config.n_warmup_steps:
        assert rates[0] > 0  # a first step at rate zero would be a wasted one


@given(schedules())
def test_rate_never_jumps(drawn):
    config, n_steps = drawn
    rates = [rate_ratio(config, step, n_steps) for step in range(n_steps + 1)]
    n_fall = config.n_decay_steps or (n_steps - config.n_warmup_steps)
    steepest = max(1 / (config.n_warmup_steps + 1), 1.6 / max(1, n_fall))
    assert all(abs(b - a) <= steepest + 1e-9 for a, b in itertools.pairwise(rates))


@given(schedules())
def test_rate_ends_at_the_final_ratio(drawn):
    config, n_steps = drawn
    last = rate_ratio(config, n_steps, n_steps)
    expected = 1.0 if config.shape == "constant" else config.final_ratio
    assert abs(last - expected) < 1e-12
