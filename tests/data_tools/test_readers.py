import gzip
import json
import random
import re
import sys
import tracemalloc
from contextlib import contextmanager
from dataclasses import asdict

import pyarrow
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from data_tools.clean import CleanOptions
from data_tools.clean import run as run_clean
from data_tools.deduplicate import DeduplicateOptions, deduplicate
from data_tools.documents import (
    Document,
    clean_text,
    cut_block,
    group_blocks,
    read_documents,
    stream_documents,
)
from data_tools.readers import blocks, jsonl, streams
from data_tools.readers.files import find_files
from data_tools.text_options import TextOptions
from helix.data import DataError

COMPRESS = {"": bytes, "gz": lambda data: gzip.compress(data, mtime=0), "zst": zstd.compress}
MIB = 2**20
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
SHORT = st.text(st.sampled_from("abcäß/.7- "))
PROSE = st.text(st.sampled_from("ab ä\u00a0\u2028\x85\t\r\n\n\n\x00\ufeff𝄞"), max_size=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("readers")


def write(path, content, compression=""):
    data = content if isinstance(content, bytes) else content.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(COMPRESS[compression](data))
    return path


@contextmanager
def chunks_of(n_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "CHUNK_BYTES", n_bytes)
        yield


def to_jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_parquet(path, rows, **options):
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


def write_as(path, rows):
    """Write rows as the file's name says."""
    if path.suffix == ".parquet":
        return write_parquet(path, rows, row_group_size=2)
    compression = path.suffix[1:] if path.suffix[1:] in COMPRESS else ""
    return write(path, to_jsonl(rows), compression)


def texts_of(paths, **options):
    return [document.text for document in read_documents(paths, **options)]


# Formats ------------------------------------------------------------------------------------------

FORMATS = ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"]


@given(
    documents=st.lists(
        st.builds(
            Document,
            id=SHORT,
            text=TEXTS.map(clean_text).filter(str.strip),
            **dict.fromkeys(("source", "language", "licence", "domain", "pair", "split"), SHORT),
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=40)
def test_documents_come_back_from_every_format(folder, documents):
    rows = [asdict(document) for document in documents]
    for name in FORMATS:
        assert read_documents([write_as(folder / name, rows)]) == documents, name


def test_compressing_a_file_changes_no_document(tmp_path):
    for kind, content in (("txt", "Ein Absatz.\n\nNoch einer."), ("jsonl", '\n{"text": "eins"}')):
        plain = read_documents([write(tmp_path / f"a.de.{kind}", content)])
        for compression in ("gz", "zst"):
            packed = write(tmp_path / f"a.de.{kind}.{compression}", content, compression)
            assert read_documents([packed]) == plain
        assert plain[0].id.startswith(f"a.de.{kind}:")
        assert (plain[0].source, plain[0].language) == ("a-de", "de")


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_a_file_of_several_compressed_parts_is_read_to_its_end(tmp_path, compression):
    parts = [COMPRESS[compression](to_jsonl([{"text": text}]).encode()) for text in ("a", "b")]
    path = write(tmp_path / f"a.jsonl.{compression}", b"".join(parts))
    assert texts_of([path]) == ["a", "b"]


def read_whole(text, n_characters):
    """Split a whole text into blocks: what the streaming splitter is held to."""
    for paragraph in re.split(r"\n[ \t]*\n\s*", clean_text(text)):
        yield from filter(str.strip, cut_block(paragraph.strip("\n"), n_characters))


@given(text=PROSE, n_characters=st.integers(2, 12), data=st.data())
@settings(max_examples=500)
def test_blocks_are_the_same_wherever_a_texts_pieces_end(text, n_characters, data):
    cuts = data.draw(st.lists(st.integers(0, len(text))).map(sorted))
    pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    streamed = blocks.split_blocks("a", blocks.clean_pieces(pieces), n_characters=n_characters)
    assert list(streamed) == list(read_whole(text, n_characters))


@given(text=PROSE.map(lambda text: f"{text}a{text}"), chunk_bytes=st.integers(1, 20))
def test_txt_is_the_same_in_any_chunk(folder, text, chunk_bytes):
    path = write(folder / "a.txt", text)
    with chunks_of(chunk_bytes):
        streamed = texts_of([path])
    assert streamed == list(group_blocks(read_whole(text.removeprefix("\ufeff"), 4096)))


@given(lines=st.lists(st.text(st.sampled_from("ab\r "), max_size=5)), data=st.data())
def test_lines_are_the_same_wherever_a_texts_pieces_end(lines, data):
    text = "\n".join(lines)
    cuts = data.draw(st.lists(st.integers(0, len(text))).map(sorted))
    pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert list(jsonl.split_lines("a", pieces)) == text.split("\n")


# Damage -------------------------------------------------------------------------------------------

PARAGRAPHS = [f"{number} " + random.Random(number).randbytes(40).hex() for number in range(60)]


@pytest.mark.parametrize("compression", ["gz", "zst"])
@pytest.mark.parametrize("kind", ["txt", "jsonl"])
@given(data=st.data(), chunk_bytes=st.integers(1, 3000))
@settings(max_examples=60)
def test_a_file_cut_at_any_byte_is_refused_after_no_wrong_text(
    folder, kind, compression, data, chunk_bytes
):
    texts = list(group_blocks(PARAGRAPHS)) if kind == "txt" else PARAGRAPHS
    whole = "\n\n".join(PARAGRAPHS) if kind == "txt" else to_jsonl({"text": t} for t in PARAGRAPHS)
    packed = COMPRESS[compression](whole.encode())
    cut = data.draw(st.integers(0, len(packed) - 1))
    path = write(folder / f"cut.{kind}.{compression}", packed[:cut])
    seen = []
    with chunks_of(chunk_bytes), pytest.raises(DataError) as error:
        seen.extend(document.text for document in stream_documents([path]))
    reasons = {0: "is empty", 1: "damaged near byte 1|cut off"}  # one byte tells no gzip file
    message = reasons.get(cut, f"the file is cut off: its {cut:,} bytes end")
    assert re.search(rf"{path.name}: .*({message})", str(error.value))
    assert seen == texts[: len(seen)]


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_what_is_not_compressed_at_all_is_refused(tmp_path, compression):
    path = write(tmp_path / f"a.txt.{compression}", "Ein Satz, der nie gepackt wurde.")
    with pytest.raises(
        DataError, match=rf"a.txt.{compression}: damaged near byte .* of 32 .*at all"
    ):
        read_documents([path])


def test_a_flipped_bit_in_a_gz_is_found_by_its_checksum(tmp_path):
    packed = bytearray(gzip.compress("".join(PARAGRAPHS).encode(), compresslevel=0))
    packed[len(packed) // 2] ^= 1
    with pytest.raises(DataError, match="CRC check failed"):
        read_documents([write(tmp_path / "a.txt.gz", bytes(packed))])


@given(cut=st.floats(0, 1, exclude_max=True))
@settings(max_examples=50)
def test_a_parquet_file_cut_anywhere_is_refused(folder, cut):
    whole = write_parquet(folder / "whole.parquet", [{"text": text} for text in PARAGRAPHS])
    data = whole.read_bytes()
    path = write(folder / "cut.parquet", data[: int(cut * len(data))])
    with pytest.raises(DataError, match=r"cut.parquet: (cut off or damaged in its end|.*empty)"):
        read_documents([path])


def test_a_damaged_row_group_is_named_by_its_rows(tmp_path):
    rows = [{"text": text} for text in PARAGRAPHS]
    path = tmp_path / "a.parquet"
    write_parquet(path, rows, row_group_size=20, write_page_checksum=True, use_dictionary=False)
    group = parquet.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[group.data_page_offset + group.total_compressed_size - 5] ^= 255
    path.write_bytes(data)
    seen = []
    with pytest.raises(DataError, match=r"a.parquet: cut off or damaged in rows 21 to 40"):
        seen.extend(document.text for document in stream_documents([path]))
    assert seen == PARAGRAPHS[:20]


@pytest.mark.parametrize("compression", COMPRESS)
@given(before=st.text(max_size=30), bad=st.sampled_from([b"\xe4x", b"\xff", b"\xe2\x82", b"\xc0"]))
@settings(max_examples=30)
def test_a_byte_that_is_not_utf8_is_named_by_its_place_in_the_text(
    folder, compression, before, bad
):
    name = f"bad.txt.{compression}".strip(".")
    path = write(folder / name, before.encode(errors="ignore") + bad, compression)
    at = len(before.encode(errors="ignore"))
    for chunk_bytes in (1, 2, 3, MIB):
        with chunks_of(chunk_bytes), pytest.raises(DataError) as error:
            read_documents([path])
        assert f"{name}: byte {at} (0x{bad[0]:02x}) is not UTF-8" in str(error.value)
        assert {"": " bad.txt >", "gz": "gzip -dc", "zst": "zstd -dc"}[compression] in str(
            error.value
        )


def test_a_line_too_long_for_memory_is_refused_by_number(tmp_path):
    with pytest.raises(DataError, match=r"a.jsonl, line 3: longer than 5 characters"):
        list(
            jsonl.split_lines(tmp_path / "a.jsonl", ["12345\n1", "2\n123", "456"], max_characters=5)
        )


def test_space_without_end_is_refused():
    pieces = ["a\n", *[" " * 10] * 5]
    with pytest.raises(DataError, match="spaces and tabs in a row are no text"):
        list(blocks.split_blocks("a.txt", pieces, max_gap_characters=30))


# Memory -------------------------------------------------------------------------------------------


def write_long(path, n_mib):
    """Write a file of so much text, itself in little memory."""
    line = (to_jsonl([{"text": "Wort " * 200}]) if "jsonl" in path.name else "Wort " * 200).encode()
    if "one_line" not in path.name and "jsonl" not in path.name:
        line += b"\n\n"
    with {"": open, ".gz": gzip.open, ".zst": zstd.open}[path.suffix.removesuffix(".txt")](
        path, "wb"
    ) as file:
        for _ in range(n_mib):
            file.write(line * (MIB // len(line)))
    return path


@pytest.mark.parametrize(
    "name", ["a.txt", "one_line.txt", "a.txt.gz", "a.jsonl.gz", "a.txt.zst", "a.jsonl.zst"]
)
def test_a_long_file_passes_through_little_memory(tmp_path, name):
    path = write_long(tmp_path / name, 48)
    tracemalloc.start()
    try:
        n_characters = sum(len(document.text) for document in stream_documents([path]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n_characters > 40 * MIB
    assert peak < 12 * MIB


def test_a_long_parquet_file_passes_through_little_memory(tmp_path):
    path = tmp_path / "a.parquet"
    noise = random.Random(0)
    schema = pyarrow.schema([("text", pyarrow.string())])
    small_pages = {"use_dictionary": False, "write_batch_size": 16}  # a page is read as a whole
    with parquet.ParquetWriter(path, schema, **small_pages) as writer:
        for _ in range(3):
            texts = [noise.randbytes(16_000).hex() for _ in range(1000)]
            writer.write_table(pyarrow.table({"text": texts}, schema))
    del texts
    pool = pyarrow.default_memory_pool()
    before, peak = pool.bytes_allocated(), 0
    n_characters = 0
    for document in stream_documents([path]):
        n_characters += len(document.text)
        peak = max(peak, pool.bytes_allocated() - before)
    assert n_characters == 3 * 1000 * 32_000
    assert peak < 12 * MIB


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_reported_as_read_adds_up_to_the_file(tmp_path, name):
    texts = [random.Random(number).randbytes(5000).hex() for number in range(100)]
    path = write_as(tmp_path / name, [{"text": text} for text in texts])
    reported = []
    with chunks_of(2**14):
        list(stream_documents([path], report=reported.append))
    assert sum(reported) == path.stat().st_size
    assert min(reported) >= 0
    assert max(reported) < path.stat().st_size / 2


# Fields -------------------------------------------------------------------------------------------

ROW = {"id": "7", "body": "Satz", "article": {"body": "Innen", "title": None}, "a.b": "Punkt"}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("field", "text"), [("body", "Satz"), ("article.body", "Innen"), ("a.b", "Punkt")]
)
def test_field_names_the_text(tmp_path, name, field, text):
    [document] = read_documents([write_as(tmp_path / name, [ROW])], field=field)
    assert (document.id, document.text) == ("7", text)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("field", "nearest"),
    [("text", "; give one"), ("bodi", "body"), ("article.bod", "article.body")],
)
def test_a_field_that_is_absent_is_told_those_there_are(tmp_path, name, field, nearest):
    with pytest.raises(
        DataError, match=rf"no text in field={field}; there are: id, body, article.body.*{nearest}"
    ):
        read_documents([write_as(tmp_path / name, [ROW])], field=field)


@pytest.mark.parametrize("name", FORMATS)
def test_null_is_no_text_and_says_nothing(tmp_path, name):
    rows = [{"text": None, "domain": "x"}, {"text": "da", "domain": None}]
    [document] = read_documents([write_as(tmp_path / name, rows)])
    assert (document.text, document.domain, document.id[-2:]) == ("da", "", ":2")
    with pytest.raises(DataError, match="the file holds no text"):
        read_documents([write_as(tmp_path / name, rows[:1])])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": b"x"}], "column text holds binary, not strings; cast it"),
        ([{"text": ["x"]}], "column text holds list<.*>, not strings; cast it"),
        ([{"text": 1.5}], "column text holds double, not strings; cast it"),
        ([{"text": "x", "id": 7}], "column id holds int64, not strings; cast it .*or rename it"),
    ],
)
def test_a_column_that_holds_no_strings_is_refused(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_documents([write_parquet(tmp_path / "a.parquet", rows)])


def test_strings_of_all_of_arrows_types_are_read(tmp_path):
    column = pyarrow.array(["eins", None, "zwei", "eins"])
    large = column.cast(pyarrow.large_string())
    for values in (column, large, column.dictionary_encode()):
        parquet.write_table(pyarrow.table({"text": values}), tmp_path / "a.parquet")
        assert texts_of([tmp_path / "a.parquet"]) == ["eins", "zwei", "eins"]


def test_a_row_of_parquet_that_is_not_utf8_is_named(tmp_path):
    binary = pyarrow.array([b"gut", b"schl\xe4cht"], pyarrow.binary())
    texts = pyarrow.Array.from_buffers(pyarrow.string(), 2, binary.buffers())
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet, row 2: not UTF-8"):
        read_documents([tmp_path / "a.parquet"])


@pytest.mark.parametrize(
    ("name", "library"), [("a.txt.zst", "backports.zstd"), ("a.parquet", "pyarrow.parquet")]
)
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    tmp_path, monkeypatch, name, library
):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(DataError, match=rf"needs {library}.*pip install -e '\.\[data\]'"):
        read_documents([write(tmp_path / name, "x")])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"text": "x", "n": ' + "1" * 5000 + "}", "not JSON"),
        (r'{"text": "x", "id": "\udcff"}', "half of a surrogate pair"),
        ("[1]", 'no text; write {"text": "..."} on each line'),
        ("{}", "no text in field=text; there are no fields"),
        ('{"text": {"a": "x"}}', "no text in field=text, but {'a': 'x'}"),
    ],
)
def test_a_line_that_is_no_row_is_refused_by_number(tmp_path, line, message):
    path = write(tmp_path / "a.jsonl", f'{{"text": "x"}}\n{line}\n')
    with pytest.raises(DataError, match=rf"a\.jsonl, line 2: {re.escape(message)}"):
        read_documents([path])


# Inputs -------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    names = ["b.txt", "a/z.jsonl.gz", "a/y.parquet", "a.jsonl.zst", "a/b/c.txt", "a/table.csv"]
    hidden = [".x.txt", ".cache/x.txt", "a/x.txt.partial", "folder.txt/x.pdf"]
    for name in names + hidden:
        write(tmp_path / name, "x")
    return tmp_path


def found(tree, *inputs):
    files = find_files([str(tree / name) for name in inputs])
    return [file.path.relative_to(tree).as_posix() for file in files]


def test_a_folder_stands_for_its_own_text_and_says_how_to_give_that_of_subfolders(tree):
    assert found(tree, "") == ["a.jsonl.zst", "b.txt"]
    (tree / "a.jsonl.zst").unlink()
    (tree / "b.txt").unlink()
    with pytest.raises(DataError, match=r"holds no .*; for those of its subfolders give '.*/\*\*'"):
        found(tree, "")
    assert found(tree, "**") == ["a/b/c.txt", "a/y.parquet", "a/z.jsonl.gz"]


def test_a_glob_stands_for_the_text_that_it_matches(tree):
    assert found(tree, "**/*.jsonl.*") == ["a/z.jsonl.gz", "a.jsonl.zst"]
    assert found(tree, "a/*") == ["a/y.parquet", "a/z.jsonl.gz"]
    assert found(tree, "b.txt", "a/[xyz].*") == ["b.txt", "a/y.parquet", "a/z.jsonl.gz"]


def test_a_glob_that_matches_no_text_is_named(tree):
    for pattern in ("nothing/*.txt", "a/*.csv"):
        with pytest.raises(DataError, match=re.escape(f"{pattern}: the pattern matches no .txt")):
            found(tree, pattern)


def test_a_file_whose_name_looks_like_a_glob_is_read(tmp_path):
    assert texts_of([write(tmp_path / "Buch [2].txt", "x")]) == ["x"]


def test_a_file_given_twice_is_refused(tree):
    with pytest.raises(DataError, match=r"b.txt: the inputs give this file twice"):
        found(tree, "", "b.*")


@pytest.mark.parametrize("given", ["", "c.*"])
def test_a_link_to_nothing_is_not_left_out_in_silence(tree, given):
    (tree / "c.txt").symlink_to(tree / "elsewhere.txt")
    (tree / "c.pdf").symlink_to(tree / "elsewhere.pdf")
    with pytest.raises(DataError, match=r"c\.txt: a link to nothing"):
        found(tree, given)


def test_other_compressions_are_refused_by_their_name(tmp_path):
    for name in ("a.txt.bz2", "a.parquet.gz", "a.gz"):
        with pytest.raises(DataError, match=rf"give a .txt or .jsonl file, not \S*{name[-3:]};"):
            read_documents([write(tmp_path / name, "x")])


# Sources ------------------------------------------------------------------------------------------


def test_source_makes_all_files_one_source_whose_ids_differ(tmp_path):
    for place in ("de/0.txt", "de/1.jsonl.zst", "en/0.txt"):
        text = '{"text": "x"}' if "jsonl" in place else "x"
        write(tmp_path / place, text, "zst" if "zst" in place else "")
    with pytest.raises(DataError, match=r"both be the source '0': rename.*or give source="):
        read_documents([tmp_path / "**"])
    documents = read_documents([tmp_path / "**"], source="wiki")
    assert [document.id for document in documents] == ["de/0.txt:0", "1.jsonl:1", "en/0.txt:0"]
    assert {(document.source, document.language) for document in documents} == {("wiki", "wiki")}


def test_a_row_and_a_language_suffix_say_more_than_source(tmp_path):
    rows = [{"text": "x", "source": "own", "language": "fr"}, {"text": "x"}]
    write(tmp_path / "0.en.jsonl", to_jsonl(rows))
    own, shared = read_documents([tmp_path], source="wiki")
    assert (own.source, own.language) == ("own", "fr")
    assert (shared.source, shared.language) == ("wiki", "en")
    [_, named] = read_documents([tmp_path], source="wiki.de")
    assert (named.source, named.language) == ("wiki-de", "de")


def test_a_text_beside_its_compressed_self_is_refused(tmp_path):
    write(tmp_path / "a.txt", "x")
    write(tmp_path / "a.txt.gz", "x", "gz")
    with pytest.raises(DataError, match="differ in their compression only"):
        read_documents([tmp_path], source="wiki")


@given(places=st.lists(st.text(st.sampled_from("ab/"), max_size=4), min_size=1, unique=True))
@settings(max_examples=30)
def test_ids_of_one_source_are_distinct(tmp_path_factory, places):
    root = tmp_path_factory.mktemp("ids")
    places = {tuple(part for part in place.split("/") if part) for place in places}
    for place in places:
        write(root.joinpath(*(f"d{part}" for part in place[:-1])) / f"{place[-1:]}.txt", "x")
    ids = [document.id for document in read_documents([root / "**"], source="wiki")]
    assert len(set(ids)) == len(ids) == len(places)


# Verbs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"), [("field", ""), ("source", "a b"), ("source", "../a"), ("licence", "")]
)
def test_an_option_out_of_range_is_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"^{option}={re.escape(value)}"):
        TextOptions(inputs=("a.txt",), **{option: value})


def test_clean_and_deduplicate_read_a_field_of_shards_as_one_source(tmp_path):
    sentences = [f"Das ist ein ganz gewöhnlicher Satz Nummer {n}. " * 8 for n in (1, 2)]
    for n, text in enumerate(sentences):
        (tmp_path / "in").mkdir(exist_ok=True)
        name = "part-1.parquet" if n else "part-0.jsonl.zst"
        write_as(tmp_path / "in" / name, [{"body": text}])
    given = {"inputs": (f"{tmp_path}/in/*",), "field": "body", "source": "wiki.de"}
    run_clean(CleanOptions(**given, rules="form", licence="CC0-1.0", out=str(tmp_path / "clean")))
    deduplicate(DeduplicateOptions(**given, near=False, out=str(tmp_path / "out")))
    for name in ("clean", "out"):
        documents = read_documents([tmp_path / name])
        assert [document.id for document in documents] == ["part-0.jsonl:1", "part-1.parquet:1"]
        assert {document.source for document in documents} == {"wiki-de"}
        assert documents[0].licence == ("CC0-1.0" if name == "clean" else "unstated")


def test_inputs_in_the_folder_to_write_are_refused(tmp_path):
    write(tmp_path / "out" / "a.txt", "x")
    with pytest.raises(DataError, match=r"a.txt: lies in out=.*; give another folder"):
        deduplicate(
            DeduplicateOptions(inputs=(f"{tmp_path}/**",), out=str(tmp_path / "out"), replace=True)
        )
    assert (tmp_path / "out" / "a.txt").read_text() == "x"
