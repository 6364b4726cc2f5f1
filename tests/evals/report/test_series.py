import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evals.report.series import Series, number, pick, series, smooth, thin

figures = st.floats(-1e6, 1e6) | st.just(math.nan)


def as_series(values) -> Series:
    return Series(np.arange(len(values), dtype=float), np.array(values, dtype=float))


@given(st.lists(figures, min_size=1, max_size=400))
def test_smoothing_stays_between_the_least_and_the_greatest(values):
    smoothed = smooth(as_series(values)).y
    kept = [value for value in values if math.isfinite(value)]
    assert len(smoothed) == len(values)
    for value in smoothed[np.isfinite(smoothed)]:
        assert min(kept) - 1e-3 <= value <= max(kept) + 1e-3


def test_smoothing_a_constant_gives_the_constant():
    assert np.allclose(smooth(as_series([3.0] * 500)).y, 3.0)


@given(st.lists(figures, min_size=1, max_size=3000), st.integers(4, 50))
def test_thinning_keeps_the_extremes_and_both_ends(values, n_points):
    own = as_series(values)
    thinned = thin(own, n_points)
    assert len(thinned.y) <= max(n_points + 2, 4)
    assert (thinned.x[0], thinned.x[-1]) == (own.x[0], own.x[-1])
    if own:
        assert np.nanmax(thinned.y) == np.nanmax(own.y)
        assert np.nanmin(thinned.y) == np.nanmin(own.y)


@given(st.integers(0, 500), st.integers(2, 30))
def test_rows_of_a_table_are_few_and_hold_both_ends(n_points, n_rows):
    chosen = pick(n_points, n_rows)
    assert len(chosen) <= n_rows or n_points <= n_rows
    assert not n_points or (chosen[0], chosen[-1]) == (0, n_points - 1)


def test_what_is_no_number_is_nan():
    record = {"a": None, "b": "inf", "c": True, "d": 2}
    assert [math.isnan(number(record, name)) for name in "abcde"] == [1, 1, 1, 0, 1]
    assert series([record, {"step": 3, "d": 1.5}], "d").x.tolist() == [3.0]
