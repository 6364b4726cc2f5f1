import json
import random
import subprocess
import sys

import pytest

from data_tools import value
from data_tools.documents import Document, read_documents, write_documents
from data_tools.options import read_options
from data_tools.value import ValueOptions, pipeline
from helix.data import DataError

PROSE = (
    "The river rises in the mountains because the snow melts there, and so it carries more water.",
    "When the treaty was signed, the king gave the province back, which ended the long war.",
    "A cell divides after it has copied its genes, for each half needs all of them.",
)
GLOSSES = ("hill: a small mountain", "king: a male ruler", "cell: a small room", "war: a fight")


def make_documents(n=40):
    draw = random.Random(0)
    documents = []
    for number in range(n):
        for domain, lines, joint in (("handbook", PROSE, " "), ("dictionary", GLOSSES, "\n")):
            text = joint.join(f"{draw.choice(lines)} {draw.randrange(99)}" for _ in range(9))
            documents.append(
                Document(
                    id=f"{domain}/{number}",
                    text=text,
                    source=f"{domain}-{number % 3}",
                    language="en",
                    licence="CC0-1.0",
                    domain=domain,
                    pair=f"{domain}/{number}",
                )
            )
    return documents


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "in" / "all.jsonl"
    write_documents(make_documents(), path)
    return path


@pytest.fixture
def without_pictures(monkeypatch):
    for name in ("draw_curve", "draw_profile"):  # half a second each; other tests draw them
        monkeypatch.setattr(pipeline, name, lambda *_: None)


def options_for(corpus, tmp_path, out="out", **changes):
    return ValueOptions(inputs=(str(corpus),), out=str(tmp_path / out), **changes)


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_better_half_is_kept_and_the_rest_is_told(corpus, tmp_path, capsys):
    report = value.run(options_for(corpus, tmp_path, keep=0.5))
    out = tmp_path / "out"
    kept, dropped = read_documents([out]), rows_of(out / "dropped.ndjson")
    assert {document.domain for document in kept} == {"handbook"}
    assert len(kept) + len(dropped) == len(rows_of(out / "scores.ndjson")) == 80
    assert {row["reason"] for row in dropped} == {"low_value"}
    assert report.total().kept.bytes >= 0.5 * report.total().read.bytes
    assert report.training["held_out_documents"]["r2"] > 0.9
    printed = capsys.readouterr().out
    assert "whole sources left out" in printed
    assert "knowledge profile" in printed
    assert "not whether a text is worth knowing" in printed
    names = {"curve.png", "profile.png", "report.json", "samples.json", "scorer.json"}
    assert names <= files_of(out).keys()
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("without_pictures")
def test_json_is_for_machines(corpus, tmp_path, capsys):
    value.run(options_for(corpus, tmp_path, json=True))
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out/report.json").read_text())
    assert printed["total"]["read"]["documents"] == 80
    assert printed["training"]["n_by_domain"] == {"dictionary": 40, "handbook": 40}


@pytest.mark.usefixtures("without_pictures")
def test_every_document_is_kept_or_dropped_and_has_one_subject(corpus, tmp_path):
    report = pipeline.value(options_for(corpus, tmp_path, keep=0.7))
    for source in report.sources.values():
        n_dropped = sum(count.bytes for count in source.dropped.values())
        assert source.read.bytes == source.kept.bytes + n_dropped
        assert source.read.bytes == sum(count.bytes for count in source.subjects.values())
        assert source.kept.bytes == sum(count.bytes for count in source.kept_subjects.values())


def test_the_same_text_gives_the_same_bytes_in_any_number_of_processes(corpus, tmp_path):
    pipeline.value(options_for(corpus, tmp_path, "one", n_workers=1))
    pipeline.value(options_for(corpus, tmp_path, "two", n_workers=2))
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


@pytest.mark.usefixtures("without_pictures")
def test_a_saved_scorer_gives_the_same_documents(corpus, tmp_path):
    pipeline.value(options_for(corpus, tmp_path, "one"))
    saved = str(tmp_path / "one/scorer.json")
    pipeline.value(options_for(corpus, tmp_path, "two", scorer=saved))
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


@pytest.mark.usefixtures("without_pictures")
def test_a_share_of_each_source_is_kept_if_asked(corpus, tmp_path):
    report = pipeline.value(options_for(corpus, tmp_path, keep=0.6, by_source=True))
    for source in report.sources.values():
        assert 0.6 <= source.kept.bytes / source.read.bytes < 0.8  # a document is a tenth
    assert len({source.threshold for source in report.sources.values()}) > 1


@pytest.mark.usefixtures("without_pictures")
def test_a_threshold_decides_by_itself(corpus, tmp_path):
    pipeline.value(options_for(corpus, tmp_path, threshold=3.0))
    for row in rows_of(tmp_path / "out/scores.ndjson"):
        assert row["is_kept"] == (row["score"] >= 3.0)
    nothing = pipeline.value(options_for(corpus, tmp_path, "none", threshold=99.0))
    assert nothing.total().kept.documents == 0


@pytest.mark.usefixtures("without_pictures")
def test_labels_of_a_person_decide_what_is_better(corpus, tmp_path, capsys):
    rows = [
        {"id": document.id, "source": document.source, "score": 100 * (document.domain[0] == "d")}
        for document in make_documents()[:60]
    ]
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = value.run(options_for(corpus, tmp_path, labels=str(labels), threshold=50.0))
    assert {document.domain for document in read_documents([tmp_path / "out"])} == {"dictionary"}
    assert report.training["n_labelled"] == 60
    assert "not whether a text is worth knowing" not in capsys.readouterr().out


@pytest.mark.usefixtures("without_pictures")
def test_samples_lie_on_both_sides_of_the_threshold(corpus, tmp_path):
    report = pipeline.value(options_for(corpus, tmp_path, keep=0.7, n_samples=2))
    samples = json.loads((tmp_path / "out/samples.json").read_text())
    reasons = {sample["reason"] for sample in samples}
    assert reasons == {"dropped", "dropped_near_threshold", "kept_near_threshold"}
    for sample in samples:
        is_kept = sample["score"] >= report.sources[sample["source"]].threshold
        assert is_kept == (sample["reason"] == "kept_near_threshold")


def test_a_run_that_stops_leaves_what_was_there_and_can_be_run_again(corpus, tmp_path, monkeypatch):
    options = options_for(corpus, tmp_path, replace=True)
    pipeline.value(options)
    before = files_of(tmp_path / "out")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "draw_curve", stop)
        with pytest.raises(KeyboardInterrupt):
            pipeline.value(options)
    assert files_of(tmp_path / "out") == before
    pipeline.value(options)
    assert files_of(tmp_path / "out") == before
    assert not list(tmp_path.glob(".out.*"))


@pytest.mark.usefixtures("without_pictures")
def test_a_result_is_not_replaced_unasked(corpus, tmp_path):
    pipeline.value(options_for(corpus, tmp_path))
    with pytest.raises(DataError, match="is there already"):
        pipeline.value(options_for(corpus, tmp_path))


def test_inputs_that_change_meanwhile_are_noticed(corpus, tmp_path, monkeypatch):
    def change(*arguments):
        write_documents(make_documents(39), corpus)
        return steps(*arguments)

    steps = pipeline.choose_steps
    monkeypatch.setattr(pipeline, "choose_steps", change)
    with pytest.raises(DataError, match="changed while they were read"):
        pipeline.value(options_for(corpus, tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["keep=1.5"], r"keep=1.5: give a share above 0"),
        (["keep=0.5", "threshold=2"], r"threshold=2.0: decides alone"),
        (["labels=a.jsonl", "scorer=s.json"], r"scorer=s.json: is trained already"),
        (["penalty=0"], r"penalty=0.0: give more than 0"),
        (["n_folds=1"], r"n_folds=1: give at least 2"),
        (["n_examples=3"], r"n_examples=3: give at least 20"),
        (["n_workers=-1"], r"n_workers=-1: give at least 0"),
    ],
)
def test_a_wrong_option_is_refused_by_name(words, message):
    with pytest.raises(ValueError, match=message):
        read_options(ValueOptions, ["a.txt", "out=o", *words])


def test_a_worker_loads_nothing_heavy():
    code = (
        "import data_tools.value.judge, sys; "
        "print({'torch', 'sklearn', 'scipy', 'matplotlib'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
