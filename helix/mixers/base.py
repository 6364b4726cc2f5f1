"""What a mixer is: a module that moves information along time, and a config that knows its cost.

Dims: B batch, T time, D width of the model.
"""

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

State: TypeAlias = tuple[Tensor, ...]  # each mixer's own NamedTuple of tensors, batch first
OwnState = TypeVar("OwnState", bound=State)


@runtime_checkable
class MixerConfig(Protocol):
    """What each mixer's config answers without building the mixer."""

    def check(self, d_model: int) -> None:
        """Refuse widths that do not divide; the ValueError names the config path."""
        ...

    def n_parameters(self, d_model: int) -> int:
        """Count the parameters of one mixer."""
        ...

    def flops_per_token(self, d_model: int, n_context: int) -> int:
        """Count the forward multiply-adds, twice, of one token in a full row of `n_context`."""
        ...

    def state_bytes(self, d_model: int, n_context: int, *, bytes_per_value: int) -> int:
        """Size the state of one sequence after `n_context` tokens of one document.

        Recurrent memories are float32 whatever `bytes_per_value` says; it is the width of the
        activations, in which convolution tails, keys and values are kept.
        """
        ...


class Mixer(nn.Module, ABC, Generic[OwnState]):
    """One program for training, prefill and decoding.

    A prefix followed by its continuation, with the prefix's state handed over, equals the whole.
    """

    @abstractmethod
    def forward(
        self,
        x: Float[Tensor, "B T D"],
        document_ids: Int64[Tensor, "B T"],
        state: OwnState | None = None,
        *,
        is_continued: bool = True,
    ) -> tuple[Float[Tensor, "B T D"], OwnState]:
        """Mix along time within each document.

        Args:
            document_ids: See Batch. A continuation whose first number equals the last number
                of the tokens before it continues that document; any other starts afresh.
            state: What the tokens before these left; None means there were none.
            is_continued: Whether the state after these is read; else it may be less than whole.

        Returns:
            The outputs and the state after the last token, both in the dtype of `x` save for
            recurrent memories, which are float32.
        """


def document_starts(
    document_ids: Int64[Tensor, "B T"], last_document: Int64[Tensor, " B"] | None
) -> Bool[Tensor, "B T"]:
    """Mark each position whose document is not that of the position before it.

    Args:
        last_document: The document of the token before the first; None means there was none,
            and then the first position counts as a start.
    """
    starts = document_ids.new_ones(document_ids.shape, dtype=torch.bool)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    if last_document is not None:
        starts[:, 0] = document_ids[:, 0] != last_document
    return starts


def check_divides(path: str, value: int, *, what: str, total: int) -> None:
    """Raise the ValueError that names config path, value and allowed values, unless it divides."""
    if total % value:
        allowed = ", ".join(str(n) for n in range(1, total + 1) if total % n == 0)
        raise ValueError(f"{path}={value}: must divide {what} = {total}; allowed {allowed}")


def check_at_least(path: str, value: int, least: int) -> None:
    """Raise the ValueError that names config path, value and bound if the value is below it."""
    if value < least:
        raise ValueError(f"{path}={value}: give at least {least}")
