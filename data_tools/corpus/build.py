"""Build the reference corpus: a file per source and language, the licences, a manifest.

A package that was finished is not made again: its stamp in `.done/` holds a hash of its recipe and
of the code that reads it, and the hashes of its files.
"""

import hashlib
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache as remember
from pathlib import Path
from typing import Any

from data_tools.corpus.extract import Extract, extract_package, licence_file
from data_tools.corpus.recipes import Recipe
from data_tools.corpus.registries import Package, download_recipe
from data_tools.documents import Document, write_documents
from data_tools.processes import end_with_parent
from helix.data import DataError
from helix.data.files import hash_file
from helix.data.progress import show_progress

N_DOWNLOADS = 4
STAMPS = ".done"
NOT_READING = {"recipes.py", "registries.py", "build.py"}
Download = Callable[[Recipe, Path], Package]


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    """One file of the corpus, as the manifest tells it."""

    file: str
    source: str
    language: str
    domain: str
    package: str
    registry: str
    version: str
    licence: str
    n_documents: int
    n_bytes: int
    n_validation_documents: int
    sha256: str


def build_corpus(
    recipes: Sequence[Recipe],
    out: Path,
    cache: Path,
    *,
    n_processes: int | None = None,
    download: Download = download_recipe,
) -> dict[str, Any]:
    """Make what is not yet made, and write the manifest.

    Args:
        out: Folder of the corpus; it may hold no text of others.
        cache: Folder of downloaded packages.
        n_processes: How many packages are read at a time; None for one a core, 0 for none beside
            this process.

    Returns:
        The manifest. A package that failed is told there, what an earlier run made of it is
        removed, and the rest was made.

    Raises:
        DataError: `out` holds text of another set, or not one package could be had.
    """
    refuse_strangers(recipes, out)
    for folder in (out / STAMPS, out / "licences", cache):
        folder.mkdir(parents=True, exist_ok=True)
    todo = [recipe for recipe in recipes if read_stamp(recipe, out) is None]
    failures = make_packages(todo, out, cache, n_processes, download)
    if len(failures) == len(recipes):
        raise DataError(f"no package could be had; the first: {next(iter(failures.values()))}")
    manifest = make_manifest(recipes, out, failures)
    remove_untold(manifest, out)
    write_text(out / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def refuse_strangers(recipes: Sequence[Recipe], out: Path) -> None:
    """Refuse a folder with text that this set would not have: a reader would take it for ours."""
    if out.exists() and not out.is_dir():
        raise DataError(f"out={out}: give a folder, this is a file")
    sources = {recipe.source for recipe in recipes}
    for file in sorted([*out.glob("*.jsonl"), *out.glob("*.txt")]):
        if file.stem.rpartition(".")[0] not in sources:
            raise DataError(
                f"out={out}: {file.name} is not of this set; give another folder, or move the file"
            )


def remove_untold(manifest: dict[str, Any], out: Path) -> None:
    """Remove text of earlier runs that the manifest does not name: the next verb would read it."""
    told = {source["file"] for source in manifest["sources"]}
    for file in out.glob("*.jsonl"):
        if file.name not in told:
            file.unlink()


def make_packages(
    recipes: Sequence[Recipe],
    out: Path,
    cache: Path,
    n_processes: int | None,
    download: Download,
) -> dict[str, str]:
    """Download in threads, read in processes; give the failures by package."""
    if not recipes:
        return {}
    n_processes = (os.cpu_count() or 1) if n_processes is None else n_processes
    if not n_processes:
        return gather(
            recipes,
            [attempt(make_package, recipe, download, cache, out) for recipe in recipes],
        )
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(
            min(n_processes, len(recipes)), mp_context=context, initializer=end_with_parent
        ) as readers,
        ThreadPoolExecutor(N_DOWNLOADS + n_processes) as downloaders,
    ):
        futures = [
            downloaders.submit(make_elsewhere, readers, recipe, download, cache, out)
            for recipe in recipes
        ]
        try:
            return gather(recipes, futures)
        except BaseException:
            downloaders.shutdown(wait=False, cancel_futures=True)
            readers.shutdown(wait=False, cancel_futures=True)
            raise


def attempt(function: Callable[..., None], *arguments: Any) -> Future[None]:
    """Call a function now and keep what it raises."""
    future: Future[None] = Future()
    try:
        future.set_result(function(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future


def gather(recipes: Sequence[Recipe], futures: Sequence[Future[None]]) -> dict[str, str]:
    """Wait for all packages, and tell what went wrong with which."""
    failures = {}
    pairs = list(zip(recipes, futures, strict=True))
    for recipe, future in show_progress(pairs, "fetch packages"):
        if error := future.exception():  # whatever it is, the other packages go on
            said = str(error) if isinstance(error, DataError) else repr(error)
            named = said.startswith(f"{recipe.package}: ")
            failures[recipe.package] = said if named else f"{recipe.package}: {said}"
    return failures


def make_package(recipe: Recipe, download: Download, cache: Path, out: Path) -> None:
    """Download a package and make its files."""
    write_package(recipe, download(recipe, cache), cache, out, recipe_key(recipe))


def make_elsewhere(
    readers: ProcessPoolExecutor, recipe: Recipe, download: Download, cache: Path, out: Path
) -> None:
    """Download a package in this thread and make its files in a process."""
    package = download(recipe, cache)
    readers.submit(write_package, recipe, package, cache, out, recipe_key(recipe)).result()


def write_package(recipe: Recipe, package: Package, cache: Path, out: Path, key: str) -> None:
    """Write the files of a package, then its stamp: a killed run leaves no stamp."""
    extract = extract_package(recipe, package, cache)
    write_text(out / licence_file(recipe), extract.licence.text)
    sources, pairs = write_languages(recipe, package, extract, out)
    stamp = {"key": key, "sources": sources, "pairs": pairs}
    write_text(stamp_path(recipe, out), json.dumps(stamp, ensure_ascii=False))


def write_languages(
    recipe: Recipe, package: Package, extract: Extract, out: Path
) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """Write a file per language; give their records and the pairs in each."""
    sources = []
    pairs = {}
    for language, documents in extract.documents.items():
        path = out / f"{recipe.source}.{language}.jsonl"
        write_documents(documents, path)
        sources.append(asdict(make_record(recipe, package, documents, path, extract)))
        pairs[language] = [document.pair for document in documents if document.pair]
    return sources, pairs


def make_record(
    recipe: Recipe, package: Package, documents: list[Document], path: Path, extract: Extract
) -> SourceRecord:
    """Count a file's documents and bytes of text."""
    return SourceRecord(
        file=path.name,
        source=documents[0].source,
        language=documents[0].language,
        domain=recipe.domain,
        package=recipe.package,
        registry=recipe.registry,
        version=package.version,
        licence=recipe.licence or " / ".join(extract.licence.names) or licence_file(recipe),
        n_documents=len(documents),
        n_bytes=sum(len(document.text.encode()) for document in documents),
        n_validation_documents=sum(document.split == "validation" for document in documents),
        sha256=hash_file(path),
    )


def make_manifest(recipes: Sequence[Recipe], out: Path, failures: dict[str, str]) -> dict[str, Any]:
    """Add up what the stamps say."""
    stamps = [stamp for recipe in recipes if (stamp := read_stamp(recipe, out))]
    sources = [source for stamp in stamps for source in stamp["sources"]]
    sources.sort(key=lambda source: source["file"])
    languages_of_pair = Counter(
        pair for stamp in stamps for pairs in stamp["pairs"].values() for pair in set(pairs)
    )
    return {
        "bytes_by_language": add_up(sources, "language"),
        "bytes_by_domain": add_up(sources, "domain"),
        "n_documents": sum(source["n_documents"] for source in sources),
        "n_twins": sum(count > 1 for count in languages_of_pair.values()),
        "sources": sources,
        "failures": failures,
    }


def add_up(sources: list[dict[str, Any]], field: str) -> dict[str, int]:
    """Add the bytes of sources that share a field."""
    totals: Counter[str] = Counter()
    for source in sources:
        totals[source[field]] += source["n_bytes"]
    return dict(sorted(totals.items()))


def read_stamp(recipe: Recipe, out: Path) -> dict[str, Any] | None:
    """Give the stamp of a finished package whose files are as they were written."""
    try:
        stamp = json.loads(stamp_path(recipe, out).read_text(encoding="utf-8"))
        files = {source["file"]: source["sha256"] for source in stamp["sources"]}
        is_whole = stamp["key"] == recipe_key(recipe) and (out / licence_file(recipe)).is_file()
        is_whole = is_whole and all(hash_file(out / file) == files[file] for file in files)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return stamp if is_whole else None


def stamp_path(recipe: Recipe, out: Path) -> Path:
    """Tell where a package's stamp lies."""
    return out / STAMPS / f"{Path(licence_file(recipe)).stem}.json"


def recipe_key(recipe: Recipe) -> str:
    """Hash a recipe and the code that reads packages."""
    return hashlib.sha256((repr(recipe) + hash_code()).encode()).hexdigest()


@remember
def hash_code() -> str:
    """Hash the modules that make documents of packages."""
    files = sorted(file for file in Path(__file__).parent.glob("*.py"))
    hashes = [hash_file(file) for file in files if file.name not in NOT_READING]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name until complete."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    partial.replace(path)


def describe_corpus(manifest: dict[str, Any]) -> str:
    """Draw the manifest as a table."""
    row = "{:<34} {:<12} {:<22} {:>9} {:>9}".format
    lines = [row("source", "domain", "version", "documents", "MB")]
    for source in manifest["sources"]:
        lines.append(
            row(
                source["source"],
                source["domain"],
                source["version"][:22],
                source["n_documents"],
                f"{source['n_bytes'] / 1e6:.2f}",
            )
        )
    for language, n_bytes in manifest["bytes_by_language"].items():
        lines.append(row(f"all {language}", "", "", "", f"{n_bytes / 1e6:.2f}"))
    lines.append(f"{manifest['n_documents']} documents, {manifest['n_twins']} with a twin")
    lines += [f"FAILED {message}" for message in manifest["failures"].values()]
    return "\n".join(lines)
