import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools import clean
from data_tools.clean import CleanOptions, pipeline
from data_tools.clean.report import Sample, SampleKeeper
from data_tools.documents import Document, read_documents, write_documents
from data_tools.options import describe, read_options
from helix.data import DataError
from tests.data_tools.test_clean_rules import ENGLISH, GERMAN


def document(id, text, source, language):
    return Document(id=id, text=text, source=source, language=language, licence="CC0-1.0", pair=id)


@pytest.fixture
def source_file(tmp_path):
    documents = [
        document(f"{n}", f"{text} {n}", f"book-{language}", language)
        for n in range(30)
        for language, text in (("de", GERMAN), ("en", ENGLISH))
    ]
    short = [document(f"short{n}", f"Zu kurz {n}", "book-de", "de") for n in range(9)]
    path = tmp_path / "in" / "all.jsonl"
    write_documents(documents + short, path)
    return path


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def options_for(source_file, tmp_path, out="out", **changes):
    return CleanOptions(inputs=(str(source_file),), out=str(tmp_path / out), **changes)


def test_what_is_kept_lies_by_source_and_the_rest_is_counted(source_file, tmp_path, capsys):
    report = clean.run(options_for(source_file, tmp_path))
    kept = read_documents([tmp_path / "out"])
    assert {(one.source, one.language) for one in kept} == {("book-de", "de"), ("book-en", "en")}
    assert len(kept) == report.total().kept.documents == 60
    assert kept[0] == read_documents([source_file])[0]
    assert report.sources["book-de"].dropped["few_words"].documents == 9
    printed = capsys.readouterr().out
    assert "few_words" in printed
    assert "100.0%" in printed
    samples = json.loads((tmp_path / "out/dropped.json").read_text())
    assert [sample["reason"] for sample in samples] == ["few_words"] * 5


def test_every_document_is_kept_or_counted_once(source_file, tmp_path):
    report = clean.run(options_for(source_file, tmp_path))
    for source in report.sources.values():
        dropped = source.dropped.values()
        assert source.read.documents == source.kept.documents + sum(n.documents for n in dropped)
        assert source.read.bytes == source.kept.bytes + sum(n.bytes for n in dropped)


def test_the_same_text_gives_the_same_bytes_in_any_number_of_processes(
    source_file, tmp_path, monkeypatch
):
    monkeypatch.setattr("data_tools.batches.BATCH_BYTES", 2000)
    clean.run(options_for(source_file, tmp_path, "one", n_processes=1))
    clean.run(options_for(source_file, tmp_path, "two", n_processes=2))
    clean.run(options_for(source_file, tmp_path, "two", n_processes=1))
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_a_run_that_stops_leaves_what_was_there(source_file, tmp_path, monkeypatch):
    clean.run(options_for(source_file, tmp_path))
    before = files_of(tmp_path / "out")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.Writer, "finish", fail)
    with pytest.raises(KeyboardInterrupt):
        clean.run(options_for(source_file, tmp_path, rules="all"))
    assert files_of(tmp_path / "out") == before


def test_two_runs_at_once_lose_no_document(source_file, tmp_path, monkeypatch):
    finish = pipeline.Writer.finish

    def finish_second(writer, options):
        monkeypatch.setattr(pipeline.Writer, "finish", finish)
        clean.run(options_for(source_file, tmp_path, languages="en"))
        return finish(writer, options)

    monkeypatch.setattr(pipeline.Writer, "finish", finish_second)
    report = clean.run(options_for(source_file, tmp_path))
    assert len(read_documents([tmp_path / "out"])) == report.total().kept.documents == 60
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in", "out"]


def test_a_new_run_replaces_what_an_earlier_one_wrote(source_file, tmp_path):
    clean.run(options_for(source_file, tmp_path))
    clean.run(options_for(source_file, tmp_path, languages="en"))
    names = {"book-en.jsonl", "dropped.json", "report.json"}
    assert files_of(tmp_path / "out").keys() == names


def test_files_of_another_origin_are_not_mixed_with(source_file, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("own.txt", "notes.md"):
        (tmp_path / "out" / name).write_text("mine")
        with pytest.raises(DataError, match=rf"holds {name}, which `clean` did not write"):
            clean.run(options_for(source_file, tmp_path))
        (tmp_path / "out" / name).unlink()
    with pytest.raises(DataError, match="lies in out="):
        clean.run(options_for(source_file, tmp_path, "in"))
    assert read_documents([source_file])


def test_two_sources_never_share_a_file(tmp_path):
    path = tmp_path / "a.jsonl"
    write_documents([document("1", ENGLISH, name, "en") for name in ("x/y", "x y")], path)
    with pytest.raises(DataError, match=r"'x y' and 'x/y' would both be written to x-y.jsonl"):
        clean.run(options_for(path, tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


def test_json_is_for_machines(source_file, tmp_path, capsys):
    clean.run(options_for(source_file, tmp_path, json=True))
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out/report.json").read_text())
    assert printed["total"]["dropped"] == {"few_words": {"bytes": 81, "documents": 9}}


def test_options_are_read_from_words():
    words = ["a.txt", "out=o", "languages=de,en", "limits.min_words=50", "pii=scrub", "rules=form"]
    options = read_options(CleanOptions, words)
    assert options.settings().languages == ("de", "en")
    assert options.settings().limits.min_words == 50
    assert options.settings().is_scrubbed
    assert "out=(required)" in describe(CleanOptions)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("languages=deutsch", "languages=deutsch: 'deutsch' is no ISO 639-1 code"),
        ("rules=gofer", "rules=gofer: no such rule; allowed: form"),
        ("limits.min_words=-3", "limits.min_words=-3: give 0 or more"),
        ("n_samples=-1", "n_samples=-1: give 0 or more"),
        ("n_processes=-1", "n_processes=-1: give 0"),
        ("html=no", "html: "),
    ],
)
def test_a_wrong_option_is_refused_by_name(word, message):
    with pytest.raises(ValueError, match=message):
        read_options(CleanOptions, ["a.txt", "out=o", word])


@given(numbers=st.permutations(range(40)), n_samples=st.integers(0, 9))
def test_samples_do_not_depend_on_the_order_of_documents(numbers, n_samples):
    keeper, other = SampleKeeper(n_samples), SampleKeeper(n_samples)
    for kept, order in ((keeper, range(40)), (other, numbers)):
        for n in order:
            kept.offer(Sample(source="a", reason="b", id=str(n), language="", text=f"text {n}"))
    assert keeper.samples() == other.samples()
    assert len(keeper.samples()) == n_samples


def test_a_worker_loads_no_torch():
    code = (
        "import data_tools.clean, sys; print({'torch', 'py3langid', 'ftfy'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
