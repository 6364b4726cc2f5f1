"""What `helix doctor tune` tries of each launch constant, beside the value that it has.

Registers and shared memory of Hopper bound the lists; what does not fit is refused when it is
tried, and so is what computes something else. STRONG of gla is not searched: a production batch
leaves its kernels nothing to do.
"""

from typing import Any


def _rows(names: str, *rows: tuple[int | None, ...]) -> list[dict[str, int | None]]:
    return [dict(zip(names.split(), row, strict=True)) for row in rows]


_LAUNCH = "num_warps num_stages keys values maxnreg"
_TILING = "block_tokens num_warps num_stages"
_BLOCKS = "queries keys n_warps n_stages n_registers"
_RUNS = "RUN AT_ONCE BC num_warps"
_TILINGS = _rows(_TILING, (128, 8, 3), (128, 8, 2), (64, 4, 3), (64, 4, 2))

CANDIDATES: dict[str, dict[str, list[Any]]] = {
    "gla": {
        "RELATE": _rows(
            _LAUNCH,
            (4, 1, 32, 0, None),
            (4, 1, 32, 0, 128),
            (4, 1, 64, 0, None),
            (4, 1, 64, 0, 168),
            (8, 1, 64, 0, None),
        ),
        "WALK": _rows(
            _LAUNCH,
            (4, 2, 0, 64, None),
            (4, 3, 0, 64, None),
            (4, 2, 0, 32, None),
            (4, 3, 0, 32, None),
            (8, 2, 0, 64, None),
        ),
        # never blocks of 32 keys: wrong on an H200, for the reason told at triton_gla.LEAST_KEY
        "DIFFERENTIATE": _rows(
            _LAUNCH,
            (4, 3, 64, 64, None),
            (4, 2, 64, 64, None),
            (4, 3, 64, 32, None),
            (4, 4, 64, 32, None),
            (4, 2, 128, 64, None),
        ),
    },
    "ssd": {
        "HEAR": _TILINGS,
        "PULL_INPUTS": _TILINGS,
        "PULL_STATES": _TILINGS,
        "PULL_SCORES": _TILINGS,
        "WALK": _rows(_TILING, (64, 4, 3), (64, 4, 2), (64, 8, 2), (128, 8, 2)),
        "WALK_REGISTERS": [128, 168, 232],
    },
    "sparse": {
        "FORWARD": _rows(
            _BLOCKS,
            (128, 128, 8, 3, None),
            (128, 128, 8, 2, None),
            (128, 64, 8, 3, None),
            (64, 128, 4, 2, None),
            (64, 64, 4, 3, None),
        ),
        "BY_QUERIES": _rows(
            _BLOCKS,
            (128, 64, 8, 3, None),
            (128, 64, 8, 2, None),
            (128, 32, 8, 4, None),
            (64, 64, 4, 2, None),
            (64, 32, 4, 4, None),
        ),
        "BY_KEYS": _rows(
            _BLOCKS,
            (64, 128, 8, 3, None),
            (64, 128, 8, 2, None),
            (32, 128, 8, 4, None),
            (64, 64, 4, 2, None),
            (32, 64, 4, 3, None),
        ),
        "FIRST": _rows(
            _BLOCKS,
            (32, 64, 4, 3, None),
            (64, 64, 4, 3, None),
            (64, 64, 4, 2, None),
            (64, 32, 4, 3, None),
        ),
    },
    "conv": {
        "FORWARD": _rows(
            _RUNS,
            (64, 4, 256, 1),
            (64, 4, 256, 2),
            (128, 4, 256, 1),
            (64, 8, 256, 1),
            (64, 4, 512, 2),
            (64, 4, 128, 1),
        ),
        "BACKWARD": _rows(
            f"{_RUNS} maxnreg",
            (128, 4, 256, 2, 128),
            (128, 2, 256, 2, 128),
            (64, 4, 256, 2, 128),
            (256, 4, 256, 2, 128),
            (128, 4, 256, 2, 168),
            (128, 4, 128, 1, 128),
        ),
    },
    "cross_entropy": {
        "LANES": [512, 1024, 2048],
        "LANE_COLUMNS": [4, 8, 16],
        "WARPS": [8, 16, 32],
    },
}
