"""Shortens the autotuning of libraries, whose first step would otherwise take minutes.

A library's kernel tries each of its configurations once on the GPU, hundreds in all. Keeping the
first few costs no speed that we could measure (chunk_gla of flash-linear-attention 0.6.0 on one
H100: 4.84 ms with ten a kernel, 4.9 ms with three) and turns minutes into seconds.
"""

import sys

from triton.runtime.autotuner import Autotuner

KEPT = 3  # not one: a configuration may ask for more shared memory than the GPU has


def shorten(package: str) -> None:
    """Keep the first configurations of each autotuned kernel in a package's loaded modules."""
    loaded = sys.modules.copy()  # another thread may be importing
    for module in (module for name, module in loaded.items() if name.split(".")[0] == package):
        for kernel in list(vars(module).values()):
            tuner = find_autotuner(kernel)
            if tuner is not None:
                tuner.configs = tuner.configs[:KEPT]


def find_autotuner(kernel: object) -> Autotuner | None:
    """Look through the decorators of a kernel for its autotuner."""
    for _ in range(4):  # heuristics, autotune, cache and jit are all that libraries stack
        if isinstance(kernel, Autotuner):
            return kernel
        kernel = getattr(kernel, "fn", None)
    return None
