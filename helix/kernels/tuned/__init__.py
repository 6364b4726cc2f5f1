"""Launch constants of our Triton kernels, by device: how they are cut and compiled.

Each module holds defaults, measured on one H200. A JSON file may override them, whole or in part:
the one that the environment variable HELIX_TUNED names or else the one of this folder that belongs
to the device. `helix doctor tune` makes such files. Nothing is measured while a run trains, so all
ranks and every start compute the same.
"""

import functools
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

Value = TypeVar("Value")

VARIABLE = "HELIX_TUNED"
FOLDER = Path(__file__).parent

# A device without a file of its own takes that of its chip, by how its slug begins: Hopper's
# registers and shared memory are the same beside any memory and in any case.
CHIPS = {"nvidia_h100": "nvidia_h200", "nvidia_h200": "nvidia_h200", "nvidia_gh200": "nvidia_h200"}

# All that a file may set, by family: the constants of helix.kernels.triton_FAMILY.
CONSTANTS = {
    "gla": ("RELATE", "WALK", "DIFFERENTIATE", "STRONG"),
    "ssd": ("HEAR", "PULL_INPUTS", "PULL_STATES", "PULL_SCORES", "WALK", "WALK_REGISTERS"),
    "sparse": ("FORWARD", "BY_QUERIES", "BY_KEYS", "FIRST"),
    "conv": ("FORWARD", "BACKWARD"),
    "cross_entropy": ("LANES", "LANE_COLUMNS", "WARPS"),
}
MAY_BE_NULL = ("maxnreg", "n_registers")  # of a limit on registers: none


class TunedError(ValueError):
    """A file of launch constants that does not fit the kernels; the message says where."""


def tuned(name: str, default: Value) -> Value:
    """Give the launch constant of that name for this device.

    Args:
        name: "family.CONSTANT", one of CONSTANTS.
        default: A number, a NamedTuple or dict of numbers, or a dict of such by width.

    Raises:
        TunedError: The file in effect is none of launch constants, or holds unknown ones.
    """
    family, constant = name.split(".")
    assert constant in CONSTANTS[family], f"{name} is missing in CONSTANTS"
    file = file_in_effect()
    given = {} if file is None else read(file).get(family, {})
    return override(default, given[constant], f"{file}: {name}") if constant in given else default


def file_in_effect() -> Path | None:
    """Give the file whose constants hold here; None where the defaults do."""
    if not torch.cuda.is_available():
        return None
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    slug = slug_of(torch.cuda.get_device_name())
    chips = [chip for beginning, chip in CHIPS.items() if slug.startswith(beginning)]
    files = [FOLDER / f"{name}.json" for name in (slug, *chips)]
    return next((file for file in files if file.is_file()), None)


def describe() -> str:
    """Say whose constants hold here."""
    return str(file_in_effect() or "defaults, measured on one H200")


def slug_of(device: str) -> str:
    """Give the name of a device as that of a file."""
    return re.sub(r"[^a-z0-9]+", "_", device.lower()).strip("_")


@functools.cache
def read(file: Path) -> dict[str, dict[str, Any]]:
    """Read a file's constants, by family and name; see `tuned` for errors."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))["values"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TunedError(f"{file}: no file of launch constants: {error!r}") from error
    for family, constants in _mapping(values, str(file)).items():
        _refuse_unknown({family}, CONSTANTS, str(file))
        where = f"{file}: {family}"
        _refuse_unknown(_mapping(constants, where), CONSTANTS[family], where)
    return values


def override(default: Value, given: Any, where: str) -> Value:
    """Give the default with some of its numbers changed; see `tuned` for kinds and errors."""
    if isinstance(default, int):
        return _number(given, where)  # pyright: ignore[reportReturnType]
    is_tuple = isinstance(default, tuple)
    fields: Any = default._asdict() if is_tuple else default  # pyright: ignore
    names = {str(key): key for key in fields}
    _refuse_unknown(_mapping(given, where), names, where)
    changed = {
        names[key]: _number(value, f"{where}.{key}", may_be_null=key in MAY_BE_NULL)
        if fields[names[key]] is None or isinstance(fields[names[key]], int)
        else override(fields[names[key]], value, f"{where}.{key}")
        for key, value in given.items()
    }
    return default._replace(**changed) if is_tuple else fields | changed  # pyright: ignore


def _number(given: Any, where: str, *, may_be_null: bool = False) -> int | None:
    if given is None and may_be_null:
        return None
    if not isinstance(given, int) or isinstance(given, bool) or given < 0:
        raise TunedError(f"{where}={given!r}: give a whole number")
    return given


def _mapping(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise TunedError(f"{where}={given!r}: give values by name")
    return given


def _refuse_unknown(given: Any, known: Mapping[str, Any] | tuple[str, ...], where: str) -> None:
    for name in given:
        if name not in known:
            raise TunedError(f"{where}: {name}: no such name; known: {', '.join(known)}")
