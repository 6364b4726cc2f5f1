import json

import pytest

from data_tools.make_shards import make_shards
from data_tools.options import run_program
from data_tools.stats import StatsOptions, collect_stats, run
from helix.tokenizer import ByteTokenizer
from tests.data.conftest import synthetic_documents


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("stats") / "data"
    make_shards(synthetic_documents(), ByteTokenizer(), path, validation_fraction=0.2)
    return path


def test_the_figures_add_up_to_the_documents(path):
    found = collect_stats(path, tokenizer=ByteTokenizer())
    documents = synthetic_documents()
    assert sum(stats.n_documents for stats in found) == len(documents)
    assert sum(stats.n_bytes for stats in found) == sum(len(d.text.encode()) for d in documents)
    for stats in found:
        assert sum(stats.histogram) == stats.n_documents
        assert stats.tokens_per_byte == 1  # the tokens are bytes
        assert stats.lengths["shortest"] <= stats.lengths["median"] <= stats.lengths["longest"]
        assert (
            2 ** (len(stats.histogram) - 1) <= stats.lengths["longest"] < 2 ** len(stats.histogram)
        )
    for split in ("train", "validation"):
        shares = [stats.share for stats in found if stats.split == split]
        assert sum(shares) == pytest.approx(1)


def test_words_are_what_white_space_parts(path):
    english = [d for d in synthetic_documents() if d.source == "en"]
    n_bytes = sum(len(document.text.encode()) for document in english)
    n_words = sum(len(document.text.split()) for document in english)
    found = {(s.split, s.source): s for s in collect_stats(path, tokenizer=ByteTokenizer())}
    rates = [found[split, "en"].tokens_per_100_words for split in ("train", "validation")]
    assert min(rates) <= 100 * n_bytes / n_words <= max(rates)


def test_people_get_a_table_and_machines_json(path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run(StatsOptions(path=str(path)))
    printed = capsys.readouterr().out
    assert "licences: CC0-1.0" in printed
    assert "train, de:" in printed
    run(StatsOptions(path=str(path), json=True))
    rows = json.loads(capsys.readouterr().out)
    assert [(row["split"], row["source"]) for row in rows] == [
        ("train", "de"),
        ("train", "en"),
        ("validation", "de"),
        ("validation", "en"),
    ]
    assert rows[0]["tokens_per_100_words"] is None


def test_the_lengths_are_drawn_where_asked(path, tmp_path):
    run(StatsOptions(path=str(path), plot=str(tmp_path / "lengths.png")))
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["path=nowhere"], "data.path=nowhere: no dataset there"),
        (["path={path}", "plot=a.pdf"], "plot=a.pdf: give a file that ends in .png"),
        (["path={path}", "plot=no/a.png"], "plot=no/a.png: there is no folder no"),
        (["path={path}", "tokenizer=no.model"], "no.model"),
    ],
)
def test_bad_options_are_refused_in_one_line(path, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        run_program(run, StatsOptions, [word.format(path=path) for word in arguments])
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_another_tokenizer_is_refused(path, monkeypatch):
    monkeypatch.setattr(ByteTokenizer, "fingerprint", "f" * 64)
    with pytest.raises(ValueError, match="made with the tokenizer"):
        collect_stats(path, tokenizer=ByteTokenizer())
