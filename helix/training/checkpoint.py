"""Checkpoints that know nothing of ZeRO stage or world size, are written atomically and verified.

    checkpoints/latest                        name of the newest complete checkpoint
    checkpoints/step-00000100/manifest.json   bytes and sha256 of each file; written last
                             /state.json      step, tokens, data position, shapes
                             /weights-*.safetensors    fp32 weights by parameter name
                             /moments-*.safetensors    NAME/exp_avg and NAME/exp_avg_sq in fp32

Nothing is ever unpickled: only JSON and safetensors are read.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from helix import distributed
from helix.training.engine import MOMENTS, Engine, ParameterState

FORMAT = 1
FILE_BYTES = 2 * 2**30  # a rank starts a new file beyond this, which bounds the memory of a save


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come, beside its weights.

    Attributes:
        step: Optimizer steps taken, skipped ones included.
        n_tokens: Targets trained on.
        loader: The loader's state_dict.
    """

    step: int = 0
    n_tokens: int = 0
    loader: dict[str, Any] = field(default_factory=dict)


def checkpoints_dir(run_dir: str | Path) -> Path:
    """Say where a run folder keeps its checkpoints."""
    return Path(run_dir) / "checkpoints"


def save(engine: Engine, run_dir: str | Path, progress: Progress, *, keep: int) -> Path:
    """Write a checkpoint on all ranks together, point to it, and drop the oldest beyond `keep`.

    A kill at any moment leaves the checkpoint that was pointed to before untouched.

    Raises:
        CheckpointError: On every rank, if any rank could not write its share.
    """
    final = checkpoints_dir(run_dir) / f"step-{progress.step:08d}"
    is_saved = distributed.is_main() and is_intact(final)
    if distributed.from_main("saved" if is_saved else ""):
        return final
    partial = final.with_name(f".partial-{final.name}")
    files, shapes, problem = _write(engine, partial)
    files, problem = _gather(files, problem)
    if not problem and distributed.is_main():
        problem = _seal(partial, final, files, progress, engine.n_updates, shapes, keep)
    problem = distributed.from_main(problem)
    if problem and distributed.is_main():
        shutil.rmtree(partial, ignore_errors=True)
    if problem:
        raise CheckpointError(
            f"{final}: not written: {problem}; earlier checkpoints are untouched: free some space "
            "and run the same command again"
        )
    return final


def newest(run_dir: str | Path) -> Path | None:
    """Find the newest checkpoint whose every byte is as it was written; None if there is none.

    Raises:
        CheckpointError: There are checkpoints, and not one is intact.
    """
    folder = checkpoints_dir(run_dir)
    found = sorted(folder.glob("step-*"), key=_step_of, reverse=True)
    found = [path for path in found if _step_of(path) >= 0]
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
        files = _read_manifest(path)
        return "state.json" in files and all(
            _describe(path / name) == described for name, described in files.items()
        )
    except (OSError, ValueError):
        return False


def load(engine: Engine, path: Path) -> Progress:
    """Set an engine's weights and moments from a checkpoint of any ZeRO stage and world size.

    Raises:
        CheckpointError: The checkpoint is of another model.
    """
    state = json.loads((path / "state.json").read_text())
    shapes = {name: list(shape) for name, shape in engine_shapes(engine).items()}
    refuse_other_model(path, shapes, state["shapes"])
    if state["n_updates"]:
        engine.make_moments(state["n_updates"])
    weights, moments = _by_name(path, "weights"), _by_name(path, "moments")
    for name in shapes:
        averages = {
            key: _read(moments, f"{name}/{key}") if state["n_updates"] else None for key in MOMENTS
        }
        engine.write_parameter(name, ParameterState(weight=_read(weights, name), **averages))
    distributed.barrier()
    return Progress(step=state["step"], n_tokens=state["n_tokens"], loader=state["loader"])


def engine_shapes(engine: Engine) -> dict[str, torch.Size]:
    """Give the whole shape of each parameter, also where ZeRO-3 has left an empty husk of it."""
    return {name: getattr(p, "ds_shape", p.shape) for name, p in engine.parameters.items()}


def read_weights(path: Path, model: torch.nn.Module) -> None:
    """Set a plain model's weights, for sampling and evaluation; see `load` for errors."""
    state = json.loads((path / "state.json").read_text())
    parameters = dict(model.named_parameters())
    refuse_other_model(path, {n: list(p.shape) for n, p in parameters.items()}, state["shapes"])
    weights = _by_name(path, "weights")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(_read(weights, name))


def refuse_other_model(path: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Raise a CheckpointError that names the first parameter in which two models differ."""
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise CheckpointError(
                f"{path}: a checkpoint of another model: {name} has shape {theirs.get(name)} there "
                f"and {ours.get(name)} in the model of this config; use the run's own config.yaml"
            )


def _write(engine: Engine, partial: Path) -> tuple[dict[str, Any], dict[str, list[int]], str]:
    """Write this rank's files; give what they are, all shapes, and the problem if there was one."""
    files: dict[str, Any] = {}
    shapes: dict[str, list[int]] = {}
    problem = ""
    try:
        if distributed.is_main():
            for left_by_a_kill in partial.parent.glob(".partial-*"):
                shutil.rmtree(left_by_a_kill, ignore_errors=True)
            partial.mkdir(parents=True)
    except OSError as error:
        problem = str(error)
    distributed.barrier()
    try:
        for file in _write_share(engine, partial, shapes, problem):
            files[file.name] = _describe(file)
    except (OSError, SafetensorError) as error:
        problem = str(error)
    return files, shapes, problem


def _write_share(
    engine: Engine, folder: Path, shapes: dict[str, list[int]], problem: str
) -> Iterator[Path]:
    # Gathering is collective: a rank that cannot write still takes part, and fails afterwards.
    rank, world_size = distributed.rank(), distributed.world_size()
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    n_files, failure = 0, OSError(problem) if problem else None
    for number, (name, state) in enumerate(engine.read_parameters()):
        shapes[name] = list(state.weight.shape)
        if number % world_size != rank or failure:
            continue
        weights[name] = state.weight
        if state.exp_avg is not None and state.exp_avg_sq is not None:
            moments |= {f"{name}/exp_avg": state.exp_avg, f"{name}/exp_avg_sq": state.exp_avg_sq}
        if sum(t.nbytes for t in weights.values()) * 3 > FILE_BYTES:
            try:
                yield from _write_files(folder, f"{rank:05d}-{n_files:05d}", weights, moments)
            except (OSError, SafetensorError) as error:
                failure = OSError(str(error))
            weights, moments, n_files = {}, {}, n_files + 1
    if failure:
        raise failure
    if weights:
        yield from _write_files(folder, f"{rank:05d}-{n_files:05d}", weights, moments)


def _write_files(
    folder: Path, number: str, weights: dict[str, Tensor], moments: dict[str, Tensor]
) -> Iterator[Path]:
    for kind, tensors in (("weights", weights), ("moments", moments)):
        if tensors:
            file = folder / f"{kind}-{number}.safetensors"
            save_file(tensors, file)
            _sync(file)
            yield file


def _gather(files: dict[str, Any], problem: str) -> tuple[dict[str, Any], str]:
    if distributed.world_size() == 1:
        return files, problem
    gathered: list[Any] = [None] * distributed.world_size()
    dist.all_gather_object(gathered, (files, problem))
    return (
        {name: about for theirs, _ in gathered for name, about in theirs.items()},
        next((theirs for _, theirs in gathered if theirs), ""),
    )


def _seal(
    partial: Path,
    final: Path,
    files: dict[str, Any],
    progress: Progress,
    n_updates: int,
    shapes: dict[str, list[int]],
    keep: int,
) -> str:
    """Write state and manifest, rename, point, prune; give the problem, empty if there was none."""
    try:
        state = {**asdict(progress), "n_updates": n_updates, "shapes": shapes}
        files["state.json"] = _write_json(partial / "state.json", state)
        _write_json(partial / "manifest.json", {"format": FORMAT, "files": files})
        _sync(partial)
        if final.exists():  # it did not verify, or save() would have returned
            shutil.rmtree(final)
        partial.rename(final)
        _sync(final.parent)
        pointer = final.parent / ".latest.partial"
        pointer.write_text(final.name)
        _sync(pointer)
        pointer.replace(final.parent / "latest")
        _sync(final.parent)
        # A later step that is there is damaged, or it would have been gone on from.
        saved = [p for p in final.parent.glob("step-*") if 0 <= _step_of(p) <= progress.step]
        for old in sorted(saved, key=_step_of)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        return str(error)
    return ""


def _write_json(file: Path, content: dict[str, Any]) -> dict[str, Any]:
    file.write_text(json.dumps(content))
    _sync(file)
    return _describe(file)


def _describe(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _step_of(path: Path) -> int:
    match = re.fullmatch(r"step-(\d+)", path.name)
    return int(match[1]) if match else -1


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{path}: not a manifest of format {FORMAT}")
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise ValueError(f"{path}: the manifest names no files")
    return files


def _by_name(path: Path, kind: str) -> dict[str, Path]:
    """Find the file of each tensor, in the files that the manifest vouches for and in no other."""
    names: dict[str, Path] = {}
    for file in sorted(path / name for name in _read_manifest(path) if name.startswith(f"{kind}-")):
        try:
            with safe_open(file, framework="pt") as tensors:
                names |= dict.fromkeys(tensors.keys(), file)
        except SafetensorError as error:
            raise CheckpointError(
                f"{file}: not safetensors ({error}), though the manifest vouches for it: somebody "
                "changed both; restore the checkpoint from a copy"
            ) from error
    return names


def _read(files: dict[str, Path], name: str) -> Tensor:
    with safe_open(files[name], framework="pt") as tensors:
        return tensors.get_tensor(name)
