import pytest

from data_tools.make_shards import make_shards
from helix.data import DataConfig, DataError, Dataset, build_validation
from helix.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()


def sources_of(path, **config):
    return build_validation(DataConfig(**{"path": str(path), "n_context": 50} | config), TOKENIZER)


def test_every_held_out_document_is_read_whole_once_in_index_order(pristine):
    dataset = Dataset.open(pristine, split="validation")
    for source in sources_of(pristine):
        rows = [row.tolist() for row in source.rows()]
        n_documents = len(dataset.indexes[source.name])
        assert rows == [dataset.read(source.name, n).tolist() for n in range(n_documents)]
        assert source.n_documents == n_documents


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
