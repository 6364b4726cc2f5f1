"""Documents: what the data tools hand to each other, and the reading of a person's own files.

A .txt file is grouped by paragraphs into documents of about `DOCUMENT_BYTES`; a line of .jsonl and
a row of .parquet is one document. data_tools/readers says how files are read.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data_tools.readers import read_rows
from data_tools.readers.blocks import DOCUMENT_BYTES, clean_text, cut_block, group_blocks
from data_tools.readers.files import Report, TextFile, find_files
from helix.data import DataError

__all__ = [
    "DOCUMENT_BYTES",
    "Document",
    "clean_text",
    "cut_block",
    "group_blocks",
    "read_documents",
    "stream_documents",
    "write_documents",
]

LANGUAGE_SUFFIX = re.compile(r"^(.+)\.([a-z]{2,3})$")


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text.

    Attributes:
        id: Names the document among all documents of its source.
        text: Clean text (`clean_text`), not empty.
        source: What it is mixed and validated by: "de", "en", the name of a file.
        language: ISO 639 code where known, else the source.
        licence: SPDX identifier, with the attribution that the licence asks for.
        domain: Kind of text: "help", "dictionary"; empty where nobody said.
        pair: The same in all translations of one text; empty where there are none.
        split: "train" or "validation" where whoever made the document decided it.
    """

    id: str
    text: str
    source: str
    language: str
    licence: str
    domain: str = ""
    pair: str = ""
    split: str = ""


def read_documents(
    paths: Sequence[str | Path],
    *,
    field: str = "text",
    source: str = "",
    licence: str = "unstated",
) -> list[Document]:
    """Read all documents at once; see stream_documents."""
    return list(stream_documents(paths, field=field, source=source, licence=licence))


def stream_documents(
    paths: Sequence[str | Path],
    *,
    field: str = "text",
    source: str = "",
    licence: str = "unstated",
    report: Report = lambda n_bytes: None,
) -> Iterator[Document]:
    """Read a person's own files one document at a time, in bounded memory.

    A row of .jsonl or .parquet may say its own fields of Document; otherwise the source is the
    file's stem ("novel.de.txt": source "novel-de", language "de"), and the id is the file's name,
    uncompressed, and the number in it.

    Args:
        paths: .txt and .jsonl files, also compressed (.gz, .zst), .parquet files, folders and
            globs of them.
        field: Where a row of .jsonl or .parquet has its text; "a.b" is within an object.
        source: Name of the source of all files, as a stem names it ("novel.de"). The id is then
            the file's path in the common folder where two files have one name.
        licence: Of the documents that do not say theirs.
        report: Called with the number of bytes on disk that were read since the last time.

    Raises:
        DataError: A file is missing, empty, damaged, not UTF-8, of another kind, without the
            field, or two files would be one source or give one id.
    """
    files = find_files(paths)
    sources = [name_source(file.stem, shared=source) for file in files]
    if not source:
        check_sources(files, [name for name, _ in sources])
    for file, name, (own, language) in zip(files, name_files(files), sources, strict=True):
        defaults = Document(id=name, text="", source=own, language=language, licence=licence)
        n_documents = 0
        for document in read_file(file, defaults, field=field, report=report):
            n_documents += 1
            yield document
        if not n_documents:
            raise DataError(
                f"{file.path}: the file holds no text; give a file with text, or leave it out"
            )


def read_file(
    file: TextFile, defaults: Document, *, field: str, report: Report
) -> Iterator[Document]:
    """Yield the documents of a file.

    Args:
        defaults: What they have that do not say otherwise; the id is that of the file.
    """
    common = asdict(defaults)
    for number, row in read_rows(file, field=field, report=report):
        text = clean_text(row["text"])
        if text.strip():
            yield Document(**common | {"id": f"{defaults.id}:{number}"} | row | {"text": text})


def check_sources(files: Sequence[TextFile], sources: Sequence[str]) -> None:
    """Refuse that two files are one source, which nobody asked for."""
    by_source: dict[str, TextFile] = {}
    for file, source in zip(files, sources, strict=True):
        if source in by_source:
            raise DataError(
                f"{file.path} and {by_source[source].path} would both be the source {source!r}: "
                "rename one of them, or give source= as the name of all inputs"
            )
        by_source[source] = file


def name_files(files: Sequence[TextFile]) -> list[str]:
    """Name the files: by their names, or where two have one name by the paths to them."""
    n_named = Counter(file.name for file in files)
    places = [file.path.absolute() for file in files]
    folder = os.path.commonpath([place.parent for place in places])
    names = [
        file.name
        if n_named[file.name] == 1
        else (place.parent.relative_to(folder) / file.name).as_posix()
        for file, place in zip(files, places, strict=True)
    ]
    by_name: dict[str, TextFile] = {}
    for file, name in zip(files, names, strict=True):
        if name in by_name:
            raise DataError(
                f"{file.path} and {by_name[name].path} differ in their compression only, and "
                "their documents would have the same ids: leave one of them out"
            )
        by_name[name] = file
    return names


def name_source(stem: str, *, shared: str = "") -> tuple[str, str]:
    """Name the source and the language of a file, from the shared source where there is one."""
    match = LANGUAGE_SUFFIX.match(shared) or LANGUAGE_SUFFIX.match(stem)
    source = re.sub(r"[^\w-]+", "-", shared or stem).strip("-") or "text"
    return source, match[2] if match else source


def write_documents(documents: Iterable[Document], path: str | Path) -> None:
    """Write documents as .jsonl, under a temporary name until complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        for document in documents:
            file.write(json.dumps(asdict(document), ensure_ascii=False) + "\n")
    partial.replace(path)
