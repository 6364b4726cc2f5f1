"""Reading a checkpoint: verified, assembled one parameter at a time, for any stage and ranks."""

import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from helix import distributed
from helix.training.checkpoint.files import (
    STATE,
    CheckpointError,
    checkpoints_dir,
    is_as_described,
    read_json,
    read_manifest,
    refuse_irregular,
    saved_steps,
)
from helix.training.engine import MOMENTS, Engine, ParameterState

OPEN_FILES = 128  # mapped at a time; a process may have 1024
COPY = "restore the checkpoint from a copy"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come, beside its weights.

    Attributes:
        step: Optimizer steps taken, skipped ones included.
        n_tokens: Targets trained on.
        loader: The loader's state_dict.
        guard: The guard's state_dict; empty in checkpoints from before there was one.
        bits_per_byte: Mean over the sources, where this very step was validated.
    """

    step: int = 0
    n_tokens: int = 0
    loader: dict[str, Any] = field(default_factory=dict)
    guard: dict[str, Any] = field(default_factory=dict)
    bits_per_byte: float | None = None


@dataclass(frozen=True, kw_only=True)
class State:
    """What state.json holds: progress, AdamW's count of updates, each parameter's shape."""

    progress: Progress
    n_updates: int
    shapes: dict[str, list[int]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of a parameter's elements, and where it is kept."""

    offset: int
    n_elements: int
    file: Path
    key: str


def newest(run_dir: str | Path) -> Path | None:
    """Find the newest checkpoint whose every byte is as it was written; None if there is none.

    Raises:
        CheckpointError: There are checkpoints, and not one is intact.
    """
    folder = checkpoints_dir(run_dir)
    found = [*saved_steps(folder).values()][::-1]
    for path in found:
        if is_intact(path):
            if path != found[0]:
                print(f"helix: {found[0]}: damaged; going on from {path.name}", file=sys.stderr)
            return path
    if found:
        raise CheckpointError(
            f"{folder}: none of {len(found)} checkpoints is intact; restore one from a copy, or "
            "remove the folder to train from the start"
        )
    return None


def is_intact(path: Path) -> bool:
    """Tell whether a checkpoint's manifest names files that are there with the bytes it names."""
    try:
        _, files = read_manifest(path)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            paths = (path / name for name in files)
            return STATE in files and all(pool.map(is_as_described, paths, files.values()))
    except (OSError, ValueError):
        return False


def read_state(path: Path) -> State:
    """Read a checkpoint's state.json.

    Raises:
        CheckpointError: It is damaged, or of another hand.
    """
    try:
        state = read_json(path / STATE)
        score = state.get("bits_per_byte")
        return State(
            progress=Progress(
                step=_count(state["step"]),
                n_tokens=_count(state["n_tokens"]),
                loader=dict(state["loader"]),
                guard=dict(state.get("guard", {})),
                bits_per_byte=None if score is None else float(score),
            ),
            n_updates=_count(state["n_updates"]),
            shapes={n: [_count(d) for d in shape] for n, shape in state["shapes"].items()},
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path / STATE}: not a state of ours ({error}); {COPY}") from error


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} is no count")
    return value


class TensorReader:
    """Gives a checkpoint's tensors whole, from files that stay mapped while they are needed.

    Raises:
        CheckpointError: A file is no safetensors, though the manifest vouches for it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handles: dict[Path, Any] = {}
        self.runs: dict[str, list[Run]] = defaultdict(list)
        try:
            n_format, names = read_manifest(path)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: no checkpoint ({error}); {COPY}") from error
        for name in sorted(names):
            if name != STATE:
                self._list(path / name, has_offsets=n_format > 1)

    def check(self, state: State, *, kinds: Iterable[str] = MOMENTS) -> None:
        """Refuse a checkpoint whose runs do not cover each tensor exactly once.

        Raises:
            CheckpointError: It names the first gap or overlap.
        """
        n_elements = expected(state, kinds if state.n_updates else ())
        ranges = {
            name: [(run.offset, run.n_elements) for run in runs]
            for name, runs in self.runs.items()
            if name in n_elements or not name.endswith(tuple(f"/{key}" for key in MOMENTS))
        }
        if problem := first_gap(n_elements, ranges):
            raise CheckpointError(f"{self.path}: {problem}; {COPY}")

    def read(self, name: str, shape: Iterable[int]) -> Tensor:
        """Assemble one tensor, as NAME or NAME/exp_avg, in fp32 on the CPU; only to be read.

        One that lies in a file as a whole is that file's memory.
        """
        runs = self.runs[name]
        if len(runs) == 1:
            return self._read(runs[0]).reshape(*shape)
        whole = torch.empty(sum(run.n_elements for run in runs))
        for run in runs:
            whole[run.offset : run.offset + run.n_elements] = self._read(run)
        return whole.reshape(*shape)

    def _read(self, run: Run) -> Tensor:
        try:
            return self._open(run.file).get_tensor(run.key).view(-1)
        except SafetensorError as error:
            _refuse(run.file, error)

    def _list(self, file: Path, *, has_offsets: bool) -> None:
        try:
            # The library holds the header to the length of the file before it allocates anything.
            tensors = self._open(file)
            for key in tensors.keys():  # noqa: SIM118  (not a dict)
                name, _, offset = key.rpartition("@") if has_offsets else (key, "", "0")
                about = tensors.get_slice(key)
                if about.get_dtype() != "F32" or not offset.isdecimal():
                    raise ValueError(f"{key}: no run of fp32")
                n_elements = math.prod(about.get_shape())
                run = Run(offset=int(offset), n_elements=n_elements, file=file, key=key)
                self.runs[name].append(run)
        except (OSError, ValueError, SafetensorError) as error:
            _refuse(file, error)

    def _open(self, file: Path) -> Any:
        if file not in self.handles:
            if len(self.handles) >= OPEN_FILES:
                self.handles.clear()
            refuse_irregular(file)
            self.handles[file] = safe_open(file, framework="pt")
        return self.handles[file]


def _refuse(file: Path, error: Exception) -> NoReturn:
    raise CheckpointError(
        f"{file}: not safetensors ({error}), though the manifest vouches for it: somebody "
        f"changed both; {COPY}"
    ) from error


def expected(state: State, kinds: Iterable[str]) -> dict[str, int]:
    """Count the elements of each tensor that a checkpoint of this state has."""
    n_elements = {name: math.prod(shape) for name, shape in state.shapes.items()}
    of_kinds = {f"{name}/{key}": n for key in kinds for name, n in n_elements.items()}
    return n_elements | of_kinds


def first_gap(n_elements: Mapping[str, int], ranges: Mapping[str, list[tuple[int, int]]]) -> str:
    """Describe the first tensor that runs do not cover exactly once; empty where all are.

    Args:
        n_elements: Of each tensor.
        ranges: First element and number of elements of each run.
    """
    for name in sorted(n_elements.keys() | ranges.keys()):
        if name not in n_elements:
            return f"{name}: no parameter of the model that was saved"
        end = 0
        for offset, n in [*sorted(ranges.get(name, [])), (n_elements[name], 0)]:
            if offset > end:
                return f"{name}: elements {end} to {offset - 1} are missing"
            if offset < end:
                return f"{name}: elements {offset} to {end - 1} are there twice or too many"
            end += n
    return ""


def load(engine: Engine, path: Path) -> Progress:
    """Set an engine's weights and moments from a checkpoint of any ZeRO stage and world size.

    One parameter at a time is in memory. All ranks call it together.

    Raises:
        CheckpointError: The checkpoint is of another model, or does not cover it.
    """
    state = read_state(path)
    shapes = {name: list(shape) for name, shape in engine_shapes(engine).items()}
    refuse_other_model(path, shapes, state.shapes)
    reader = TensorReader(path)
    reader.check(state)
    if state.n_updates:
        engine.make_moments(state.n_updates)
    for name, shape in shapes.items():
        moments = {
            key: reader.read(f"{name}/{key}", shape) if state.n_updates else None for key in MOMENTS
        }
        engine.write_parameter(name, ParameterState(weight=reader.read(name, shape), **moments))
    distributed.barrier()
    return state.progress


def load_weights(engine: Engine, path: Path) -> None:
    """Set an engine's weights alone, for a run that begins with them; see `load`."""
    state = read_state(path)
    shapes = {name: list(shape) for name, shape in engine_shapes(engine).items()}
    refuse_other_model(path, shapes, state.shapes)
    reader = TensorReader(path)
    reader.check(state, kinds=())
    for name, shape in shapes.items():
        engine.write_parameter(name, ParameterState(weight=reader.read(name, shape)))
    distributed.barrier()


def engine_shapes(engine: Engine) -> dict[str, torch.Size]:
    """Give the whole shape of each parameter, also where ZeRO-3 has left an empty husk of it."""
    return {name: getattr(p, "ds_shape", p.shape) for name, p in engine.parameters.items()}


def read_weights(path: Path, model: torch.nn.Module) -> None:
    """Set a plain model's weights, for sampling and evaluation; see `load` for errors."""
    state = read_state(path)
    parameters = dict(model.named_parameters())
    refuse_other_model(path, {n: list(p.shape) for n, p in parameters.items()}, state.shapes)
    reader = TensorReader(path)
    reader.check(state, kinds=())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(reader.read(name, parameter.shape))


def refuse_other_model(path: Path, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Raise a CheckpointError that names the first parameter in which two models differ."""
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise CheckpointError(
                f"{path}: a checkpoint of another model: {name} has shape {theirs.get(name)} there "
                f"and {ours.get(name)} in the model of this config; use the run's own config.yaml"
            )
