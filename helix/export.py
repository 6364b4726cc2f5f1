"""Export: a run's weights as plain safetensors for others, and the list of its checkpoints.

OUT/model.safetensors     or model-00001-of-0000N.safetensors and model.safetensors.index.json
OUT/config.yaml           the run's own
OUT/tokenizer.model       where the tokenizer has a file
"""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from helix import kernels
from helix.config import ConfigError, RunConfig, read_saved, saved_path, write_whole
from helix.models import build_on_meta
from helix.presets import PRESETS
from helix.tokenizer import SentencePieceTokenizer, load_tokenizer
from helix.training import checkpoint
from helix.training.checkpoint import TensorReader
from helix.training.checkpoint.files import Entry, write_tensors
from helix.training.checkpoint.reading import read_state, refuse_other_model
from helix.training.checkpoint.retention import by_score
from helix.training.optimizer import is_time_scale

ExportDtype = Literal["fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHARD_BYTES = 5 * 10**9  # as the Hugging Face Hub cuts weights


@dataclass(frozen=True, kw_only=True)
class ConsolidatedConfig:
    """Options of `helix export consolidated`.

    Attributes:
        out: A folder that is not there yet, or is empty.
        step: Of the checkpoint; or latest, or best: the fewest bits per byte.
        dtype: bf16 leaves time scales in fp32, as training does.
    """

    run_dir: str
    out: str
    step: str = "latest"
    dtype: ExportDtype = "fp32"

    def __post_init__(self) -> None:
        if self.dtype not in get_args(ExportDtype):
            raise ValueError(f"dtype={self.dtype!r}: give fp32 or bf16")


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """Options of `helix export list`.

    Attributes:
        verify: Hash every file, which takes as long as reading them.
        json: Print it for machines.
    """

    run_dir: str
    verify: bool = False
    json: bool = False


def export_consolidated(options: ConsolidatedConfig) -> Path:
    """Write a checkpoint's weights whole, with what is needed to use them; give the folder.

    One parameter at a time is in memory. A folder that appears is complete.

    Raises:
        ConfigError: The folder is in use, or the run folder holds no run.
        CheckpointError: There is no such checkpoint, or it is not intact.
    """
    out = Path(options.out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"out={out}: is there already; give a new folder")
    config = read_saved(options.run_dir, PRESETS)
    path = checkpoint.find_intact(options.run_dir, options.step)
    partial = out.absolute().with_name(f".partial-{out.absolute().name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        n_bytes = write_weights(path, partial, config, DTYPES[options.dtype])
        shutil.copyfile(saved_path(options.run_dir), partial / "config.yaml")
        copy_tokenizer(config, partial)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{out}: weights of {path.name} in {options.dtype}, {n_bytes / 1e9:.2f} GB")
    return out


def write_weights(path: Path, out: Path, config: RunConfig, dtype: torch.dtype) -> int:
    """Write the weights of a checkpoint in the Hugging Face Hub's layout; count their bytes."""
    state = read_state(path)
    with kernels.choosing("reference"):  # none is run: the run's own may be of another machine
        model = dict(build_on_meta(config.model).named_parameters())
    refuse_other_model(path, {name: list(p.shape) for name, p in model.items()}, state.shapes)
    reader = TensorReader(path)
    reader.check(state, kinds=())
    entries = [
        Entry(key=name, dtype=torch.float32 if is_time_scale(name) else dtype, shape=shape)
        for name, shape in state.shapes.items()
    ]
    shards = list(share_out(entries))
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        file = file if len(shards) > 1 else "model.safetensors"
        write_tensors(out / file, shard, bodies_of(reader, shard), metadata={"format": "pt"})
        index |= {entry.key: file for entry in shard}
    n_bytes = sum(entry.n_bytes for entry in entries)
    if len(shards) > 1:
        write_index(out / "model.safetensors.index.json", index, n_bytes)
    return n_bytes


def share_out(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Share tensors out to files of SHARD_BYTES; one that is larger gets its own."""
    shard: list[Entry] = []
    for entry in entries:
        if shard and sum(e.n_bytes for e in shard) + entry.n_bytes > SHARD_BYTES:
            yield in_order(shard)
            shard = []
        shard.append(entry)
    yield in_order(shard)


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Put tensors into the library's order: wide types first, then by name."""
    return sorted(entries, key=lambda entry: (-entry.dtype.itemsize, entry.key))


def bodies_of(reader: TensorReader, entries: Sequence[Entry]) -> Iterator[Tensor]:
    """Read and convert one tensor after the other."""
    for entry in entries:
        yield reader.read(entry.key, entry.shape).to(entry.dtype)


def write_index(file: Path, index: Mapping[str, str], n_bytes: int) -> None:
    """Say which file holds which tensor."""
    content = {"metadata": {"total_size": n_bytes}, "weight_map": dict(sorted(index.items()))}
    write_whole(file, json.dumps(content, indent=1) + "\n")


def copy_tokenizer(config: RunConfig, out: Path) -> None:
    """Put the tokenizer's file beside the weights; one of bytes has none."""
    tokenizer = load_tokenizer(config.tokenizer)  # or a damaged one would be handed on
    if isinstance(tokenizer, SentencePieceTokenizer):
        shutil.copyfile(tokenizer.model_file, out / "tokenizer.model")


def print_list(options: ListConfig) -> None:
    """Print the checkpoints of a run as a table, or as JSON.

    Raises:
        ConfigError: The folder holds no run.
    """
    saved = checkpoint.list_saved(options.run_dir)
    if not saved and not saved_path(options.run_dir).exists():
        raise ConfigError(f"run_dir={options.run_dir}: holds no run (no config.yaml)")
    best = next((found.step for found in by_score(saved)), None)
    rows = [
        {
            **asdict(found),
            "path": str(found.path),
            "is_best": found.step == best,
            "is_intact": checkpoint.is_intact(found.path) if options.verify else None,
        }
        for found in saved
    ]
    if options.json:
        json.dump(rows, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    table = Table("step", "tokens", "bits/byte", "GiB", "")
    for row in rows:
        score = row["bits_per_byte"]
        notes = {
            "latest": row["is_latest"],
            "best": row["is_best"],
            "intact": row["is_intact"],
            "damaged": row["is_intact"] is False,
        }
        table.add_row(
            f"{row['step']:,}",
            f"{row['n_tokens']:,}",
            "" if score is None else f"{score:.4f}",
            f"{row['n_bytes'] / 2**30:.2f}",
            ", ".join(note for note, is_so in notes.items() if is_so),
        )
    Console().print(table)
