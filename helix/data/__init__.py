"""Data: shards on disk to batches, the same for any number of ranks and after any stop."""

from helix.data.ahead import ReadAhead
from helix.data.shards import DataError, Dataset
from helix.data.stream import DataConfig, Loader, build_loader
from helix.data.validation import ValidationSource, build_validation

__all__ = [
    "DataConfig",
    "DataError",
    "Dataset",
    "Loader",
    "ReadAhead",
    "ValidationSource",
    "build_loader",
    "build_validation",
]
