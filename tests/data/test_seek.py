import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix.data import Dataset
from helix.data.shards import INDEX_DTYPES, Index
from helix.data.stream import Mixture
from tests.data.test_stream import loader_of

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12).filter(lambda n: max(n) > 1)


def mixture_of(lengths, weights, seed=0):
    dataset = Dataset.__new__(Dataset)  # nothing on disk: only lengths are asked for
    dataset.skipped = {}
    dataset.indexes = {
        f"s{number}": Index(**{name: np.array(n, dtype) for name, dtype in INDEX_DTYPES.items()})
        for number, n in enumerate(lengths)
    }
    return Mixture(dataset, dict(zip(dataset.indexes, weights, strict=True)), seed)


@given(data=st.data(), n_pairs=st.integers(0, 3000), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=150)
def test_seeking_gives_the_place_that_drawing_gives(data, n_pairs, seed):
    lengths = data.draw(st.lists(LENGTHS, min_size=1, max_size=4))
    one_weight = st.one_of(st.sampled_from([1.0, 2.0, 0.1]), st.floats(1e-3, 1e3))
    weights = data.draw(st.lists(one_weight, min_size=len(lengths), max_size=len(lengths)))
    drawing, seeking = (mixture_of(lengths, weights, seed) for _ in range(2))
    left = seeking.go_to(n_pairs)
    n_drawn, last = 0, None
    while n_drawn < n_pairs:
        last = next(drawing)
        n_drawn += last.n_pairs
    assert seeking.cursors == drawing.cursors
    assert (left.n_pairs if left else 0) == n_drawn - n_pairs
    if left:
        assert (left.source, left.document) == (last.source, last.document)
        assert left.first_pair + left.n_pairs == last.n_pairs
    assert [next(seeking) for _ in range(20)] == [next(drawing) for _ in range(20)]


@pytest.mark.parametrize("weights", [{}, {"de": 0.55, "en": 0.45}, {"de": 1.0, "en": 90.0}])
def test_a_loader_sent_to_a_row_stands_where_one_that_read_up_to_it_stands(pristine, weights):
    reading = loader_of(pristine, weights=weights)
    for step in range(120):
        seeking = loader_of(pristine, weights=weights)
        seeking.go_to_row(step * reading.batch_rows)
        assert seeking.state_dict() == reading.state_dict()
        assert seeking.provenance(step) == reading.next_rows()
