import pytest
import torch

from data_tools.make_shards import make_shards
from helix.batch import IGNORED
from helix.data import DataConfig, DataError, Dataset, build_validation
from helix.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()


def sources_of(path, *, rank=0, world_size=1, n_rows=4, **config):
    config = DataConfig(**{"path": str(path), "n_context": 50} | config)
    return build_validation(config, TOKENIZER, rank=rank, world_size=world_size, n_rows=n_rows)


def test_every_held_out_document_is_read_once_in_index_order(pristine):
    dataset = Dataset.open(pristine, split="validation")
    for source in sources_of(pristine):
        batches = list(source.batches())
        targets = torch.cat([batch.targets.flatten() for batch in batches])
        expected = [
            token
            for document in range(len(dataset.indexes[source.name]))
            for token in dataset.read(source.name, document)[1:].tolist()
        ]
        assert targets[targets != IGNORED].tolist() == expected
        assert source.n_documents == len(dataset.indexes[source.name])


def test_padding_is_a_document_of_its_own_with_nothing_to_learn(pristine):
    for source in sources_of(pristine, n_rows=3):
        *_, last = source.batches()
        padded = last.targets == IGNORED
        assert padded.any()
        assert (last.tokens[padded] == TOKENIZER.eos_id).all()
        for row in range(last.n_rows):
            ids = set(last.document_ids[row][padded[row]].tolist())
            assert len(ids) <= 1
            assert not ids & set(last.document_ids[row][~padded[row]].tolist())


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_all_ranks_together_read_the_same_rows_in_as_many_batches(pristine, world_size):
    expected = [list(source.batches()) for source in sources_of(pristine)]
    ranks = [
        [list(source.batches()) for source in sources_of(pristine, rank=r, world_size=world_size)]
        for r in range(world_size)
    ]
    for number, batches in enumerate(expected):
        assert {len(rank[number]) for rank in ranks} == {len(batches)}
        for step, batch in enumerate(batches):
            for name in ("tokens", "targets", "document_ids"):
                parts = [getattr(rank[number][step], name) for rank in ranks]
                assert torch.equal(torch.cat(parts), getattr(batch, name))


def test_two_passes_are_equal(pristine):
    for source in sources_of(pristine):
        for first, second in zip(source.batches(), source.batches(), strict=True):
            assert torch.equal(first.targets, second.targets)


def test_texts_are_the_very_bytes_that_bits_per_byte_divides_by(pristine, documents):
    written = {document.text for document in documents}
    for source in sources_of(pristine):
        texts = list(source.texts())
        assert set(texts) <= written
        assert sum(len(text.encode()) for text in texts) == source.n_bytes


def test_a_byte_limit_takes_whole_documents_within_it(pristine):
    everything = {source.name: source for source in sources_of(pristine)}
    for source in sources_of(pristine, validation_bytes=250):
        assert 0 < source.n_bytes <= 250
        assert set(source.documents) < set(everything[source.name].documents)
        assert list(source.documents) == sorted(source.documents)
        assert source.fingerprint != everything[source.name].fingerprint
    for source in sources_of(pristine, validation_bytes=1):
        assert source.n_documents == 1
    for source in sources_of(pristine, validation_bytes=10**9):
        assert source.fingerprint == everything[source.name].fingerprint


def test_nothing_held_out_is_refused(tmp_path, documents):
    make_shards(documents, TOKENIZER, tmp_path / "all", validation_fraction=0)
    with pytest.raises(DataError, match="nothing is held out for validation"):
        sources_of(tmp_path / "all")
