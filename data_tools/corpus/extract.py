"""From a package's archive to documents: read, keep what is text, drop boilerplate, name twins."""

import gzip
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from data_tools.corpus import catalogues, markup, packaged_texts, reference_works, roff
from data_tools.corpus.archives import read_members
from data_tools.corpus.licences import (
    Licence,
    copyright_path,
    is_licence_file,
    licence_line,
    read_licence,
)
from data_tools.corpus.paragraphs import drop_boilerplate, keep_text
from data_tools.corpus.recipes import Part, Recipe
from data_tools.corpus.registries import Package, download
from data_tools.documents import Document, clean_text
from helix.data import DataError

DOCUMENT_BYTES = 200  # less is a heading with a line below it
VALIDATION_ONE_IN = 50  # 2% of the documents, twins on one side
LANGUAGE_IN_NAME = re.compile(r"[._](?:de|en|D|E)(?=\.)")
SPDX = re.compile(r"SPDX-License-Identifier: *([A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) \S+)*)")


@dataclass(frozen=True, kw_only=True)
class Text:
    """What a reader finds in a file.

    Attributes:
        key: Names it within the package, the same for its translation.
        licence: The page's own, where it states one.
    """

    key: str
    language: str
    paragraphs: list[str]
    is_translated: bool
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class Extract:
    """The documents of a package by language, and its licence."""

    documents: dict[str, list[Document]]
    licence: Licence


Reader = Callable[[bytes], Iterable[tuple[str, str, list[str]]]]


def whole(paragraphs_of: Callable[[bytes], list[str]]) -> Reader:
    """Read a file as one document in the language of its part."""
    return lambda data: [("", "", paragraphs_of(data))]


def whole_text(paragraphs_of: Callable[[str], list[str]]) -> Reader:
    """Read a text file as one document."""
    return whole(lambda data: paragraphs_of(markup.decode(data)))


def grouped(entries_of: Callable[[str], Iterable[str]]) -> Reader:
    """Read a file of entries as documents of neighbours."""

    def read(data: bytes) -> Iterator[tuple[str, str, list[str]]]:
        for number, lines in reference_works.group_entries(entries_of(markup.decode(data))):
            yield number, "", lines

    return read


def read_kde(data: bytes) -> Iterator[tuple[str, str, list[str]]]:
    """Read a KDE handbook page by page."""
    return ((name, "", paragraphs) for name, paragraphs in markup.kde_pages(data))


def read_properties(data: bytes) -> Iterator[tuple[str, str, list[str]]]:
    """Read a file of properties as documents of some strings each."""
    rows = catalogues.property_documents(markup.decode(data))
    return ((name, "", paragraphs) for name, paragraphs in rows)


KINDS: dict[str, Reader] = {
    "html": whole(markup.html_paragraphs),
    "mallard": whole(markup.xml_paragraphs),
    "docbook": whole(markup.xml_paragraphs),
    "kde": read_kde,
    "man": whole_text(roff.page_paragraphs),
    "mo": catalogues.mo_documents,
    "properties": read_properties,
    "dict": grouped(reference_works.dictd_entries),
    "wordnet": grouped(reference_works.wordnet_entries),
    "fortune": grouped(reference_works.fortunes),
    "ding": grouped(reference_works.ding_entries),
    "glosses": grouped(reference_works.glosses),
    "json": whole_text(packaged_texts.json_paragraphs),
    "book": whole_text(packaged_texts.book_paragraphs),
    "colobot": whole_text(packaged_texts.colobot_lines),
    "pdf": whole(packaged_texts.pdf_paragraphs),
}
TRANSLATED = frozenset({"html", "mallard", "docbook", "kde", "man", "mo", "properties", "colobot"})


def extract_package(recipe: Recipe, package: Package, cache: Path) -> Extract:
    """Make the documents of a package, the same at every call.

    Raises:
        DataError: The archive is broken, says nothing of its licence, or holds no text.
    """
    texts, licence = read_package(recipe, package, cache)
    documents = {
        language: make_documents(recipe, package.version, language, licence, texts)
        for language in sorted({text.language for text in texts})
    }
    documents = {language: found for language, found in documents.items() if found}
    wanted = {part.language for part in recipe.parts if part.language}
    if missing := sorted(wanted - documents.keys()) or ([] if documents else ["any language"]):
        raise DataError(
            f"{recipe.package} {package.version}: no text found in {', '.join(missing)}; the "
            "package has changed, mend its paths in data_tools/corpus/recipes.py"
        )
    return Extract(documents=documents, licence=licence)


def read_package(recipe: Recipe, package: Package, cache: Path) -> tuple[list[Text], Licence]:
    """Read the texts, sorted by key, and the licence out of one pass over the archive."""
    texts: list[Text] = []
    licences: dict[str, bytes] = {}
    owner = ""

    def is_wanted(path: str) -> bool:
        return is_licence_file(path, recipe) or any(part.matches(path) for part in recipe.parts)

    for member in read_members(package.path, is_wanted):
        if member.link:
            owner = owner or licence_owner(recipe.package, member.path, member.link)
        elif is_licence_file(member.path, recipe):
            licences[member.path] = member.data
        else:
            texts += read_file(recipe, member.path, member.data)
    if not licences and owner:
        licences = read_owner(recipe, owner, cache)
    return sorted(texts, key=lambda text: text.key), read_licence(recipe, licences)


def read_file(recipe: Recipe, path: str, data: bytes) -> Iterator[Text]:
    """Yield what each part of the recipe finds in a file."""
    if path.endswith((".gz", ".dz")):
        data = gzip.decompress(data)
    for part in recipe.parts:
        if part.matches(path):
            yield from read_part(part, path, data)


def read_part(part: Part, path: str, data: bytes) -> Iterator[Text]:
    """Yield the texts of a file, named without their language."""
    stated = SPDX.search(data[:4096].decode("latin-1")) if part.kind == "man" else None
    name = path.removeprefix(part.folder).strip("/")
    name = LANGUAGE_IN_NAME.sub("", name.removesuffix(".gz"))
    for key, language, paragraphs in KINDS[part.kind](data):
        yield Text(
            key=f"{name}#{key}" if key else name,
            language=language or part.language,
            paragraphs=paragraphs,
            is_translated=part.kind in TRANSLATED,
            licence=stated[1] if stated else "",
        )


def licence_owner(package: str, path: str, link: str) -> str:
    """Tell which package holds the licence where a symbolic link stands in its place."""
    if path == copyright_path(package):
        return PurePosixPath(link).parent.name
    return PurePosixPath(link).name if path == f"usr/share/doc/{package}" else ""


def read_owner(recipe: Recipe, owner: str, cache: Path) -> dict[str, bytes]:
    """Read the licence out of the package that the link names, of the same source package."""
    package = download(owner, "debian", "", cache)
    wanted = copyright_path(owner)
    members = read_members(package.path, lambda path: path == wanted)
    return {member.path: member.data for member in members if not member.link}


def make_documents(
    recipe: Recipe, version: str, language: str, licence: Licence, texts: list[Text]
) -> list[Document]:
    """Make the documents of one language, one paragraph a line."""
    texts = [text for text in texts if text.language == language]
    kept = [keep_text(map(clean_text, text.paragraphs), language) for text in texts]
    stated = licence_line(recipe, version, licence.names, licence_file(recipe))
    documents = {}
    for text, paragraphs in zip(texts, drop_boilerplate(kept), strict=True):
        joined = "\n".join(paragraphs)
        if len(joined.encode()) < DOCUMENT_BYTES:
            continue
        source = f"{recipe.source}-{language}"
        document = Document(
            id=f"{source}:{text.key}",
            text=joined,
            source=source,
            language=language,
            licence=f"{text.licence}; {stated}" if text.licence else stated,
            domain=recipe.domain,
            pair=f"{recipe.pair_prefix}:{text.key}" if text.is_translated else "",
        )
        if document.id in documents:
            raise DataError(f"{recipe.package}: two texts are called {document.id}")
        documents[document.id] = replace(document, split=split_of(document))
    return list(documents.values())


def licence_file(recipe: Recipe) -> str:
    """Tell where the words of a package's licence are written."""
    return f"licences/{re.sub(r'[^A-Za-z0-9.+-]+', '-', recipe.package).strip('-')}.txt"


def split_of(document: Document) -> str:
    """Choose a document for validation by a hash, the same for all its translations."""
    digest = hashlib.sha256((document.pair or document.id).encode()).digest()
    return "train" if int.from_bytes(digest[:8], "big") % VALIDATION_ONE_IN else "validation"
