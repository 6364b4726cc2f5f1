"""Fragments: the runs of each parameter's elements that this rank owns, with both moments.

ZeRO keeps a rank's share of the optimizer in flat partitions that cut through parameters; here they
are cut again at the borders of parameters. Over all ranks every element is owned exactly once.

    stages 1, 2   what the rank's partition of each group has of a parameter
    stage 3       the rank's share of each parameter, less the padding of the last
    stage 0       every rank has everything; each is dealt an equal run of all elements
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from helix import distributed
from helix.training.engine import MOMENTS, Engine

FILE_BYTES = 2**29  # pinned memory comes in powers of two, so a full file wastes none


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """A run of one parameter's elements, where the optimizer keeps them; nothing is copied.

    Attributes:
        offset: Number of the first element, in row-major order.
        weight: The elements in fp32, flat.
        moments: Their moments by AdamW's names; empty before the first step.
    """

    name: str
    offset: int
    weight: Tensor
    moments: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A run of elements under the key that a file gives it, such as embedding.weight@4096."""

    name: str
    offset: int
    source: Tensor

    @property
    def key(self) -> str:
        """Name the piece in a file."""
        return f"{self.name}@{self.offset}"


@dataclass(frozen=True, kw_only=True)
class HeldFile:
    """A file's content in host memory.

    Attributes:
        entries: Keys and their number of elements, in order of the key, as they lie in `body`.
        body: Flat, fp32, on the CPU.
    """

    name: str
    entries: list[tuple[str, int]]
    body: Tensor


def owned_fragments(engine: Engine) -> Iterator[Fragment]:
    """List what this rank owns, in order of the parameters; no collective call."""
    has_moments = engine.n_updates > 0
    if has_moments:
        engine.link_moments()
    of_stage = {0: _dealt_out, 3: _shares}.get(engine.stage, _of_partitions)
    yield from of_stage(engine, MOMENTS if has_moments else ())


def _dealt_out(engine: Engine, keys: Sequence[str]) -> Iterator[Fragment]:
    n_all = sum(parameter.numel() for parameter in engine.parameters.values())
    rank, n_ranks = distributed.rank(), distributed.world_size()
    first, end = n_all * rank // n_ranks, n_all * (rank + 1) // n_ranks
    begin = 0
    for name, parameter in engine.parameters.items():
        start, stop = (min(max(at - begin, 0), parameter.numel()) for at in (first, end))
        begin += parameter.numel()
        if start < stop:
            state = engine.engine.optimizer.state[parameter] if keys else {}
            yield Fragment(
                name=name,
                offset=start,
                weight=parameter.detach().view(-1)[start:stop],
                moments={key: state[key].view(-1)[start:stop] for key in keys},
            )


def _of_partitions(engine: Engine, keys: Sequence[str]) -> Iterator[Fragment]:
    for name, parameter in engine.parameters.items():
        held: Any = getattr(parameter, "_hp_mapping", None)  # deepspeed's: what is here of it
        if held is not None:
            yield Fragment(
                name=name,
                offset=held.lp_fragment_address.start,
                weight=held.get_hp_fragment().detach(),
                moments={key: held.get_hp_fragment(key) for key in keys},
            )


def _shares(engine: Engine, keys: Sequence[str]) -> Iterator[Fragment]:
    optimizer = engine.engine.optimizer
    for name, parameter in engine.parameters.items():
        group, start, n_padded = optimizer.grad_position[optimizer.get_param_id(parameter)]
        flat = optimizer.fp32_partitioned_groups_flat[group]
        offset = n_padded * optimizer._get_param_partition_rank(parameter)
        n_elements = min(n_padded, getattr(parameter, "ds_numel", 0) - offset)
        if n_elements > 0:
            state = optimizer.optimizer.state[flat] if keys else {}
            yield Fragment(
                name=name,
                offset=offset,
                weight=flat.detach().narrow(0, start, n_elements),
                moments={key: state[key].narrow(0, start, n_elements) for key in keys},
            )


class Snapshot:
    """Copies of this rank's fragments in host memory, reused from one save to the next.

    On a GPU's host the memory is pinned, so that copies run at the speed of the bus.
    """

    def __init__(self) -> None:
        self.buffers: list[Tensor] = []

    def take(self, engine: Engine) -> list[HeldFile]:
        """Copy everything that this rank owns, 12 bytes a parameter, over what was taken before."""
        files = plan(engine)
        self._hold([_n_elements(pieces) for _, pieces in files], engine)
        _await(engine)
        held = [
            _copy(name, pieces, buffer)
            for (name, pieces), buffer in zip(files, self.buffers, strict=True)
        ]
        _await(engine)
        return held

    def stream(self, engine: Engine) -> Iterator[HeldFile]:
        """Copy one file after the other, each over the one before: the memory is that of one."""
        files = plan(engine)
        self._hold([max((_n_elements(pieces) for _, pieces in files), default=0)], engine)
        for name, pieces in files:
            held = _copy(name, pieces, self.buffers[0][: _n_elements(pieces)])
            _await(engine)
            yield held

    def reserve(self, engine: Engine) -> None:
        """Make the buffers of `take` before the first save: pinning memory takes seconds."""
        n_own = sum(fragment.weight.numel() for fragment in owned_fragments(engine))
        n_of_files: list[int] = []
        for n_elements in (n_own, len(MOMENTS) * n_own):
            n_full, n_rest = divmod(n_elements, FILE_BYTES // 4)
            n_of_files += [FILE_BYTES // 4] * n_full + [n_rest] * (n_rest > 0)
        self._hold(n_of_files, engine)

    def _hold(self, n_elements: Sequence[int], engine: Engine) -> None:
        if [buffer.numel() for buffer in self.buffers] != list(n_elements):
            self.buffers = []  # or old and new ones would stand side by side
            is_pinned = engine.device.type == "cuda"
            self.buffers = [
                torch.empty(n, dtype=torch.float32, pin_memory=is_pinned) for n in n_elements
            ]


def plan(engine: Engine) -> list[tuple[str, list[Piece]]]:
    """Share what this rank owns out to files, by name."""
    return [
        (f"{kind}-{distributed.rank():05d}-{number:05d}.safetensors", pieces)
        for kind, every_piece in _pieces_by_kind(engine).items()
        for number, pieces in enumerate(cut(every_piece, FILE_BYTES // 4))
    ]


def _n_elements(pieces: Sequence[Piece]) -> int:
    return sum(piece.source.numel() for piece in pieces)


def _await(engine: Engine) -> None:
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)


def _pieces_by_kind(engine: Engine) -> dict[str, list[Piece]]:
    owned = list(owned_fragments(engine))
    return {
        "weights": [Piece(name=f.name, offset=f.offset, source=f.weight) for f in owned],
        "moments": [
            Piece(name=f"{f.name}/{key}", offset=f.offset, source=moment)
            for f in owned
            for key, moment in f.moments.items()
        ],
    }


def cut(pieces: Sequence[Piece], n_elements: int) -> Iterator[list[Piece]]:
    """Share pieces out to files of exactly so many elements, the last excepted; cut where need be.

    The pieces of a file come in order of their keys, which is the library's own order.
    """
    file: list[Piece] = []
    n_left = n_elements
    for piece in pieces:
        start, n = 0, piece.source.numel()
        while start < n:
            end = min(n, start + n_left)
            file.append(
                Piece(
                    name=piece.name,
                    offset=piece.offset + start,
                    source=piece.source.narrow(0, start, end - start),
                )
            )
            n_left -= end - start
            start = end
            if n_left == 0:
                yield sorted(file, key=lambda piece: piece.key)
                file, n_left = [], n_elements
    if file:
        yield sorted(file, key=lambda piece: piece.key)


def _copy(name: str, pieces: Sequence[Piece], body: Tensor) -> HeldFile:
    n_elements = [piece.source.numel() for piece in pieces]
    for part, piece in zip(body.split(n_elements), pieces, strict=True):
        part.copy_(piece.source, non_blocking=True)
    return HeldFile(
        name=name,
        entries=[(p.key, n) for p, n in zip(pieces, n_elements, strict=True)],
        body=body,
    )
