"""Checkpoints that know nothing of ZeRO stage or world size, are written atomically and verified.

    checkpoints/latest                        name of the newest complete checkpoint
    checkpoints/step-00000100/manifest.json   bytes and sha256 of each file; written last
                             /state.json      step, tokens, data position, shapes, score
                             /weights-RANK-NUMBER.safetensors    fp32 weights: NAME@OFFSET
                             /moments-RANK-NUMBER.safetensors    NAME/exp_avg@OFFSET, exp_avg_sq

Each rank writes what it owns of the optimizer (helix.training.fragments) and nothing is gathered:
OFFSET is the number of a run's first element within its parameter. A load holds the runs to cover
each parameter exactly once. Format 1, whole parameters without an offset, still loads.

Nothing is ever unpickled: only JSON and safetensors are read, and no file outside the folder.
"""

from helix.training.checkpoint.files import (
    MANIFEST,
    CheckpointError,
    checkpoints_dir,
    saved_steps,
)
from helix.training.checkpoint.reading import (
    Progress,
    State,
    TensorReader,
    is_intact,
    load,
    load_weights,
    newest,
    read_state,
    read_weights,
)
from helix.training.checkpoint.retention import Retention, Saved, find_intact, list_saved
from helix.training.checkpoint.saving import Cost, Saver, save

__all__ = [
    "MANIFEST",
    "CheckpointError",
    "Cost",
    "Progress",
    "Retention",
    "Saved",
    "Saver",
    "State",
    "TensorReader",
    "checkpoints_dir",
    "find_intact",
    "is_intact",
    "list_saved",
    "load",
    "load_weights",
    "newest",
    "read_state",
    "read_weights",
    "save",
    "saved_steps",
]
