"""Libraries that cleaning needs and a GPU node need not have."""

import importlib
from types import ModuleType


def import_extra(
    name: str, *, needed_for: str, how: str = "pip install -e '.[data]'"
) -> ModuleType:
    """Import a library that need not be there, or say how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        from helix.data import DataError

        raise DataError(
            f"{needed_for} needs {name}, which cannot be imported ({error}); run: {how}"
        ) from None
