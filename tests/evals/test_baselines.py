import lzma
import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.baselines import measure_baselines, order0_bits, order1_bits


@given(data=st.binary(min_size=1, max_size=300))
def test_order_0_and_1_are_the_entropies_of_the_very_bytes(data):
    n = len(data)
    order0 = sum(count * math.log2(n / count) for count in Counter(data).values())
    before = Counter(data[:-1])
    pairs = Counter(pairwise(data))
    order1 = 8 - sum(count * math.log2(count / before[pair[0]]) for pair, count in pairs.items())
    assert order0_bits(data) == pytest.approx(order0, abs=1e-6)
    assert order1_bits(data) == pytest.approx(order1, abs=1e-6)


def test_known_texts_have_known_entropies():
    assert measure_baselines(b"a" * 1000).order0 == 0
    assert measure_baselines(b"ab" * 1000).order0 == 1
    assert measure_baselines(b"ab" * 1000).order1 == pytest.approx(8 / 2000)
    assert measure_baselines(bytes(range(256)) * 4).order0 == 8


def test_xz_is_the_size_of_the_file_that_xz_writes():
    data = "Es war einmal ein König. ".encode() * 50
    written = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    assert measure_baselines(data).xz == 8 * len(written) / len(data)


def test_no_bytes_are_refused():
    with pytest.raises(ValueError, match="no bytes to score"):
        measure_baselines(b"")
