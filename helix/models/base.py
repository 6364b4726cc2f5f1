"""What a language model of any family is to the trainer, the evaluations and the sampler.

Dims: B rows, T tokens, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int64
from torch import Tensor, nn

from helix.batch import Batch
from helix.mixers.base import State

ModelState = tuple[State, ...]  # one state a layer


def map_state(change: Callable[[Tensor], Tensor], state: ModelState) -> ModelState:
    """Change each tensor of a state."""
    changed: list[State] = []
    for layer in state:
        make = getattr(layer, "_make", tuple)  # a NamedTuple stays one
        changed.append(make(map(change, layer)))
    return tuple(changed)


def take_rows(state: ModelState, rows: Int64[Tensor, " N"]) -> ModelState:
    """Take rows of a state, one as often as it is named: branches that go on from one beginning."""
    return map_state(lambda tensor: tensor.index_select(0, rows), state)


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one forward pass leaves.

    Attributes:
        loss: Sum of negative log-likelihoods in nats over the targets of this batch, float32.
        n_targets: How many targets that sum runs over.
        auxiliary: Further losses by name, to be added to the mean loss.
    """

    loss: Float[Tensor, ""]
    n_targets: int
    auxiliary: dict[str, Float[Tensor, ""]] = field(default_factory=dict)


class TokenScores(NamedTuple):
    """What each target of some rows cost.

    Attributes:
        nats: Negative log-likelihoods in nats, in float32 or better; 0 where there is no target.
        ranks: How many entries of the vocabulary were likelier; 0 is the greedy choice.
    """

    nats: Float[Tensor, "B T"]
    ranks: Int64[Tensor, "B T"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece of one document a row, read after the pieces before it, or of several short ones.

    Attributes:
        targets: As those of a Batch.
        state: What the pieces before this left; None at the beginning.
        document_ids: As those of a Batch; None where each row is one document.
    """

    tokens: Int64[Tensor, "B T"]
    targets: Int64[Tensor, "B T"]
    state: ModelState | None = None
    document_ids: Int64[Tensor, "B T"] | None = None


class LanguageModel(nn.Module, ABC):
    """A model of token sequences."""

    def forward(self, given: Batch | Piece) -> Output | tuple[TokenScores, ModelState]:
        """Take a batch's loss, or score a piece; all goes through here, where ZeRO-3 hooks in."""
        return self.score(given) if isinstance(given, Piece) else self.loss(given)

    @abstractmethod
    def loss(self, batch: Batch) -> Output:
        """Take the loss of a batch of packed documents."""

    @abstractmethod
    def score(self, piece: Piece) -> tuple[TokenScores, ModelState]:
        """Score each target of a piece by itself; give the state after its last token, too."""

    @abstractmethod
    def tie_weights(self) -> None:
        """Make parameters that are one tensor by design one tensor again."""

    @abstractmethod
    def predict(
        self, tokens: Int64[Tensor, "B T"], state: ModelState | None = None
    ) -> tuple[Float[Tensor, "B V"], ModelState]:
        """Read tokens of one document a row and give the next token's logits.

        Args:
            state: What the tokens before these left; None at the beginning.

        Returns:
            Logits after the last token, float32, and the state after it.
        """


@runtime_checkable
class ModelConfig(Protocol):
    """What each family's config answers without building the model."""

    @property
    def n_vocab(self) -> int:
        """Rows of the embedding."""
        ...

    def check(self, n_context: int) -> None:
        """Refuse sizes that do not fit together; the ValueError names the config path."""
        ...

    def parameters_by_part(self) -> dict[str, int]:
        """Count parameters of embedding, each mixer kind, MLPs and norms."""
        ...

    def flops_by_part(self, n_context: int) -> dict[str, int]:
        """Count forward FLOPs per token, by part, in full rows of `n_context` tokens."""
        ...

    def state_bytes(self, n_context: int, *, bytes_per_value: int) -> int:
        """Size the decoding state of one sequence after `n_context` tokens."""
        ...
