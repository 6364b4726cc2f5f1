import pytest

from data_tools.minhash import choose_bands
from helix.data import DataError


def test_permutations_too_few_for_the_threshold_are_a_persons_to_mend():
    with pytest.raises(DataError, match=r"threshold=0\.01: 4 permutations .*more n_permutations"):
        choose_bands(4, 0.01)
