import json
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.make_shards import make_shards
from helix.batch import IGNORED
from helix.data import DataConfig, DataError, Dataset, build_loader
from helix.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()


def loader_of(path, *, rank=0, world_size=1, batch_rows=12, seed=3, **config):
    config = DataConfig(**{"path": str(path), "n_context": 37} | config)
    return build_loader(
        config, TOKENIZER, batch_rows=batch_rows, rank=rank, world_size=world_size, seed=seed
    )


def stack(batch):
    return torch.stack([batch.tokens, batch.targets, batch.document_ids])


def global_rows(path, *, world_size, n_batches, state=None, **options):
    """The global rows of the next batches, put together from all the ranks."""
    loaders = [
        loader_of(path, rank=rank, world_size=world_size, **options) for rank in range(world_size)
    ]
    for loader in loaders:
        if state is not None:
            loader.load_state_dict(json.loads(json.dumps(state)))
    rows = [stack(loader.next()) for _ in range(n_batches) for loader in loaders]
    return torch.cat(rows, dim=1), [loader.state_dict() for loader in loaders]


@pytest.mark.parametrize("world_size", [2, 3, 4, 6, 12])
def test_any_world_size_sees_the_same_global_rows(pristine, world_size):
    expected, _ = global_rows(pristine, world_size=1, n_batches=9)
    found, states = global_rows(pristine, world_size=world_size, n_batches=9)
    assert torch.equal(found, expected)
    assert all(state == states[0] for state in states)


@given(
    n_before=st.integers(1, 25),
    sizes=st.lists(st.sampled_from([1, 2, 3, 4]), min_size=2, max_size=2),
    n_context=st.integers(1, 60),
    weight=st.floats(0.01, 100),
)
@settings(deadline=None, max_examples=40)
def test_resume_at_any_step_and_world_size_equals_never_having_stopped(
    pristine, n_before, sizes, n_context, weight
):
    options = {"n_context": n_context, "weights": {"de": weight, "en": 1.0}}
    whole, end = global_rows(pristine, world_size=1, n_batches=n_before + 2, **options)
    head, states = global_rows(pristine, world_size=sizes[0], n_batches=n_before, **options)
    tail, last = global_rows(
        pristine, world_size=sizes[1], n_batches=2, state=states[-1], **options
    )
    assert torch.equal(torch.cat([head, tail], dim=1), whole)
    assert last[0] == end[0]


def test_the_position_holds_for_another_batch_rows(pristine):
    whole, _ = global_rows(pristine, world_size=1, n_batches=4)
    head, (state,) = global_rows(pristine, world_size=1, n_batches=2)
    tail, _ = global_rows(pristine, world_size=2, n_batches=6, batch_rows=4, state=state)
    assert torch.equal(torch.cat([head, tail], dim=1), whole)


def test_an_epoch_teaches_every_pair_of_every_document_once(pristine):
    dataset = Dataset.open(pristine)
    loader = loader_of(pristine, batch_rows=1, n_context=1, weights={"de": 1.0, "en": 0.0})
    index = dataset.indexes["de"]
    n_pairs = int((index.n_ids - 1).sum())
    for _ in range(2):
        seen = Counter()
        for _ in range(n_pairs):
            [[segment]] = loader.next_rows()
            seen[segment.document, segment.first_pair] += 1
        assert set(seen.values()) == {1}
        assert len(seen) == n_pairs
    assert loader.epochs() == {"de": 2.0}


def test_targets_are_the_next_tokens_of_the_same_document(pristine):
    loader = loader_of(pristine)
    for _ in range(20):
        batch = loader.next()
        same = batch.document_ids[:, 1:] == batch.document_ids[:, :-1]
        assert torch.equal(batch.tokens[:, 1:][same], batch.targets[:, :-1][same])
        assert (batch.targets[:, :-1][~same] == TOKENIZER.eos_id).all()
        assert (batch.tokens[:, 1:][~same] == TOKENIZER.bos_id).all()
        assert (batch.targets != IGNORED).all()
        assert not (batch.tokens == TOKENIZER.eos_id).any()
        assert (batch.document_ids[:, 0] == 0).all()
        assert (batch.document_ids.diff(dim=1) >= 0).all()


def test_rows_read_back_as_the_documents_that_provenance_names(pristine, documents):
    dataset = Dataset.open(pristine)
    loader = loader_of(pristine)
    batches = [loader.next() for _ in range(5)]
    state = loader.state_dict()
    for row, segments in enumerate(loader.provenance(3)):
        ids = []
        for segment in segments:
            whole = dataset.read(segment.source, segment.document).tolist()
            ids += whole[segment.first_pair : segment.first_pair + segment.n_pairs]
        assert batches[3].tokens[row].tolist() == ids
    assert loader.state_dict() == state


@pytest.mark.parametrize("weights", [{}, {"de": 3.0, "en": 1.0}, {"de": 1.0, "en": 9.0}])
def test_sources_are_mixed_by_their_weights_in_tokens(pristine, weights):
    loader = loader_of(pristine, weights=weights)
    share = Counter()
    for row in (row for _ in range(200) for row in loader.next_rows()):
        for segment in row:
            share[segment.source] += segment.n_pairs
    expected = weights["de"] / sum(weights.values()) if weights else 0.5
    assert share["de"] / sum(share.values()) == pytest.approx(expected, abs=0.02)


def test_another_seed_gives_another_order(pristine):
    one, _ = global_rows(pristine, world_size=1, n_batches=2)
    other, _ = global_rows(pristine, world_size=1, n_batches=2, seed=4)
    assert not torch.equal(one, other)


def test_a_rank_reads_only_its_own_rows(pristine, monkeypatch):
    loader = loader_of(pristine, rank=1, world_size=3)
    rows = loader_of(pristine).next_rows()[4:8]
    read = []
    whole = loader.dataset.read
    monkeypatch.setattr(loader.dataset, "read", lambda *key: read.append(key) or whole(*key))
    loader.next()
    assert set(read) == {(segment.source, segment.document) for row in rows for segment in row}
    assert len(read) == len(set(read))


def test_resume_reads_no_data(pristine, monkeypatch):
    loader = loader_of(pristine)
    for _ in range(30):
        loader.next()
    resumed = loader_of(pristine)
    monkeypatch.setattr(resumed.dataset, "read", None)
    resumed.load_state_dict(loader.state_dict())
    assert resumed.next_rows() == loader.next_rows()


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"seed": 4}, "seed"),
        ({"n_context": 38}, "data.n_context"),
        ({"weights": {"de": 2.0, "en": 1.0}}, "data.weights"),
    ],
)
def test_a_position_in_other_data_is_refused_by_what_differs(pristine, changed, name):
    state = loader_of(pristine).state_dict()
    other = loader_of(pristine, **changed)
    before = other.state_dict()
    with pytest.raises(DataError, match=rf"^{name}: the checkpoint's position is in other data"):
        other.load_state_dict(state)
    assert other.state_dict() == before


def test_a_position_in_another_dataset_is_refused(pristine, tmp_path, documents):
    make_shards(documents[:-1], TOKENIZER, tmp_path / "other", validation_fraction=0.2)
    state = loader_of(pristine).state_dict()
    with pytest.raises(DataError, match=r"^data.path: the checkpoint's position is in other data"):
        loader_of(tmp_path / "other").load_state_dict(state)


def test_a_dataset_moved_elsewhere_is_the_same_dataset(pristine, dataset_path):
    here, moved = loader_of(pristine), loader_of(dataset_path)
    here.next()
    moved.load_state_dict(here.state_dict())
    assert moved.state_dict() == here.state_dict()
    assert torch.equal(moved.next().tokens, here.next().tokens)


def test_batch_rows_that_the_ranks_cannot_share_are_refused(pristine):
    with pytest.raises(ValueError, match=r"training.batch_rows=12: give a multiple of the 5 ranks"):
        loader_of(pristine, world_size=5)


def test_another_tokenizer_is_refused_naming_both(pristine, monkeypatch):
    mine = TOKENIZER.fingerprint[:16]
    monkeypatch.setattr(ByteTokenizer, "fingerprint", "f" * 64)
    with pytest.raises(DataError, match=rf"the tokenizer {mine}, but this run's .* is {'f' * 16};"):
        loader_of(pristine)


def test_weights_are_checked_against_the_dataset(pristine):
    with pytest.raises(DataError, match="did you mean 'en'"):
        loader_of(pristine, weights={"de": 1.0, "enn": 1.0})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_context": 0}, "data.n_context=0"),
        ({"weights": {"de": -1.0}}, "data.weights.de=-1.0"),
        ({"weights": {"de": float("nan")}}, "data.weights.de=nan"),
        ({"weights": {"de": 0.0}}, "data.weights: all are 0"),
        ({"validation_bytes": 0}, "data.validation_bytes=0"),
    ],
)
def test_config_refuses_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(path="x", **fields)
