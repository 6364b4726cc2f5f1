import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data_tools.decontaminate import DecontaminateOptions, decontaminate, run
from data_tools.documents import Document, read_documents, write_documents
from data_tools.overlap_report import refuse_overlap
from helix.data import DataError

TRAIN_WORDS = [f"t{number}" for number in range(30)] + ["ähnlich", "Übung"]
EVAL_WORDS = [f"e{number}" for number in range(30)] + ["straße", "größe", "naïve"]
few = settings(max_examples=25, deadline=None)


def documents_of(texts, *, source="a"):
    return [
        Document(id=str(i), text=text, source=source, language="de", licence="CC0-1.0")
        for i, text in enumerate(texts)
    ]


def write_items(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def decontaminated(folder, texts, rows, **options):
    write_documents(documents_of(texts), folder / "in.jsonl")
    write_items(folder / "eval.jsonl", rows)
    chosen = {"n_workers": 1, "replace": True} | options
    report = decontaminate(
        DecontaminateOptions(
            inputs=(str(folder / "in.jsonl"),),
            against=str(folder / "eval.jsonl"),
            out=str(folder / "out"),
            **chosen,
        )
    )
    found = sorted((folder / "out").glob("*.jsonl"))
    return report, [document.text for document in read_documents(found)] if found else []


def files_of(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("decontaminate")


def word_lists(words, least, most):
    return st.lists(st.sampled_from(words), min_size=least, max_size=most)


SPACES = st.sampled_from([" ", "  ", "\n", "\t", ", ", " - ", "... ", "; \u201e", "\u00a0"])
CASES = st.sampled_from([str.lower, str.upper, str.title, str.swapcase])


@few
@given(item=word_lists(EVAL_WORDS, 13, 30), before=word_lists(TRAIN_WORDS, 0, 40), data=st.data())
def test_a_planted_run_is_found_at_any_place_in_any_case_and_spacing(folder, item, before, data):
    at = data.draw(st.integers(0, len(item) - 13))
    planted = [data.draw(CASES)(word) for word in item[at : at + 13]]
    after = data.draw(word_lists(TRAIN_WORDS, 0, 40))
    text = "".join(word + data.draw(SPACES) for word in [*before, *planted, *after])
    clean = " ".join(TRAIN_WORDS)
    report, kept = decontaminated(folder, [clean, text], [{"question": " ".join(item)}])
    assert kept == [clean]
    assert report.evaluations[0].n_found == 1
    assert report.found[0].samples[0]["id"] == "1"


@few
@given(
    texts=st.lists(word_lists(TRAIN_WORDS, 1, 60), min_size=1, max_size=5),
    item=word_lists(EVAL_WORDS, 8, 40),
)
def test_disjoint_vocabularies_are_never_flagged(folder, texts, item):
    lines = [" ".join(words) for words in texts]
    report, kept = decontaminated(folder, lines, [{"text": " ".join(item)}])
    assert kept == lines
    assert report.found == ()


@few
@given(item=word_lists(EVAL_WORDS, 13, 20))
def test_twelve_words_of_a_longer_item_are_no_overlap(folder, item):
    text = "x " + " ".join(item[:12]) + " y"
    runs = {tuple(item[i : i + 13]) for i in range(len(item) - 12)}
    words = text.split()
    assume(not any(tuple(words[i : i + 13]) in runs for i in range(len(words) - 12)))
    _, kept = decontaminated(folder, [text], [{"text": " ".join(item)}])
    assert kept == [text]


@pytest.mark.parametrize("n_words", range(8, 13))
def test_an_item_of_8_to_12_words_is_found_whole_only(folder, n_words):
    item = EVAL_WORDS[:n_words]
    whole, part = "t1 " + " ".join(item) + " t2", " ".join(item[1:])
    _, kept = decontaminated(folder, [whole, part], [{"text": " ".join(item)}])
    assert kept == [part]


def test_an_item_of_fewer_words_is_reported_as_not_checkable(folder):
    rows = [{"id": 7, "text": "e1 e2 e3"}, {"text": " ".join(EVAL_WORDS)}]
    report, kept = decontaminated(folder, ["e1 e2 e3"], rows)
    assert kept == ["e1 e2 e3"]
    assert report.evaluations[0].n_uncheckable == 1
    assert report.evaluations[0].uncheckable == ("7",)


def test_short_strings_of_an_item_are_looked_for_together(folder):
    row = {"question": "e1 e2 e3 e4 e5", "choices": ["e6 e7", "e8"]}
    text = "t1 E1 e2 e3 e4 e5? e6 e7; e8."
    report, kept = decontaminated(folder, [text, "t1"], [row])
    assert kept == ["t1"]
    assert report.evaluations[0].n_uncheckable == 0


def test_what_only_describes_an_item_is_not_looked_for(folder):
    licence = " ".join(TRAIN_WORDS)
    rows = [{"licence": licence, "text": " ".join(EVAL_WORDS)}]
    assert decontaminated(folder, [licence], rows)[1] == [licence]
    assert decontaminated(folder, [licence, "x"], rows, fields="licence")[1] == ["x"]


def test_the_number_of_workers_and_a_second_run_do_not_change_a_byte(folder, monkeypatch):
    monkeypatch.setattr("data_tools.batches.BATCH_BYTES", 100)
    texts = [" ".join([f"t{i}", *EVAL_WORDS[i % 20 :]]) for i in range(40)]
    rows = [{"text": " ".join(EVAL_WORDS[:20])}]
    decontaminated(folder, texts, rows)
    alone = files_of(folder / "out")
    (folder / ".out.0123abcd.partial").mkdir()
    (folder / ".out.0123abcd.partial" / "left.jsonl").write_text("half a li")
    decontaminated(folder, texts, rows, n_workers=2)
    assert files_of(folder / "out") == alone


def test_what_was_found_clean_passes_and_everything_else_is_refused(folder):
    dirty = " ".join(EVAL_WORDS)
    decontaminated(folder, ["sauber", "rein", dirty], [{"text": dirty}])
    out = folder / "out"
    clean = documents_of(["rein", "sauber"])
    assert list(refuse_overlap(out, clean, against=[folder / "eval.jsonl"])) == clean
    with pytest.raises(DataError, match="overlaps an evaluation set"):
        list(refuse_overlap(out / "report.json", documents_of([dirty])))
    with pytest.raises(DataError, match="was not checked"):
        list(refuse_overlap(out, documents_of(["neu"])))


def test_a_changed_evaluation_file_or_report_is_refused(folder):
    decontaminated(folder, ["sauber"], [{"text": " ".join(EVAL_WORDS)}])
    write_items(folder / "eval.jsonl", [{"text": " ".join(EVAL_WORDS[1:])}])
    with pytest.raises(DataError, match="does not cover"):
        list(refuse_overlap(folder / "out", [], against=[folder / "eval.jsonl"]))
    (folder / "out/clean.hashes").write_bytes(b"0" * 16)
    with pytest.raises(DataError, match="changed since"):
        list(refuse_overlap(folder / "out", []))
    (folder / "out/report.json").write_text("{}")
    with pytest.raises(DataError, match="no report"):
        list(refuse_overlap(folder / "out", []))


@given(texts=st.sets(st.text(min_size=1), min_size=1, max_size=30), data=st.data())
@few
def test_the_report_knows_exactly_the_texts_that_were_checked(folder, texts, data):
    texts = [text for text in texts if text.strip() and text.isprintable()]
    assume(texts)
    checked = data.draw(st.lists(st.sampled_from(texts), min_size=1, unique=True))
    decontaminated(folder, checked, [{"text": " ".join(EVAL_WORDS)}])
    for document in documents_of(texts):
        if document.text in checked:
            assert list(refuse_overlap(folder / "out", [document])) == [document]
        else:
            with pytest.raises(DataError, match="was not checked"):
                list(refuse_overlap(folder / "out", [document]))


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "line 1: not JSON"), ("[1]", "line 1: not an object"), ('{"a": "x"}', "enough words")],
)
def test_a_bad_evaluation_file_is_named_with_its_line(tmp_path, content, message):
    (tmp_path / "eval.jsonl").write_text(content)
    write_documents(documents_of(["x"]), tmp_path / "in.jsonl")
    options = DecontaminateOptions(
        inputs=(str(tmp_path / "in.jsonl"),),
        against=str(tmp_path / "eval.jsonl"),
        out=str(tmp_path / "out"),
    )
    with pytest.raises(DataError, match=message):
        decontaminate(options)
    assert not (tmp_path / "out").exists()


def test_json_is_for_machines(folder, capsys):
    decontaminated(folder, ["sauber", " ".join(EVAL_WORDS)], [{"text": " ".join(EVAL_WORDS)}])
    options = DecontaminateOptions(
        inputs=(str(folder / "in.jsonl"),),
        against=str(folder / "eval.jsonl"),
        out=str(folder / "json"),
        json=True,
    )
    run(options)
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((folder / "json/report.json").read_text())
    assert printed["sources"][0]["n_removed_documents"] == 1


def test_options_out_of_range_are_named():
    with pytest.raises(ValueError, match="against="):
        DecontaminateOptions(inputs=("a",), against=" ,", out="o")
    with pytest.raises(ValueError, match="ngram_words=0"):
        DecontaminateOptions(inputs=("a",), against="b", out="o", ngram_words=0)
