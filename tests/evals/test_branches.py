import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evals import scoring
from evals.branches import WIDTH_MULTIPLE, longest, plan_branches, score_branches
from evals.examinee import open_examinee
from evals.options import Options
from evals.packing import plan_packs, score_packed
from evals.scoring import STATE_TOKENS, score_continuations, score_rows
from helix.scoring import PIECE_TOKENS, Row, padded

BEGINNINGS = [b"", b"ab", b"abc", b"xyz", b"z" * STATE_TOKENS, b"z" * 4 * STATE_TOKENS]
WORDS = st.binary(min_size=1, max_size=12)


@pytest.fixture(scope="module")
def options(trained_run):
    return Options(run_dir=str(trained_run.run_dir), batch_tokens=120)


@pytest.fixture(scope="module")
def examinee(options):
    return open_examinee(options)


@pytest.mark.parametrize("score", [score_branches, score_packed, score_continuations])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(st.sampled_from(BEGINNINGS), WORDS), min_size=1))
def test_each_row_costs_what_it_costs_alone(examinee, options, score, pairs):
    rows = [Row(np.array([256, *one, *two]), n_given=1 + len(one)) for one, two in pairs]
    expected = score_rows(examinee, rows, options, title="")
    found = score(examinee, rows, options, title="")
    for ours, theirs, (_, end) in zip(found, expected, pairs, strict=True):
        assert len(ours.nats) == len(end)
        np.testing.assert_allclose(ours.nats, theirs.nats, rtol=2e-5, atol=1e-5)
        assert (ours.ranks == theirs.ranks).all()


def test_long_beginnings_that_rows_share_are_read_once_and_all_others_packed(
    examinee, options, monkeypatch
):
    taken = {}

    def note(name, score):
        def noting(examinee, rows, options, *, title):
            taken[name] = [len(row.ids) for row in rows]
            return score(examinee, rows, options, title=title)

        monkeypatch.setattr(scoring, name, noting)

    note("score_packed", score_packed)
    note("score_branches", score_branches)
    shared = [Row(np.array([256] * 100 + [n, n]), n_given=100) for n in range(3)]
    alone = [Row(np.arange(90), n_given=80)]
    short = [Row(np.array([256, 7, n]), n_given=2) for n in range(3)]
    long = [Row(np.full(PIECE_TOKENS + 2, 9), n_given=1)]
    rows = [*long, *shared, *alone, *short]
    scores = score_continuations(examinee, rows, options, title="")
    assert taken == {"score_packed": [90, 3, 3, 3], "score_branches": [1026, 102, 102, 102]}
    assert [len(own.nats) for own in scores] == [len(row.ids) - row.n_given for row in rows]


def test_a_batch_holds_beginnings_of_one_length_and_no_more_tokens_than_told():
    rows = [Row(np.arange(1 + n % 3 + n % 5 + 1), n_given=1 + n % 3) for n in range(60)]
    branches = {}
    for number, row in enumerate(rows):
        branches.setdefault((*row.ids[: row.n_given - 1].tolist(), number % 7), []).append(number)
    batches = plan_branches(branches, rows, batch_tokens=100, most_rows=5)
    assert sorted(begin for batch in batches for begin in batch) == sorted(branches)
    for batch in batches:
        assert len({len(begin) for begin in batch}) == 1
        widths = {begin: padded(longest(branches[begin], rows), WIDTH_MULTIPLE) for begin in batch}
        n_rows = sum(len(branches[begin]) for begin in batch)
        assert n_rows <= 5 or len(batch) == 1
        n_tokens = sum(len(begin) + widths[begin] * len(branches[begin]) for begin in batch)
        assert n_tokens <= 100 or len(batch) == 1


@given(lengths=st.lists(st.integers(1, PIECE_TOKENS), min_size=1, max_size=40))
def test_packs_hold_every_row_once_and_no_more_than_they_have_room_for(lengths):
    packs = plan_packs(lengths)
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    fills = [sum(lengths[row] for row in pack) for pack in packs]
    assert max(fills) <= PIECE_TOKENS
    after = [lengths[pack[0]] for pack in packs[1:]]
    assert all(fill + own > PIECE_TOKENS for fill, own in zip(fills[:-1], after, strict=True))
