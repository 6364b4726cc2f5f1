"""Pure functions on tensors, and the one place where a backend is chosen for each.

Each kernel is told twice: a `*_reference`, the recurrence one step at a time, which is the truth;
and a form in PyTorch that a CPU trains with, which backends call "reference". An adapter to another
library is one more entry of its row, before "reference"; its module raises ImportError, with the
reason, where the library or the device is missing.
"""

import functools
import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

import torch

logger = logging.getLogger(__name__)

BACKENDS: dict[str, dict[str, str]] = {
    "ssd": {
        "triton": "helix.kernels.triton_ssd:ssd",
        "mamba_ssm": "helix.kernels.mamba_ops:ssd",
        "reference": "helix.kernels.ssd:ssd_chunked",
    },
    "gla": {
        "triton": "helix.kernels.triton_gla:gla",
        "fla": "helix.kernels.fla_ops:gla",
        "reference": "helix.kernels.gla:gla_chunked",
    },
    "conv": {
        "triton": "helix.kernels.triton_conv:causal_conv",
        "reference": "helix.kernels.conv:causal_conv",
    },
    "attention": {
        "flex": "helix.kernels.flex_ops:attention",
        "reference": "helix.kernels.attention:attention",
    },
    "sparse": {
        "triton": "helix.kernels.triton_sparse:sparse",
        "flex": "helix.kernels.flex_ops:sparse",
        "reference": "helix.kernels.sparse:sparse_blocked",
    },
    "cross_entropy": {
        "triton": "helix.kernels.triton_cross_entropy:linear_cross_entropy",
        "reference": "helix.kernels.cross_entropy:linear_cross_entropy",
    },
    "swiglu_fp8": {
        "triton": "helix.kernels.triton_fp8:swiglu",
        "reference": "helix.kernels.fp8_products:swiglu",
    },
    "cross_entropy_fp8": {
        "triton": "helix.kernels.triton_fp8:linear_cross_entropy",
        "reference": "helix.kernels.fp8_products:linear_cross_entropy",
    },
    "rms_norm": {
        "triton": "helix.kernels.triton_norm:rms_norm",
        "reference": "helix.kernels.pointwise:rms_norm",
    },
    "residual_norm": {
        "triton": "helix.kernels.triton_norm:residual_norm",
        "reference": "helix.kernels.pointwise:residual_norm",
    },
    "gated_norm": {
        "triton": "helix.kernels.triton_gated_norm:gated_norm",
        "reference": "helix.kernels.pointwise:gated_norm",
    },
    "glu": {
        "triton": "helix.kernels.triton_gates:glu",
        "reference": "helix.kernels.pointwise:glu",
    },
    "log_decay": {
        "triton": "helix.kernels.triton_gates:log_decay",
        "reference": "helix.kernels.pointwise:log_decay",
    },
    "rotary": {
        "triton": "helix.kernels.triton_rotary:rotary",
        "reference": "helix.kernels.pointwise:rotary",
    },
}

# Libraries that could compute a kernel and have no adapter yet: shown by `helix doctor`.
WITHOUT_ADAPTER: dict[str, tuple[str, ...]] = {
    "ssd": ("fla",),
    "gla": (),
    "conv": ("causal_conv1d",),
    "attention": (),
    "sparse": (),
    "cross_entropy": ("liger",),
    "swiglu_fp8": (),
    "cross_entropy_fp8": (),
    "rms_norm": (),
    "residual_norm": (),
    "gated_norm": (),
    "glu": (),
    "log_decay": (),
    "rotary": (),
}


# Settings that name a kernel's backend, where it is not model.KERNEL.backend: for errors.
SETTINGS = {"ssd": "model.mamba2.backend", "cross_entropy": "model.loss_backend"}


class BackendError(ValueError):
    """A backend that a person named and that cannot run here; the message names those that can."""


class Candidate(NamedTuple):
    """A backend of a kernel, and whether it can run here."""

    backend: str
    available: bool
    reason: str


def candidates(name: str) -> list[Candidate]:
    """List the backends of a kernel in the order in which "auto" tries them."""
    rows = []
    for backend, target in BACKENDS[name].items():
        refusal = _refusal(target)
        rows.append(Candidate(backend, not refusal, refusal or target))
    absent = (Candidate(b, False, "no adapter in this release") for b in WITHOUT_ADAPTER[name])
    return [*rows, *absent]


@dataclass
class Choices:
    """What is chosen while a model is built.

    Attributes:
        forced: Backend of every kernel, whatever its config says; None leaves it to the config.
        chosen: Kernel to the backend that it got.
    """

    forced: str | None = None
    chosen: dict[str, str] = field(default_factory=dict)


_choices: ContextVar[Choices | None] = ContextVar("choices", default=None)


@contextmanager
def choosing(forced: str | None = None) -> Iterator[dict[str, str]]:
    """Note which backend each kernel gets inside, and give all of them one where it is named."""
    choices = Choices(forced)
    token = _choices.set(choices)
    try:
        yield choices.chosen
    finally:
        _choices.reset(token)


def select(name: str, backend: str) -> Callable:
    """Import the function that computes a kernel, and log the choice.

    Args:
        name: A key of BACKENDS.
        backend: "auto" for the first that can run here, or one by name.

    Raises:
        BackendError: The backend named cannot run here, or there is none of that name; choose
            another or "auto".
    """
    choices = _choices.get() or Choices()
    chosen, function = choose(name, choices.forced or backend)
    choices.chosen[name] = chosen
    return function


def select_8_bit(name: str) -> Callable:
    """Import the function that computes a kernel of 8-bit products, which training alone calls.

    Its PyTorch form emulates them, at less than the speed of 16 bits: where a GPU has none of its
    own, and the emulation was not forced, what is given raises BackendError when it is called. So
    a run of 8 bits is evaluated, sampled and exported anywhere.
    """
    function = select(name, "auto")
    ours = candidates(name)[0]
    is_forced = (_choices.get() or Choices()).forced is not None
    if ours.available or is_forced or not torch.cuda.is_available():
        return function

    def refuse(*_: object, **__: object) -> NoReturn:
        raise BackendError(
            f"model.fp8: this GPU would only emulate products of 8 bits, slowly ({ours.reason}); "
            "train with model.fp8= (empty), in 16 bits"
        )

    return refuse


@functools.cache
def choose(name: str, backend: str) -> tuple[str, Callable]:
    """Find the backend that runs here, and its function; see `select`.

    What comes after it is not even imported: a library of kernels takes seconds.
    """
    for chosen, target in BACKENDS[name].items():
        if backend in ("auto", chosen) and not _refusal(target):
            logger.info("kernel %s: backend %s", name, chosen)
            return chosen, _load(target)
    rows = candidates(name)
    reason = next((row.reason for row in rows if row.backend == backend), "no such backend")
    usable = ", ".join(["auto", *(row.backend for row in rows if row.available)])
    setting = SETTINGS.get(name, f"model.{name}.backend")
    raise BackendError(
        f"{setting}={backend}: not available here ({reason}); give one of {usable} "
        "(to generate or evaluate: backends=reference)"
    )


def _refusal(target: str) -> str:
    try:
        _load(target)
    except ImportError as error:
        return str(error)
    return ""


def _load(target: str) -> Callable:
    module, function = target.split(":")
    return getattr(importlib.import_module(module), function)
