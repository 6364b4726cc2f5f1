import json

import numpy as np
import pytest

from data_tools import read_benchmark as reading
from data_tools.benchmark import BenchmarkOptions, run
from helix.tokenizer import ByteTokenizer
from tests.data.conftest import synthetic_documents


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    return reading.write_corpus(synthetic_documents(), ByteTokenizer(), folder)


def test_every_way_of_reading_reads_the_same_ids(corpus):
    n_ids = sum(len(document.text.encode()) + 2 for document in synthetic_documents())
    assert corpus.n_ids == n_ids
    for read in (reading.read_documents, reading.read_samples, reading.read_single):
        assert read(corpus) == n_ids
    ours = sorted(corpus.dataset.read(*place).tolist() for place in reading.shuffled(corpus))
    for documents in (reading.cut_samples(corpus), reading.single_documents(corpus)):
        assert sorted(ids.tolist() for ids in documents) == ours


def test_what_is_resumed_is_where_it_should_be(corpus):
    n_before = int(reading.RESUME_AT * 85)
    whole = list(reading.cut_samples(corpus))
    assert np.array_equal(reading.skip_to(reading.cut_samples(corpus), corpus), whole[n_before])


def test_the_figures_are_printed_and_kept(tmp_path, capsys):
    text = tmp_path / "a.de.txt"
    text.write_text("Ein Satz steht hier und noch einer.\n\n" * 500, encoding="utf-8")
    out = tmp_path / "figures.json"
    run(BenchmarkOptions(inputs=(str(text),), n_repeats=1, megabytes=0.01, out=str(out)))
    figures = json.loads(out.read_text())
    assert len(figures["reading"]) == 4
    assert all(own["megabytes_per_s"] > 0 for own in figures["reading"])
    assert bool(figures["cleaning"]) != bool(figures["left_out"])
    assert "ours: shuffled, checked, packed rows" in capsys.readouterr().out
