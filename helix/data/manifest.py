"""The manifest: what a dataset is, and the names of its files.

A manifest may come from a stranger: a name in it must not lead out of the dataset's folder.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
REPAIR = "copy the file again from where the dataset was made, or make the dataset again"

ID_DTYPES = ("<u2", "<u4")
Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
Record = TypeVar("Record")


class DataError(ValueError):
    """Data that cannot be used as they are; the message says what to do."""


class FetchError(DataError):
    """A file that cannot be had now, whatever it is like."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar, as the manifest has it."""

    file: str
    n_file_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a split holds of one source, as the manifest has it.

    Attributes:
        n_tokens: Ids, with the bos and eos of each document.
        n_bytes: UTF-8 bytes of the text.
        index: File of the index, in the folder of the dataset.
        index_hash: `hash_index` of its content.
    """

    language: str
    licences: tuple[str, ...]
    n_documents: int
    n_tokens: int
    n_bytes: int
    index: str
    index_hash: str
    shards: tuple[Shard, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a dataset is.

    Attributes:
        id_dtype: numpy dtype of the ids in the shards, "<u2" or "<u4".
        splits: Split, then source name, to what it holds.
        creation: The parameters it was made with.
        versions: Package to its version: what wrote it, for people. The same ids written by other
            versions are the same data, so a run goes on with them.
    """

    tokenizer_fingerprint: str
    n_vocab: int
    id_dtype: str
    splits: dict[str, dict[str, Source]]
    creation: dict[str, int | float | str]
    format_version: int = FORMAT_VERSION
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Hash what the manifest says of the data, and so every byte of them."""
        return hash_fields(replace(self, versions={}).fields())

    def fields(self) -> dict[str, Any]:
        """Give all that the manifest says; versions are not in datasets of before November 2026."""
        fields = asdict(self)
        return fields if self.versions else {k: v for k, v in fields.items() if k != "versions"}

    def to_json(self) -> str:
        """Write the manifest and the hash of all that it says; equal ones are equal texts."""
        return format_json(self.fields() | {"fingerprint": hash_fields(self.fields())})

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read manifest.json from the folder of a dataset."""
        file = path / MANIFEST
        if not file.is_file():
            raise DataError(
                f"data.path={path}: no dataset there ({MANIFEST} is missing: the path is wrong, or "
                "the writer was stopped); make it with helix data shard"
            )
        return cls.parse(file.read_bytes(), str(file))

    @classmethod
    def parse(cls, content: bytes, file: str) -> "Manifest":
        """Read what a manifest.json holds, and refuse one that is not as it was written.

        Args:
            file: How a person calls it.
        """
        try:
            fields = json.loads(content)
            version = fields["format_version"]
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{file}: damaged ({error}); make the dataset again") from None
        if version != FORMAT_VERSION:
            raise DataError(
                f"{file}: format version {version}, but this helix reads version {FORMAT_VERSION}; "
                "make the dataset again with helix data shard"
            )
        told = fields.pop("fingerprint", None)  # not in datasets of before November 2026
        try:
            manifest = of_types(cls(**fields | {"splits": read_splits(fields["splits"])}))
            found = hash_fields(manifest.fields())
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"{file}: damaged ({error}); make the dataset again") from None
        if told not in (None, found):
            raise DataError(
                f"{file}: changed since it was written (its content hashes to {found[:16]}, it "
                f"says {str(told)[:16]}); {REPAIR}"
            )
        if manifest.id_dtype not in ID_DTYPES:
            raise DataError(
                f"{file}: damaged (id_dtype is {manifest.id_dtype!r:.40}, not one of "
                f"{', '.join(ID_DTYPES)}); make the dataset again"
            )
        if not manifest.splits.get("train"):
            raise DataError(f"{file}: damaged (no source to train on); make the dataset again")
        check_names(manifest, file)
        return manifest

    def shards(self, split: Split) -> Iterator[tuple[str, int, Shard]]:
        """Give the source, number and facts of each shard of a split, in the manifest's order."""
        for name, source in sorted(self.splits[split].items()):
            for number, shard in enumerate(source.shards):
                yield name, number, shard


def hash_fields(fields: dict[str, Any]) -> str:
    """Hash fields as they are written."""
    return hashlib.sha256(format_json(fields).encode()).hexdigest()


def check_names(manifest: Manifest, file: str) -> None:
    """Refuse a manifest whose names lead out of the dataset's folder, or that names a file twice.

    Args:
        file: How a person calls the manifest.
    """
    taken = {MANIFEST}
    for sources in manifest.splits.values():
        for source in sources.values():
            for name in (source.index, *(shard.file for shard in source.shards)):
                if not is_plain(name):
                    raise DataError(
                        f"{file}: names the file {name!r}, which may lie outside the dataset's "
                        "folder; whoever made it means harm or erred: use another dataset"
                    )
                if name in taken:
                    raise DataError(f"{file}: names the file {name!r} twice; make it again")
                taken.add(name)


def is_plain(name: object) -> bool:
    """Tell whether a name is relative and leads down only, past nothing hidden."""
    if not isinstance(name, str) or "\\" in name or not name.isprintable():
        return False
    return all(part and not part.startswith(".") for part in name.split("/"))


def format_json(fields: dict) -> str:
    """Write JSON for people to read; equal fields are equal texts."""
    return json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def read_splits(splits: Mapping[str, Mapping[str, dict]]) -> dict[str, dict[str, Source]]:
    """Rebuild the sources of each split from JSON."""
    return {
        split: {name: read_source(fields) for name, fields in splits[split].items()}
        for split in SPLITS
    }


def read_source(fields: dict) -> Source:
    """Rebuild one source from JSON."""
    shards = tuple(of_types(Shard(**shard)) for shard in fields["shards"])
    source = Source(**fields | {"shards": shards, "licences": tuple(fields["licences"])})
    if not shards or of_types(source).n_documents < 1:
        raise ValueError(f"{source.index!r}: a source without a shard or without a document")
    return source


def of_types(record: Record) -> Record:
    """Give back a record out of JSON if its fields have the types that its class declares."""
    for name, declared in get_type_hints(type(record)).items():
        value = getattr(record, name)
        kind = get_origin(declared) or declared
        items = value if kind is tuple and isinstance(value, tuple) else ()
        if type(value) is not kind or any(type(item) not in get_args(declared) for item in items):
            raise TypeError(f"{name} is {value!r:.40}")
    return record
