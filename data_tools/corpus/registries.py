"""Download packages by name, with the ordinary client of each registry; none of their code runs."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from data_tools.corpus.recipes import Recipe
from helix.data import DataError

DOWNLOAD_TIMEOUT_S = 900
NO_NETWORK = (
    "Temporary failure resolving",
    "Could not resolve",
    "Unable to connect",
    "Failed to establish a new connection",
    "Name or service not known",
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
)
NO_SUCH_PACKAGE = (
    "Unable to locate package",
    "No packages found",
    "No matching distribution",
    "has no candidate",
    "Can't select candidate",
    "E404",
    "ETARGET",
)


@dataclass(frozen=True, kw_only=True)
class Package:
    """A downloaded package: its archive as the registry gave it."""

    name: str
    registry: str
    version: str
    path: Path


Client = Callable[[str, str], Sequence[str]]


def apt_command(name: str, version: str) -> Sequence[str]:
    """Tell how to download from Debian."""
    return ["apt-get", "-qq", "download", f"{name}={version}" if version else name]


def pip_command(name: str, version: str) -> Sequence[str]:
    """Tell how to download a wheel; an sdist would have to run its setup.py."""
    arguments = ["-q", "--disable-pip-version-check", "download", "--no-deps"]
    return [sys.executable, "-m", "pip", *arguments, "--only-binary=:all:", f"{name}=={version}"]


def npm_command(name: str, version: str) -> Sequence[str]:
    """Tell how to download from npm."""
    return ["npm", "pack", "--silent", "--ignore-scripts", f"{name}@{version}"]


@dataclass(frozen=True, kw_only=True)
class Registry:
    """A registry: where its archives lie in the cache, how they are called, who downloads."""

    folder: str
    command: Client
    suffix: str
    mend: str


REGISTRIES: Mapping[str, Registry] = {
    "debian": Registry(
        folder="debs",
        command=apt_command,
        suffix=".deb",
        mend="run `apt-get update` as root; the set needs Debian 12",
    ),
    "pypi": Registry(
        folder="pypi",
        command=pip_command,
        suffix=".whl",
        mend="see `pip config list` for the index that pip asks",
    ),
    "npm": Registry(
        folder="npm",
        command=npm_command,
        suffix=".tgz",
        mend="see `npm config get registry` for the registry that npm asks",
    ),
}


def download(name: str, registry: str, version: str, cache: Path) -> Package:
    """Download a package, or take it from the cache.

    Raises:
        DataError: The client is missing or fails; the message says what to do.
    """
    folder = cache / REGISTRIES[registry].folder
    path = find_cached(name, registry, version, folder) or fetch_archive(
        name, registry, version, folder
    )
    return Package(name=name, registry=registry, version=archive_version(path), path=path)


def download_recipe(recipe: Recipe, cache: Path) -> Package:
    """Download the package of a recipe."""
    return download(recipe.package, recipe.registry, recipe.version, cache)


def find_cached(name: str, registry: str, version: str, folder: Path) -> Path | None:
    """Find a package in the cache; the last by name where there are several."""
    stem = file_stem(name, registry)
    separator = "_" if registry == "debian" else "-"
    pattern = f"{stem}{separator}{version or ''}*{REGISTRIES[registry].suffix}"
    return max(folder.glob(pattern), default=None)


def file_stem(name: str, registry: str) -> str:
    """Tell how the archive of a package begins."""
    if registry == "pypi":
        return name.replace("-", "_")
    return name.removeprefix("@").replace("/", "-") if registry == "npm" else name


def archive_version(path: Path) -> str:
    """Read the version out of an archive's name."""
    if path.suffix == ".deb":
        return unquote(path.name.split("_")[1])
    if path.suffix == ".whl":
        return path.name.split("-")[1]
    return path.stem.rpartition("-")[2]


def fetch_archive(name: str, registry: str, version: str, folder: Path) -> Path:
    """Download beside the cache and move what came into it, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        run_client(REGISTRIES[registry].command(name, version), registry, name, Path(scratch))
        came = sorted(Path(scratch).glob("*" + REGISTRIES[registry].suffix))
        if len(came) != 1:
            raise DataError(
                f"{name}: {registry} gave {len(came)} files of kind "
                f"{REGISTRIES[registry].suffix}, not one; {REGISTRIES[registry].mend}"
            )
        return came[0].replace(folder / came[0].name)


def run_client(command: Sequence[str], registry: str, name: str, folder: Path) -> None:
    """Run a registry's client in a folder, or say why it failed."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise DataError(
            f"{name}: {command[0]} is not installed; install it, or take a set without "
            f"packages of {registry}"
        ) from None
    except subprocess.TimeoutExpired:
        raise DataError(
            f"{name}: {command[0]} did not end within {DOWNLOAD_TIMEOUT_S} s; run fetch again"
        ) from None
    if done.returncode:
        raise DataError(explain_failure(done.stderr + done.stdout, command, registry, name))


def explain_failure(said: str, command: Sequence[str], registry: str, name: str) -> str:
    """Say why a client failed and what to do."""
    shown = " ".join(command)
    if any(words in said for words in NO_NETWORK):
        return f"{name}: no network to {registry} (`{shown}`); run fetch again when there is"
    if any(words in said for words in NO_SUCH_PACKAGE):
        return f"{name}: {registry} has no such package or version; {REGISTRIES[registry].mend}"
    last = " ".join(said.strip().splitlines()[-3:])[-400:]
    return f"{name}: `{shown}` failed: {last or 'without a word'}"
