import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.recall.associative import share_slots
from evals.recall.symbols import find_symbols
from evals.recall_demo import (
    FEW_PAIRS,
    LENGTHS,
    N_CONTEXT,
    N_SYMBOLS,
    PAIRS,
    VARIANTS,
    DemoOptions,
    draw_documents,
    draw_stream,
    make_config,
    run,
)
from helix.config import ConfigError
from helix.data import Dataset
from helix.tokenizer import ByteTokenizer

BYTES = ByteTokenizer()
SYMBOLS = find_symbols(BYTES, N_SYMBOLS)


@given(n_pairs=st.sampled_from(PAIRS), seed=st.integers(0, 2**32))
def test_each_value_is_told_before_it_is_asked_for_and_never_changes(n_pairs, seed):
    ids = draw_stream(SYMBOLS, n_pairs=n_pairs, rng=np.random.default_rng(seed))
    assert len(ids) == N_CONTEXT - 1  # a start and an end make it a row
    keys, values = ids[0::2], ids[1::2]
    told = {}
    for key, value in zip(keys, values, strict=False):
        assert told.setdefault(key, value) == value
    assert len(told) == (2 * n_pairs if n_pairs <= FEW_PAIRS else n_pairs)
    assert len(set(keys[:n_pairs])) == n_pairs  # a table comes first, then its keys again
    assert set(keys) <= set(SYMBOLS.keys)
    assert set(values) <= set(SYMBOLS.values)


def test_documents_come_back_from_their_text_and_are_the_same_each_time():
    first, again = (list(islice(draw_documents(5, seed=3), 5)) for _ in range(2))
    assert first == again
    assert all(len(BYTES.encode(document.text)) == N_CONTEXT - 1 for document in first)
    assert first[0].text != next(draw_documents(1, seed=4)).text


def test_training_has_rows_of_as_many_pairs_as_the_evaluation():
    asked = [share_slots(SYMBOLS, length) for length in LENGTHS]
    assert max(LENGTHS) < N_CONTEXT
    assert {n_key for _, _, n_key in asked} == {1}
    assert [n_pairs for n_pairs, _, _ in asked] == [4, 8, 16, 21]
    assert max(PAIRS) >= 21


def test_variants_have_as_many_parameters_within_a_tenth(tmp_path):
    options = DemoOptions(out=str(tmp_path))
    sizes = [
        sum(make_config(tmp_path, name, options).model.parameters_by_part().values())
        for name in VARIANTS
    ]
    assert max(sizes) < 1.1 * min(sizes)


def test_it_trains_evaluates_and_writes_a_table_and_goes_on_where_it_was(tmp_path, capsys):
    words = {"out": str(tmp_path), "n_steps": 4, "batch_rows": 30, "n_items": 1}
    written = run(DemoOptions(**words, variants="hybrid_tiny"))
    assert json.loads((tmp_path / "recall_demo.json").read_text()) == json.loads(
        json.dumps(written)
    )
    assert len(written["runs"]["hybrid_tiny"]["accuracy"]) == len(LENGTHS)
    assert (tmp_path / "hybrid_tiny" / "recall.json").exists()
    assert "21" in capsys.readouterr().out
    dataset = Dataset.open(tmp_path / "data", split="train")
    assert {len(dataset.read("recall", n)) for n in range(9)} == {N_CONTEXT + 1}
    cost = (tmp_path / "hybrid_tiny" / "cost.json").read_bytes()
    assert run(DemoOptions(**words, variants="hybrid_tiny")) == written
    assert (tmp_path / "hybrid_tiny" / "cost.json").read_bytes() == cost
    with pytest.raises(ConfigError, match="holds a demonstration"):
        run(DemoOptions(**{**words, "n_steps": 5}))


@pytest.mark.parametrize(("word", "value"), [("n_steps", 0), ("variants", "gla")])
def test_a_wrong_option_is_refused(word, value):
    with pytest.raises(ConfigError, match=f"^{word}="):
        DemoOptions(out="x", **{word: value})
