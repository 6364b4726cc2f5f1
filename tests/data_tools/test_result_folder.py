import json
import resource

import pytest

from data_tools.documents import Document, read_documents, write_documents
from data_tools.make_shards import make_shards
from data_tools.options import main
from data_tools.result_folder import SourceFiles, new_folder
from helix.data import DataError
from helix.tokenizer import ByteTokenizer


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def write_result(out, content, *, replace=False):
    with new_folder(out, replace=replace) as folder:
        (folder / "report.json").write_text(content)


def documents_of(n_sources, *, n_documents=3):
    return [
        Document(id=str(n), text=f"{n} of {i}", source=f"s{i}", language="en", licence="CC0-1.0")
        for n in range(n_documents)
        for i in range(n_sources)
    ]


@pytest.fixture
def few_open_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("beside", ["out.old", "out.partial", ".out.partial"])
def test_what_lies_beside_a_result_stays(tmp_path, beside):
    (tmp_path / beside).mkdir()
    (tmp_path / beside / "mine").write_text("a backup")
    write_result(tmp_path / "out", "1")
    write_result(tmp_path / "out", "2", replace=True)
    assert (tmp_path / beside / "mine").read_text() == "a backup"
    assert names(tmp_path) == sorted([beside, "out"])


def test_a_result_has_the_mode_of_any_folder_and_may_lie_behind_a_link(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "out")
    for replace in (False, True):
        write_result(tmp_path / "out", "1", replace=replace)
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert names(tmp_path / "disk") == ["out"]


def test_a_run_that_fails_leaves_nothing_and_one_that_was_killed_is_named(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out", replace=False):
        raise KeyboardInterrupt
    assert names(tmp_path) == []
    left = tmp_path / ".out.0123abcd.partial"
    left.mkdir()
    (tmp_path / ".out.b.0123abcd.partial").mkdir()  # of another result, out.b
    write_result(tmp_path / "out", "1")
    assert f"helix: {left}: another run is at it, or left it" in capsys.readouterr().err
    assert left.exists()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_result_is_not_replaced(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
    mine = out / "thesis.txt" if kind == "folder" else out
    mine.write_text("years of work")
    with pytest.raises(DataError, match=r"holds no manifest.json or report.json"):
        write_result(out, "1", replace=True)
    assert mine.read_text() == "years of work"
    assert names(tmp_path) == ["out"]


def test_of_two_runs_that_write_one_folder_neither_loses_what_it_made(tmp_path):
    out = tmp_path / "out"

    def write_while_another_does(*, replace):
        with new_folder(out, replace=replace) as folder:
            write_result(out, "another", replace=replace)
            (folder / "report.json").write_text("own")

    with pytest.raises(DataError, match=r"is there already; .*what was made lies in") as refused:
        write_while_another_does(replace=False)
    assert (out / "report.json").read_text() == "another"
    [kept] = tmp_path.glob(".out.*")
    assert str(kept) in str(refused.value)
    assert (kept / "report.json").read_text() == "own"
    write_while_another_does(replace=True)
    assert (out / "report.json").read_text() == "own"


@pytest.mark.parametrize("out", [".", ".."])
def test_the_folder_that_a_command_runs_in_is_not_replaced(tmp_path, monkeypatch, out):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for mark in (tmp_path, tmp_path / "here"):
        (mark / "manifest.json").write_text("{}")
    text = tmp_path.parent / f"{tmp_path.name}.txt"
    text.write_text("Some text.\n\n" * 900)
    words = [str(text), f"out={out}", "tokenizer=byte", "unchecked=true", "replace=true"]
    with pytest.raises(DataError, match="the command runs in it; give a folder within it"):
        main(["shard", *words])


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("clean", []),
        ("value", ["replace=true"]),
        ("deduplicate", ["near=false", "replace=true"]),
        ("decontaminate", ["against={}/items.jsonl", "replace=true"]),
        ("shard", ["tokenizer=byte", "unchecked=true", "replace=true"]),
    ],
)
def test_no_verb_replaces_the_text_that_it_reads(tmp_path, verb, words):
    out = tmp_path / "out"
    write_documents(documents_of(1), out / "mine.jsonl")
    (out / "report.json").write_text("{}")
    (tmp_path / "items.jsonl").write_text(json.dumps({"text": "one two three four five six " * 4}))
    words = [word.format(tmp_path) for word in words]
    with pytest.raises(DataError, match=r"mine.jsonl: lies in out="):
        main([verb, str(out / "mine.jsonl"), f"out={out}", *words])
    assert len(read_documents([out / "mine.jsonl"])) == 3


@pytest.mark.usefixtures("few_open_files")
def test_there_may_be_more_sources_than_open_files(tmp_path):
    documents = documents_of(150)
    with SourceFiles(tmp_path) as files:
        for document in documents:
            files.write(document)
    written = read_documents([tmp_path])
    assert sorted(map(str, written)) == sorted(map(str, documents))
    dataset = make_shards(documents, ByteTokenizer(), tmp_path / "shards", validation_fraction=0.3)
    assert len(dataset.sources) == 150
    dataset.verify()
