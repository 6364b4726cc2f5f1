"""Documents: what the data tools hand to each other, and the readers of a person's own files.

A .txt file is grouped by paragraphs into documents of about `DOCUMENT_BYTES`; a .jsonl file
holds one document per line, under "text".
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from helix.data import DataError

DOCUMENT_BYTES = 4096  # a few hundred to a thousand tokens: several documents in a row of context
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f]")  # C0 but for tab and newline
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
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


FIELDS = tuple(field.name for field in fields(Document))


def clean_text(text: str) -> str:
    """Make line ends newlines and drop control characters, all but tab and newline."""
    return CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def group_blocks(
    blocks: Iterable[str], *, separator: str = "\n\n", document_bytes: int = DOCUMENT_BYTES
) -> Iterator[str]:
    """Join neighbouring blocks of text into documents of about `document_bytes`.

    A block longer than that is cut at a line end, else at a space, else where it must be.
    """
    group: list[str] = []
    n_bytes = 0
    for block in (part for whole in blocks for part in cut_block(whole, document_bytes)):
        n_block_bytes = len(block.encode())
        if group and n_bytes + n_block_bytes > document_bytes:
            yield separator.join(group)
            group, n_bytes = [], 0
        group.append(block)
        n_bytes += n_block_bytes + len(separator)
    if group:
        yield separator.join(group)


def cut_block(block: str, n_characters: int) -> Iterator[str]:
    """Cut a block into parts of at most `n_characters`."""
    while len(block) > n_characters:
        cut = max(block.rfind("\n", 1, n_characters), 0) or max(
            block.rfind(" ", 1, n_characters), 0
        )
        cut = cut or n_characters
        if part := block[:cut].strip("\n "):
            yield part
        block = block[cut:].lstrip("\n ")
    if block:
        yield block


def read_documents(paths: Sequence[str | Path], *, licence: str = "unstated") -> list[Document]:
    """Read all documents at once; see stream_documents."""
    return list(stream_documents(paths, licence=licence))


def stream_documents(
    paths: Sequence[str | Path], *, licence: str = "unstated"
) -> Iterator[Document]:
    """Read a person's own .txt and .jsonl files, or all such files of a folder, one by one.

    A line of .jsonl may say its own fields of Document; otherwise the source is the file's stem
    ("novel.de.txt": source "novel-de", language "de").

    Raises:
        DataError: A file is missing, empty, not UTF-8, of another kind, or two files would be
            one source.
    """
    files = [file for path in paths for file in text_files(Path(path))]
    if not files:
        raise DataError("no text given: name .txt or .jsonl files, or a folder of them")
    for file, (source, language) in name_sources(files).items():
        defaults = Document(id="", text="", source=source, language=language, licence=licence)
        n_documents = 0
        for document in (read_jsonl if file.suffix == ".jsonl" else read_txt)(file, defaults):
            n_documents += 1
            yield document
        if not n_documents:
            raise DataError(
                f"{file}: the file holds no text; give a file with text, or leave it out"
            )


def name_sources(files: Sequence[Path]) -> dict[Path, tuple[str, str]]:
    """Name the source and the language of each file; no two may be one source."""
    named: dict[Path, tuple[str, str]] = {}
    by_source: dict[str, Path] = {}
    for file in files:
        source, language = name_source(file)
        if source in by_source:
            raise DataError(
                f"{file} and {by_source[source]} would both be the source {source!r}: rename one "
                "of them"
            )
        by_source[source] = file
        named[file] = source, language
    return named


def write_documents(documents: Iterable[Document], path: str | Path) -> None:
    """Write documents as .jsonl, under a temporary name until complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        for document in documents:
            file.write(json.dumps(asdict(document), ensure_ascii=False) + "\n")
    partial.replace(path)


def text_files(path: Path) -> list[Path]:
    """List the text files that a path stands for."""
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in (".txt", ".jsonl"))
        if not found:
            raise DataError(f"{path}: the folder holds no .txt or .jsonl file")
        return found
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix not in (".txt", ".jsonl"):
        raise DataError(
            f"{path}: give a .txt or .jsonl file, not {path.suffix or 'one without a suffix'}"
        )
    return [path]


def name_source(file: Path) -> tuple[str, str]:
    """Name the source and the language of a file from its stem."""
    match = LANGUAGE_SUFFIX.match(file.stem)
    source = re.sub(r"[^\w-]+", "-", file.stem).strip("-") or "text"
    return source, match[2] if match else source


def decode_file(file: Path) -> str:
    """Read a file as UTF-8, or say at which byte it is not."""
    data = file.read_bytes()
    if not data.strip():
        raise DataError(f"{file}: the file is empty; give a file with text, or leave it out")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start
        encoding = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
        raise DataError(
            f"{file}: byte {at} (0x{data[at]:02x}) is not UTF-8; convert the file, "
            f"for example: iconv -f {encoding} -t UTF-8 {file.name} > utf8-{file.name}"
        ) from None


def read_txt(file: Path, defaults: Document) -> Iterator[Document]:
    """Yield documents of about `DOCUMENT_BYTES` made of neighbouring paragraphs."""
    paragraphs = re.split(r"\n[ \t]*\n\s*", clean_text(decode_file(file)))
    blocks = (paragraph.strip("\n") for paragraph in paragraphs if paragraph.strip())
    for number, text in enumerate(group_blocks(blocks)):
        yield Document(**asdict(defaults) | {"id": f"{file.name}:{number}", "text": text})


def read_jsonl(file: Path, defaults: Document) -> Iterator[Document]:
    """Yield the document of each line that holds text."""
    for number, line in enumerate(decode_file(file).split("\n"), start=1):
        if line.strip():
            row = parse_line(line, where=f"{file}, line {number}")
            text = clean_text(row.pop("text"))
            if text.strip():
                named = {"id": f"{file.name}:{number}", "text": text, **row}
                yield Document(**asdict(defaults) | named)


def parse_line(line: str, *, where: str) -> dict[str, str]:
    """Parse one line of .jsonl into the fields of a document."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error}); write one object per line") from None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise DataError(f'{where}: no text; write {{"text": "..."}} on each line')
    known = {name: row[name] for name in FIELDS if row.get(name) is not None}
    wrong = [name for name, value in known.items() if not isinstance(value, str)]
    if wrong:
        raise DataError(f"{where}: {wrong[0]} must be a string, not {known[wrong[0]]!r}")
    if HALF_CHARACTER.search(known["text"]):
        raise DataError(
            f"{where}: half of a surrogate pair (\\ud800 to \\udfff) is no text; remove it"
        )
    return known
