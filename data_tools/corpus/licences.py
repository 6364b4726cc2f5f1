"""What a package says of its licence, in its own file."""

import json
import re
from dataclasses import dataclass

from data_tools.corpus.markup import decode
from data_tools.corpus.recipes import Recipe
from helix.data import DataError

MACHINE_READABLE = "packaging-manuals/copyright-format"  # Debian's copyright-format/1.0, DEP-5
LICENCE_FIELD = re.compile(r"^License:[ \t]*(\S.*)$", re.MULTILINE)
COMMON_LICENCE = re.compile(r"/usr/share/common-licenses/([A-Za-z0-9.+-]*[A-Za-z0-9+])")
METADATA_FIELD = re.compile(r"^(?:License-Expression|License): *(\S.*)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Licence:
    """The licences that a package names, and the words in which it does."""

    names: tuple[str, ...]
    text: str


def is_licence_file(path: str, recipe: Recipe) -> bool:
    """Tell whether a member of a package's archive speaks of its licence."""
    if recipe.registry == "debian":
        return path == copyright_path(recipe.package)
    if recipe.registry == "pypi":
        return re.search(r"\.dist-info/(METADATA$|licenses/|LICEN[CS]E|NOTICE)", path) is not None
    return re.fullmatch(r"package/(package\.json|LICEN[CS]E\S*|NOTICE\S*)", path) is not None


def copyright_path(package: str) -> str:
    """Tell where Debian keeps a package's licence."""
    return f"usr/share/doc/{package}/copyright"


def read_licence(recipe: Recipe, files: dict[str, bytes]) -> Licence:
    """Read the licence out of the files that `is_licence_file` chose.

    Raises:
        DataError: There is none, or it does not name what the recipe says.
    """
    texts = {path: decode(data) for path, data in sorted(files.items())}
    if not texts:
        raise DataError(f"{recipe.package}: the package says nothing of its licence; leave it out")
    if recipe.registry == "debian":
        names = debian_names("\n".join(texts.values()))
    elif recipe.registry == "pypi":
        names = named_in_metadata(texts)
    else:
        names = named_in_package_json(texts)
    if recipe.licence and not any(recipe.licence in name for name in names):
        raise DataError(
            f"{recipe.package}: the recipe says {recipe.licence}, the package names "
            f"{', '.join(names) or 'none'}; look at the package, then mend recipes.py"
        )
    parts = [f"{'=' * 8} {path}\n{text.rstrip()}\n" for path, text in texts.items()]
    return Licence(names=names, text="\n".join(parts))


def debian_names(text: str) -> tuple[str, ...]:
    """List the licences of a copyright file, in their order, each once."""
    if MACHINE_READABLE in text[:1000]:
        names = [match[1].strip() for match in LICENCE_FIELD.finditer(text)]
    else:
        names = [match[1] for match in COMMON_LICENCE.finditer(text)]
    return tuple(dict.fromkeys(names))


def named_in_metadata(texts: dict[str, str]) -> tuple[str, ...]:
    """List the licences of a wheel's METADATA."""
    found = (text for path, text in texts.items() if path.endswith("/METADATA"))
    header = next(found, "").partition("\n\n")[0]
    return tuple(dict.fromkeys(match[1].strip() for match in METADATA_FIELD.finditer(header)))


def named_in_package_json(texts: dict[str, str]) -> tuple[str, ...]:
    """Give the licence of an npm package."""
    named = json.loads(texts.get("package/package.json", "{}")).get("license")
    return (named,) if isinstance(named, str) else ()


def licence_line(recipe: Recipe, version: str, names: tuple[str, ...], file: str) -> str:
    """Say in one line what a document's licence is and where it is written."""
    named = recipe.licence or " / ".join(names) or "as stated"
    return f"{named} ({recipe.registry} package {recipe.package} {version}, {file})"
