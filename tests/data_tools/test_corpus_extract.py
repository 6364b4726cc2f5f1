import bz2
import gzip
import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.corpus import catalogues, markup, packaged_texts, paragraphs, reference_works, roff
from data_tools.corpus.archives import MEMBER_BYTES, read_members
from data_tools.corpus.extract import KINDS, read_part
from data_tools.corpus.recipes import Part
from helix.data import DataError

GERMAN = (
    "Dies ist ein Satz, der auf Deutsch von der Arbeit mit dem Rechner und den Dateien erzählt."
)
ENGLISH = (
    "This is a sentence that tells in English of the work with the computer and with its files."
)


def make_mo(messages, order="<"):
    """Write a .mo file as msgfmt would."""
    items = sorted((key.encode(), value.encode()) for key, value in messages.items())
    at = 28 + 16 * len(items)
    tables, strings = [b"", b""], b""
    for column in (0, 1):
        for item in items:
            tables[column] += struct.pack(order + "2I", len(item[column]), at + len(strings))
            strings += item[column] + b"\0"
    originals, translations = 28, 28 + 8 * len(items)
    head = struct.pack(order + "7I", 0x950412DE, 0, len(items), originals, translations, 0, 0)
    return head + b"".join(tables) + strings


def test_html_gives_its_paragraphs_without_code_and_navigation():
    page = b"""<html><head><title>T</title><style>p {}</style></head><body>
      <nav>Home</nav><h1>Hello</h1><p>One <b>bold</b>
      word &amp; &ouml;ne</p>x<pre>code()</pre><ul><li>a<li>b</ul>
      <script>s</script></body></html>"""
    assert markup.html_paragraphs(page) == ["Hello", "One bold word & öne", "x", "a", "b"]


def test_broken_and_empty_html_is_read_as_far_as_it_goes():
    assert markup.html_paragraphs(b"") == markup.html_paragraphs(b" <!-- x --> ") == []
    assert markup.html_paragraphs(b"<p>a<div>b</div></span>c") == ["a", "b", "c"]
    assert markup.html_paragraphs("<p>Größe</p>".encode("latin-1")) == ["Größe"]


@given(st.binary(max_size=300))
def test_no_bytes_make_the_parsers_fail(data):
    for read in (markup.html_paragraphs, markup.xml_paragraphs):
        assert all(isinstance(paragraph, str) for paragraph in read(data))


def test_mallard_gives_titles_and_paragraphs_and_keeps_the_words_of_links():
    page = b"""<?xml version="1.0" encoding="utf-8"?>
      <page xmlns="http://projectmallard.org/1.0/"><info><desc>no</desc></info>
      <title>A title</title><p>See <link xref="x">this page</link>, <app>Files</app>.</p></page>"""
    assert markup.xml_paragraphs(page) == ["A title", "See this page, Files."]


def test_an_entity_of_an_xml_file_reads_nothing_from_disk(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret words")
    page = f'<!DOCTYPE p [<!ENTITY e SYSTEM "file://{secret}">]><p>Text &e;</p>'
    assert "secret" not in " ".join(markup.xml_paragraphs(page.encode()))


def test_a_kde_handbook_is_read_page_by_page():
    book = '<FILENAME filename="index.html"><p>one</p><FILENAME filename="b.html"><p>two</p>'
    pages = list(markup.kde_pages(bz2.compress(book.encode())))
    assert pages == [("index.html", ["one"]), ("b.html", ["two"])]


PAGE = r""".\" Copyright
.TH LS 1
.SH NAME
ls \- list files
.SH "THE DESCRIPTION"
List \fIfiles\fP in the \(lqdirectory\(rq,
.BR ls (1)
and
.B "two words"
too.
.PP
Gr\(:o\[u00DF]e \[em] caf\('e.
.nf
int main(void);
.fi
.de XX
hidden
..
.TP
.B \-a
do \*(Aqall\*(Aq\" comment
.IP "a tag" 4
its text
.IP \(bu 4
a bullet
.TS
tab(@) allbox;
l l.
Name@Meaning
T{
one
T}@first
.TE
.EX
code
.SH LAST
end
"""


def test_a_manual_page_gives_its_prose():
    assert roff.page_paragraphs(PAGE) == [
        "NAME",
        "ls - list files",
        "THE DESCRIPTION",
        "List files in the “directory”, ls(1) and two words too.",
        "Größe — café.",
        "-a do 'all'",
        "a tag its text",
        "a bullet",
        "Name Meaning",
        "one first",
        "LAST",
        "end",
    ]


def test_a_manual_page_that_points_away_has_no_text():
    assert roff.page_paragraphs(".so man1/ls.1\n") == []


@given(st.text(st.sampled_from(list("\\.'\n\"[](*fsn abTSPHE{}")), max_size=80))
def test_no_roff_makes_the_reader_fail_or_leaves_an_empty_paragraph(text):
    assert all(paragraph.strip() for paragraph in roff.page_paragraphs(text))


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_catalogue_gives_messages_and_translations(order):
    messages = {"": "header", "file": "Datei", "menu\x04open": "öffnen", "a\0as": "ein\0viele"}
    assert sorted(catalogues.mo_messages(make_mo(messages, order))) == [
        ("a", "ein"),
        ("file", "Datei"),
        ("open", "öffnen"),
    ]


def test_a_catalogue_gives_aligned_documents_in_both_languages():
    messages = {f"{ENGLISH} {i}": f"{GERMAN} {i}" for i in range(30)} | {"short": "kurz"}
    documents = list(catalogues.mo_documents(make_mo(messages)))
    assert [(number, language) for number, language, _ in documents] == [
        (str(n), language) for n in range(3) for language in ("en", "de")
    ]
    for (_, _, english), (_, _, german) in zip(documents[::2], documents[1::2], strict=True):
        assert [text.split()[-1] for text in english] == [text.split()[-1] for text in german]


@given(st.integers(0, 200))
def test_a_damaged_catalogue_is_an_error_and_no_crash(cut):
    whole = make_mo({ENGLISH: GERMAN})
    if cut < len(whole) - 1:
        with pytest.raises(DataError, match=r"a \.mo file"):
            list(catalogues.mo_messages(whole[:cut]))


def test_properties_give_their_long_values():
    text = f"# {ENGLISH}\nshort=a\nlong={ENGLISH} \\u00e4\\n\n"
    [(_, [value])] = catalogues.property_documents(text)
    assert value == f"{ENGLISH} ä"


def test_dictionaries_give_their_entries():
    dictd = "00-database-info\n about\nsloth\n  An animal, {lazy}.\nsoap\n  For\n  washing.\n"
    assert list(reference_works.dictd_entries(dictd)) == [
        "sloth An animal, lazy.",
        "soap For washing.",
    ]
    wordnet = "  1 licence | no\n00001740 03 n 02 big_dog 0 hound 0 001 @ 1 n 0000 | an animal  \n"
    assert list(reference_works.wordnet_entries(wordnet)) == ["big dog, hound: an animal"]
    assert list(reference_works.ding_entries("# c\nHaus {n} [arch.] :: house\n")) == [
        "Haus :: house"
    ]
    assert list(reference_works.glosses("Baum\tPflanze | Graph\nx\n")) == ["Baum: Pflanze; Graph"]
    assert list(reference_works.fortunes(f"{GERMAN}\n%\nshort\n%\n")) == [GERMAN]


@given(st.lists(st.text("abc", min_size=1, max_size=40), max_size=400))
def test_grouping_entries_loses_none_and_keeps_their_order(entries):
    grouped = [line for _, lines in reference_works.group_entries(entries) for line in lines]
    assert grouped == entries


def test_json_and_lessons_give_their_sentences():
    row = {"a": {"text": f"<p>{ENGLISH}</p>", "n": 1}, "b": ["short", GERMAN]}
    assert packaged_texts.json_paragraphs(json.dumps(row)) == [ENGLISH, GERMAN]
    assert packaged_texts.colobot_lines(r"\b;Title" + "\n\\button 53; Press \\key help; now.") == [
        "Title",
        "Press now.",
    ]


def test_paragraphs_of_the_other_language_and_of_no_language_go():
    kept = paragraphs.keep_text(
        [GERMAN, GERMAN, ENGLISH, "12 34 56", "x", "[ << Kapitel ]", "Über uns"], "de"
    )
    assert kept == [GERMAN, "Über uns"]
    assert paragraphs.language_of(ENGLISH) == "en"
    assert paragraphs.language_of("Hallo") == ""


def test_what_stands_on_every_page_goes_and_long_repetitions_too():
    pages = [["Next page", f"Page {number}", GERMAN] for number in range(20)]
    assert paragraphs.drop_boilerplate(pages) == [[f"Page {number}"] for number in range(20)]
    few = [["Next page", GERMAN], ["Next page", GERMAN]]
    assert paragraphs.drop_boilerplate(few) == [["Next page", GERMAN], ["Next page"]]


@pytest.mark.parametrize(
    ("files", "path", "key"),
    [
        ("usr/help/de/**/*.html", "usr/help/de/a/b.html", "a/b.html"),
        ("usr/help/en-US/**/*.html", "usr/help/en-US/a/b.html", "a/b.html"),
        ("usr/man/man*/*.gz", "usr/man/man1/ls.1.gz", "man1/ls.1"),
        ("doc/FAQ/*.en.html", "doc/FAQ/x.en.html", "x.html"),
        ("doc/*.de.html/*.html", "doc/guide.de.html/a.html", "guide.html/a.html"),
        ("g/**/*.D.txt", "g/l/help.D.txt", "l/help.txt"),
        ("g/Messages_de.properties", "g/Messages_de.properties", "Messages.properties"),
    ],
)
def test_a_text_and_its_translation_have_one_key(files, path, key):
    part = Part(kind="html", files=files, language="de")
    assert part.matches(path)
    assert [text.key for text in read_part(part, path, b"<p>x")] == [key]


def test_a_page_that_states_its_own_licence_keeps_it():
    part = Part(kind="man", files="man/*", language="en")
    page = b'.\\" SPDX-License-Identifier: GPL-2.0-or-later OR MIT\n.SH NAME\n'
    assert [text.licence for text in read_part(part, "man/a", page)] == ["GPL-2.0-or-later OR MIT"]


def test_every_kind_reads_an_empty_file_or_says_that_it_is_damaged():
    for kind, read in KINDS.items():
        if kind in ("pdf", "json", "kde"):
            continue
        try:
            found = [text for _, _, texts in read(b"") for text in texts if text]
        except DataError:
            found = []
        assert found == []


def write_tar(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for name, kind, data in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.size = len(data) if kind == tarfile.REGTYPE else 0
            info.linkname = "" if kind == tarfile.REGTYPE else data.decode()
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["../out.txt", "/etc/out.txt", "a/../../out.txt"])
def test_a_member_that_leads_out_of_a_package_is_refused(tmp_path, name):
    path = write_tar(tmp_path / "p.tgz", (name, tarfile.REGTYPE, b"x"))
    with pytest.raises(DataError, match="leads out of the package"):
        list(read_members(path, lambda _: True))
    with zipfile.ZipFile(tmp_path / "p.whl", "w") as file:
        file.writestr(name, b"x")
    with pytest.raises(DataError, match="leads out of the package"):
        list(read_members(tmp_path / "p.whl", lambda _: True))
    assert {file.name for file in tmp_path.iterdir()} == {"p.tgz", "p.whl"}


def test_links_and_devices_of_a_package_are_not_followed(tmp_path):
    path = write_tar(
        tmp_path / "p.tgz",
        ("a", tarfile.REGTYPE, b"text"),
        ("b", tarfile.SYMTYPE, b"/etc/passwd"),
        ("c", tarfile.LNKTYPE, b"/etc/passwd"),
        ("d", tarfile.CHRTYPE, b""),
        ("e", tarfile.FIFOTYPE, b""),
    )
    members = list(read_members(path, lambda _: True))
    assert [(member.path, member.data, member.link) for member in members] == [
        ("a", b"text", ""),
        ("b", b"", "/etc/passwd"),
    ]


def test_a_member_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    assert MEMBER_BYTES > 1e8
    monkeypatch.setattr("data_tools.corpus.archives.MEMBER_BYTES", 3)
    path = write_tar(tmp_path / "p.tgz", ("a", tarfile.REGTYPE, b"text"))
    with pytest.raises(DataError, match="more than 3"):
        list(read_members(path, lambda _: True))


@pytest.mark.parametrize("suffix", [".tgz", ".whl", ".deb"])
def test_a_broken_archive_is_an_error_that_names_it(tmp_path, suffix):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(gzip.compress(b"no archive"))
    with pytest.raises(DataError, match=r"broken.*delete it|dpkg-deb is not installed"):
        list(read_members(Path(path), lambda _: True))
