import json
import shutil
import tarfile
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools import make_shards as maker
from data_tools import shard_writer
from data_tools.documents import Document
from data_tools.make_shards import make_shards
from data_tools.options import main
from data_tools.splits import split_documents
from helix.config import ConfigError
from helix.data import DataError, Dataset
from helix.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()


def documents_of(texts, *, source="de", language="de"):
    return [
        Document(id=str(i), text=text, source=source, language=language, licence="CC0-1.0")
        for i, text in enumerate(texts)
    ]


DOCUMENTS = documents_of([f"Text {number} " * (1 + number % 9) for number in range(80)])


def texts_of(parts, split):
    return [document.text for document in parts.get((split, "de"), [])]


def files_of(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


TEXTS = st.lists(st.text(st.sampled_from("abc"), min_size=1), min_size=2, unique=True)
FRACTIONS = st.floats(0, 1, exclude_max=True)


@given(texts=TEXTS, fraction=FRACTIONS, seed=st.integers(0, 2**32))
def test_every_text_is_in_exactly_one_split_and_neither_is_empty(texts, fraction, seed):
    parts = split_documents(documents_of(texts * 2), fraction=fraction, seed=seed)
    assert Counter(texts_of(parts, "train") + texts_of(parts, "validation")) == Counter(texts)
    assert texts_of(parts, "train")
    assert bool(texts_of(parts, "validation")) == (fraction > 0)


@given(data=st.data(), fraction=st.floats(0.2, 0.8))
def test_a_texts_split_depends_on_neither_its_place_nor_the_other_texts(data, fraction):
    texts = [f"text {number}" for number in range(60)]
    whole = split_documents(documents_of(texts), fraction=fraction, seed=0)
    some = data.draw(st.permutations(texts))[:30]
    part = split_documents(documents_of(some), fraction=fraction, seed=0)
    assert set(texts_of(part, "train")) <= set(texts_of(whole, "train"))
    assert set(texts_of(part, "validation")) <= set(texts_of(whole, "validation"))


def test_about_the_asked_share_is_held_out():
    texts = [f"text {number}" for number in range(4000)]
    parts = split_documents(documents_of(texts), fraction=0.1, seed=0)
    assert 330 < len(texts_of(parts, "validation")) < 470
    other = split_documents(documents_of(texts), fraction=0.1, seed=1)
    assert texts_of(other, "validation") != texts_of(parts, "validation")


def test_the_same_documents_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        make_shards(DOCUMENTS, TOKENIZER, tmp_path / name)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    with tarfile.open(tmp_path / "a" / "train" / "de-000000.tar") as tar:
        assert {(member.mtime, member.uname, member.uid) for member in tar} == {(0, "", 0)}


def test_the_manifest_counts_what_is_there(tmp_path):
    train = make_shards(DOCUMENTS, TOKENIZER, tmp_path / "a", validation_fraction=0.2)
    validation = Dataset.open(tmp_path / "a", split="validation")
    n_bytes = sum(len(document.text.encode()) for document in DOCUMENTS)
    sources = [train.sources["de"], validation.sources["de"]]
    assert sum(source.n_documents for source in sources) == 80
    assert sum(source.n_bytes for source in sources) == n_bytes
    assert sum(source.n_tokens for source in sources) == n_bytes + 2 * 80
    assert sources[0].licences == ("CC0-1.0",)


def test_members_are_large_and_shards_keep_to_their_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "SAMPLE_BYTES", 500)
    dataset = make_shards(DOCUMENTS, TOKENIZER, tmp_path / "a", shard_bytes=10_240)
    shards = dataset.sources["de"].shards
    assert len(shards) > 1
    assert all(shard.n_file_bytes <= 10_240 for shard in shards)
    dataset.verify()


def test_a_vocabulary_above_16_bits_is_stored_in_32(tmp_path, monkeypatch):
    monkeypatch.setattr(ByteTokenizer, "n_vocab", 200_000)
    monkeypatch.setattr(ByteTokenizer, "eos_id", 199_999)
    dataset = make_shards(DOCUMENTS, TOKENIZER, tmp_path / "a")
    assert dataset.manifest.id_dtype == "<u4"
    assert dataset.read("de", 0)[-1] == 199_999


@settings(max_examples=10, deadline=None)
@given(n_encoded=st.integers(0, 80))
def test_a_writer_killed_anywhere_leaves_no_dataset(tmp_path_factory, n_encoded):
    class Killed(ByteTokenizer):
        left = n_encoded

        def encode_many(self, texts):
            self.left -= len(texts)
            if self.left < 0:
                raise KeyboardInterrupt
            return super().encode_many(texts)

    path = tmp_path_factory.mktemp("killed") / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maker, "ENCODED_AT_ONCE", 5)
        if n_encoded < 80:
            with pytest.raises(KeyboardInterrupt):
                make_shards(DOCUMENTS, Killed(), path)
            with pytest.raises(DataError, match="no dataset there"):
                Dataset.open(path)
            assert list(path.parent.iterdir()) == []
    make_shards(DOCUMENTS, TOKENIZER, path).verify()
    assert [file.name for file in path.parent.iterdir()] == ["a"]


def test_long_documents_are_encoded_a_few_at_a_time(tmp_path, monkeypatch):
    batches = []

    class Noting(ByteTokenizer):
        def encode_many(self, texts):
            batches.append(texts)
            return super().encode_many(texts)

    monkeypatch.setattr("data_tools.batches.BATCH_BYTES", 200)
    dataset = make_shards(DOCUMENTS, Noting(), tmp_path / "a", validation_fraction=0)
    assert [text for batch in batches for text in batch] == [own.text for own in DOCUMENTS]
    assert all(sum(map(len, batch[:-1])) < 200 for batch in batches)
    whole = make_shards(DOCUMENTS, TOKENIZER, tmp_path / "b", validation_fraction=0)
    assert dataset.fingerprint == whole.fingerprint


def test_a_dataset_that_is_there_stays_unless_it_is_to_be_replaced(tmp_path):
    make_shards(DOCUMENTS, TOKENIZER, tmp_path / "a")
    before = files_of(tmp_path / "a")
    with pytest.raises(DataError, match=r"is there already; .* or replace=true"):
        make_shards(DOCUMENTS[:40], TOKENIZER, tmp_path / "a")
    assert files_of(tmp_path / "a") == before
    make_shards(DOCUMENTS[:40], TOKENIZER, tmp_path / "a", replace=True)
    assert files_of(tmp_path / "a") != before
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_failed_replacement_leaves_the_dataset_as_it_was(tmp_path):
    make_shards(DOCUMENTS, TOKENIZER, tmp_path / "a")
    before = files_of(tmp_path / "a")
    bad = [*DOCUMENTS, *documents_of(["\ud800"])]
    with pytest.raises(ValueError, match="surrogate"):
        make_shards(bad, TOKENIZER, tmp_path / "a", replace=True)
    assert files_of(tmp_path / "a") == before


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "no text given"),
        (documents_of([""]), "no text given"),
        (documents_of(["a"]), "source 'de' has only one document"),
        (documents_of(["a", "a"]), "source 'de' has only one document"),
        (documents_of(["a", "b"], source="x/../y"), "source 'x/../y': give a name of letters"),
        (
            documents_of(["a"]) + documents_of(["b"], language="en"),
            "source 'de' is in de and en; give each language a source of its own",
        ),
    ],
)
def test_documents_that_make_no_dataset_are_refused(tmp_path, documents, message):
    with pytest.raises(DataError, match=message):
        make_shards(documents, TOKENIZER, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"validation_fraction": 1.0}, {"seed": -1}])
def test_bad_options_are_refused_by_name(tmp_path, options):
    with pytest.raises(DataError, match=f"{next(iter(options))}="):
        make_shards(DOCUMENTS, TOKENIZER, tmp_path / "a", **options)


def test_the_verbs_lead_from_text_files_to_a_dataset(tmp_path):
    for language in ("de", "en"):
        lines = [f"{language} Satz {number}." + " Wort" * 300 for number in range(20)]
        (tmp_path / f"{language}.txt").write_text("\n\n".join(lines), encoding="utf-8")
    texts = [str(tmp_path / "de.txt"), str(tmp_path / "en.txt")]
    main(["tokenizer", *texts, f"out={tmp_path}/t.model", "n_vocab=340", "model_type=bpe"])
    out = [f"out={tmp_path}/data", "unchecked=true"]
    main(["shard", *texts, *out, f"tokenizer={tmp_path}/t.model"])
    dataset = Dataset.open(tmp_path / "data")
    assert list(dataset.sources) == ["de", "en"]
    dataset.verify()
    with pytest.raises(DataError, match="is there already"):
        main(["shard", *texts, *out, "tokenizer=byte"])


def test_a_manifest_is_readable_by_people(tmp_path):
    make_shards(DOCUMENTS, TOKENIZER, tmp_path / "a")
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["splits"]["train"]["de"]["shards"][0]["file"] == "train/de-000000.tar"
    moved = shutil.move(tmp_path / "a", tmp_path / "b")
    assert Dataset.open(moved).fingerprint == Dataset.open(tmp_path / "b").fingerprint


def test_text_that_overlaps_an_evaluation_set_is_not_sharded(tmp_path):
    passage = "one two three four five six seven eight nine ten eleven twelve thirteen"
    (tmp_path / "a.en.txt").write_text(f"Some text.\n\n{passage}.\n" * 400, encoding="utf-8")
    (tmp_path / "b.en.txt").write_text(
        "Nothing of the kind stands here.\n\n" * 400, encoding="utf-8"
    )
    (tmp_path / "items.jsonl").write_text(json.dumps({"question": passage}) + "\n")
    files = [str(tmp_path / "a.en.txt"), str(tmp_path / "b.en.txt")]
    against = f"against={tmp_path}/items.jsonl"
    main(["decontaminate", *files, against, f"out={tmp_path}/checked"])
    words = [f"out={tmp_path}/shards", "tokenizer=byte", f"checked={tmp_path}/checked"]
    with pytest.raises(DataError, match="overlaps an evaluation set"):
        main(["shard", *files, *words])
    main(["shard", f"{tmp_path}/checked/b-en.jsonl", *words])
    assert list(Dataset.open(tmp_path / "shards").sources) == ["b-en"]


def test_text_is_sharded_unchecked_only_where_that_is_said(tmp_path):
    (tmp_path / "a.en.txt").write_text("Some text.\n\n" * 900, encoding="utf-8")
    words = ["shard", str(tmp_path / "a.en.txt"), f"out={tmp_path}/a", "tokenizer=byte"]
    with pytest.raises(ConfigError, match=r"checked='': give the report of helix data decontamin"):
        main(words)
    main([*words, "unchecked=true"])
    assert Dataset.open(tmp_path / "a").sources["a-en"].n_documents >= 1


def test_many_documents_are_written_as_they_were_surveyed(tmp_path):
    """A hash in 256 ends in a zero byte, which numpy strips."""
    documents = documents_of([f"text {number}" for number in range(3000)])
    dataset = make_shards(documents, TOKENIZER, tmp_path / "a", validation_fraction=0)
    assert dataset.document_ids("de") == [document.id for document in documents]


def test_two_texts_under_one_id_are_refused_and_a_text_twice_is_not(tmp_path):
    twice = [*DOCUMENTS, DOCUMENTS[3]]
    dataset = make_shards(twice, TOKENIZER, tmp_path / "a", validation_fraction=0)
    assert dataset.sources["de"].n_documents == 80
    repeated = [*DOCUMENTS, *documents_of(["Another text."])]
    with pytest.raises(DataError, match=r"documents 1 and 81 of the input are .* one id, '0'"):
        make_shards(repeated, TOKENIZER, tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("n_left", [0, 40, 79])
def test_text_that_changes_while_it_is_read_makes_no_dataset(tmp_path, n_left):
    class Changing:
        def __init__(self):
            self.passes = 0

        def __iter__(self):
            self.passes += 1
            return iter(DOCUMENTS if self.passes == 1 else DOCUMENTS[:n_left])

    with pytest.raises(DataError, match="became shorter while shards were made"):
        make_shards(Changing(), TOKENIZER, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_shards_may_hold_the_text_itself_beside_its_ids(tmp_path):
    plain = make_shards(DOCUMENTS, TOKENIZER, tmp_path / "plain")
    dataset = make_shards(DOCUMENTS, TOKENIZER, tmp_path / "text", with_text=True)
    dataset.verify()
    for number in (0, 5):
        assert list(dataset.read("de", number)) == list(plain.read("de", number))
    with tarfile.open(tmp_path / "text" / "train" / "de-000000.tar") as tar:
        [member] = [tar.extractfile(own) for own in tar if own.name.endswith(".jsonl")]
        rows = [json.loads(line) for line in member]
    assert [row["id"] for row in rows] == dataset.document_ids("de")
    by_id = {document.id: document.text for document in DOCUMENTS}
    assert all(row["text"] == by_id[row["id"]] for row in rows)


@pytest.mark.parametrize(
    ("group", "sources"),
    [("language", ["de", "en"]), ("domain", ["de-help", "de-other", "en-help", "en-other"])],
)
def test_documents_may_be_grouped_by_what_they_are(tmp_path, group, sources):
    rows = [
        {"text": f"Satz {n} in {language} {domain}", "language": language, "domain": domain}
        for n in range(4)
        for language in ("de", "en")
        for domain in ("help", "")
    ]
    file = tmp_path / "mixed.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    words = [str(file), f"out={tmp_path}/a", "tokenizer=byte", "unchecked=true"]
    with pytest.raises(DataError, match=r"'mixed' is in de and en; .* or group=language"):
        main(["shard", *words])
    main(["shard", *words, f"group={group}"])
    dataset = Dataset.open(tmp_path / "a")
    assert list(dataset.sources) == sources
    assert set(dataset.document_ids(sources[0])) <= {f"mixed/mixed.jsonl:{n}" for n in range(1, 17)}
