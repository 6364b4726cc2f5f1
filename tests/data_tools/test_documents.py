import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.documents import (
    DOCUMENT_BYTES,
    clean_text,
    group_blocks,
    read_documents,
    write_documents,
)
from helix.data import DataError


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@given(text=st.text())
def test_clean_text_leaves_tab_and_newline_and_no_other_control(text):
    cleaned = clean_text(text)
    assert not [c for c in cleaned if (ord(c) < 32 or ord(c) == 127) and c not in "\n\t"]
    assert clean_text(cleaned) == cleaned


def test_line_ends_of_all_systems_become_newlines():
    assert clean_text("a\r\nb\rc\nd\x00\x1be") == "a\nb\nc\nde"


@given(
    blocks=st.lists(st.text(st.sampled_from("abä \n"), min_size=1, max_size=60)),
    document_bytes=st.integers(8, 50),
)
def test_grouping_keeps_every_letter_in_order(blocks, document_bytes):
    documents = list(group_blocks(blocks, document_bytes=document_bytes))

    def letters(texts):
        return re.sub(r"\s", "", "".join(texts))

    assert letters(documents) == letters(blocks)
    assert all(len(document) <= document_bytes for document in documents)


def test_a_txt_file_becomes_documents_of_whole_paragraphs(tmp_path):
    paragraphs = [f"Absatz {number} " + "Wort " * 100 + "Ende." for number in range(40)]
    file = write(tmp_path / "roman.txt", "\n\n".join(paragraphs))
    documents = read_documents([file])
    assert "\n\n".join(document.text for document in documents) == "\n\n".join(paragraphs)
    assert len(documents) > 3
    assert all(len(document.text) <= DOCUMENT_BYTES for document in documents)
    assert len({document.id for document in documents}) == len(documents)


@pytest.mark.parametrize(
    ("name", "source", "language"),
    [
        ("de.txt", "de", "de"),
        ("roman.txt", "roman", "roman"),
        ("roman.de.txt", "roman-de", "de"),
        ("Mein Buch (2).en.txt", "Mein-Buch-2-en", "en"),
    ],
)
def test_the_files_name_gives_source_and_language(tmp_path, name, source, language):
    [document] = read_documents([write(tmp_path / name, "Ein Satz.")])
    assert (document.source, document.language) == (source, language)


def test_documents_come_back_from_jsonl_as_they_were_written(tmp_path):
    write(tmp_path / "a.de.txt", "Ein Absatz.\n\nNoch „einer“.\n")
    documents = read_documents([tmp_path / "a.de.txt"], licence="CC0-1.0")
    write_documents(documents, tmp_path / "out" / "b.jsonl")
    assert read_documents([tmp_path / "out"]) == documents


def test_a_folder_stands_for_its_text_files_in_order(tmp_path):
    for name in ("b.txt", "a.txt", "c.pdf"):
        write(tmp_path / name, name)
    assert [document.text for document in read_documents([tmp_path])] == ["a.txt", "b.txt"]


BAD_FILES = [
    ("a.txt", b"", r"a.txt: the file is empty"),
    ("a.txt", b" \n\n\t\n", r"a.txt: the file is empty"),
    ("a.txt", b"\x00\x01", r"a.txt: the file holds no text"),
    ("a.txt", b"abc\xe4def", r"a.txt: byte 3 \(0xe4\) is not UTF-8.*iconv -f WINDOWS-1252"),
    ("a.txt", "ab".encode("utf-16"), r"a.txt: byte 0 \(0xff\) is not UTF-8.*iconv -f UTF-16"),
    ("a.pdf", b"x", r"a.pdf: give a .txt or .jsonl file, not .pdf"),
    ("a.jsonl", b'{"text": "x"}\n{"text": ', r"a.jsonl, line 2: not JSON"),
    ("a.jsonl", b'{"text": "x"}\n\n{"body": "x"}', r"a.jsonl, line 3: no text"),
    ("a.jsonl", b'"x"', r"a.jsonl, line 1: no text"),
    ("a.jsonl", b'{"text": 1}', r"a.jsonl, line 1: no text"),
    ("a.jsonl", b'{"text": "x", "id": 7}', r"a.jsonl, line 1: id must be a string, not 7"),
    ("a.jsonl", rb'{"text": "\ud800"}', r"a.jsonl, line 1: half of a surrogate pair"),
    ("a.jsonl", b'{"text": ""}', r"a.jsonl: the file holds no text"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_a_bad_file_is_refused_by_place_and_left_as_it_was(tmp_path, name, content, message):
    file = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message):
        read_documents([file])
    assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


def test_missing_files_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"x.txt: no such file"):
        read_documents([tmp_path / "x.txt"])
    with pytest.raises(DataError, match=r"the folder holds no \.txt or \.jsonl file"):
        read_documents([tmp_path])
    with pytest.raises(DataError, match="no text given"):
        read_documents([])


def test_two_files_that_would_be_one_source_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    files = [write(tmp_path / "de.txt", "a"), write(tmp_path / "other" / "de.txt", "b")]
    with pytest.raises(DataError, match=r"would both be the source 'de': rename one"):
        read_documents(files)


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert read_documents([write(tmp_path / "a.txt", b"\xef\xbb\xbfabc")])[0].text == "abc"


def test_written_documents_are_complete_or_absent(tmp_path):
    def broken():
        raise RuntimeError("stopped")
        yield

    with pytest.raises(RuntimeError):
        write_documents(broken(), tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()
    write_documents([], tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == b""
