"""A causal language model of transformers behind our interface, its cache a value.

A text longer than the model's trained positions is read in windows: when a window is full, the
next begins with its second half, read again from position 0. So every token but a document's
first sees between a half and the whole of the trained context, wherever the text is cut into
pieces.

Dims: B rows, T tokens, V vocabulary, L tokens in the window.
"""

import inspect
from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from helix.batch import IGNORED, Batch
from helix.config import ConfigError
from helix.kernels.cross_entropy import count_likelier
from helix.models.base import LanguageModel, ModelState, Output, Piece, TokenScores

LOGITS_AT_ONCE = 2**27  # 512 MiB of float32


class HuggingFaceModel(LanguageModel):
    """A model of others, to be evaluated.

    The state is ((ids of the window,), (keys, values) of each layer ...). It is never changed in
    place: a caller may go on from one state twice. A model whose cache is not keys and values (a
    state-space model) has the ids alone in its state and reads the window anew.

    Args:
        n_context: Positions that it was trained on; None where it has no limit.
    """

    def __init__(self, model: PreTrainedModel, *, n_context: int | None) -> None:
        super().__init__()
        self.model = model
        self.n_context = n_context
        self.n_vocab = model.config.get_text_config().vocab_size
        self.is_cached = not getattr(model, "_is_stateful", False)
        self.keeps_last = "logits_to_keep" in inspect.signature(model.forward).parameters

    @property
    def at_once(self) -> int:
        """Tokens whose logits are held at a time."""
        return max(LOGITS_AT_ONCE // self.n_vocab, 1)

    @property
    def reading(self) -> str:
        """Say how a long text is read."""
        if self.n_context is None:
            return "whole"
        return f"windows of {self.n_context}, the first half of each from the one before"

    def loss(self, batch: Batch) -> Output:
        """Refuse: it is evaluated, not trained."""
        raise ConfigError("model=: a model of others is evaluated and not trained: give run_dir=")

    def tie_weights(self) -> None:
        """Make shared parameters one tensor again."""
        self.model.tie_weights()

    @torch.no_grad()
    def score(self, piece: Piece) -> tuple[TokenScores, ModelState]:
        """Score each target of a piece by itself; give the state after its last token, too."""
        n_rows = max(self.at_once // min(piece.tokens.shape[1], self.at_once), 1)
        scores, states = [], []
        for start in range(0, len(piece.tokens), n_rows):
            rows = slice(start, start + n_rows)
            own, state = self.score_rows(
                piece.tokens[rows], piece.targets[rows], select_rows(piece.state, rows)
            )
            scores.append(own)
            states.append(state)
        return TokenScores(*map(torch.cat, zip(*scores, strict=True))), join_rows(states)

    def score_rows(
        self, tokens: Int64[Tensor, "B T"], targets: Int64[Tensor, "B T"], state: ModelState | None
    ) -> tuple[TokenScores, ModelState]:
        """Score rows that are read together."""
        scores = []
        for part in self.parts(tokens, state):
            logits, state = self.extend(tokens[:, part], state)
            scores.append(score_logits(logits, targets[:, part]))
        assert state is not None, "a piece has a token"
        nats, ranks = (torch.cat(own, dim=1) for own in zip(*scores, strict=True))
        return TokenScores(nats, ranks), state

    @torch.no_grad()
    def predict(
        self, tokens: Int64[Tensor, "B T"], state: ModelState | None = None
    ) -> tuple[Float[Tensor, "B V"], ModelState]:
        """Read tokens of one document a row and give the next token's logits."""
        *parts, last = self.parts(tokens, state)
        for part in parts:
            _, state = self.extend(tokens[:, part], state, is_last=True)
        logits, state = self.extend(tokens[:, last], state, is_last=True)
        return in_float32(logits[:, -1]), state

    def parts(self, tokens: Int64[Tensor, "B T"], state: ModelState | None) -> list[slice]:
        """Cut tokens where a window is full, and where their logits would be too many."""
        n_tokens, n_held = tokens.shape[1], held(state)
        parts: list[slice] = []
        start = 0
        while start < n_tokens:
            end = min(n_tokens, start + self.at_once)
            if self.n_context is not None:
                n_held = self.n_context // 2 if n_held == self.n_context else n_held
                end = min(end, start + self.n_context - n_held)
                n_held += end - start
            parts.append(slice(start, end))
            start = end
        return parts

    def extend(
        self, tokens: Int64[Tensor, "B T"], state: ModelState | None, *, is_last: bool = False
    ) -> tuple[Float[Tensor, "B t V"], ModelState]:
        """Read a part; a full window makes room for it first.

        Args:
            is_last: Whether the last token's logits suffice.
        """
        if state is not None and self.n_context is not None and held(state) == self.n_context:
            second_half = state[0][0][:, -(self.n_context // 2) :]
            _, state = self.extend(second_half, None, is_last=True)
        ids = tokens if state is None else torch.cat([state[0][0], tokens], dim=1)
        options = {"logits_to_keep": 1} if is_last and self.keeps_last else {}
        if not self.is_cached:
            logits = self.model(input_ids=ids, use_cache=False, **options).logits
            return logits[:, -tokens.shape[1] :], ((ids,),)
        # The cache is filled by copying and grows by copying: what the caller holds stays.
        cache = DynamicCache(None if state is None else state[1:])
        done = self.model(input_ids=tokens, past_key_values=cache, use_cache=True, **options)
        layers = [(keys, values) for keys, values, _ in cache]
        return done.logits, cast(ModelState, ((ids,), *layers))


def held(state: ModelState | None) -> int:
    """Count the tokens in a state's window."""
    return 0 if state is None else state[0][0].shape[1]


def score_logits(logits: Float[Tensor, "B T V"], targets: Int64[Tensor, "B T"]) -> TokenScores:
    """Score targets by their logits."""
    logits = in_float32(logits)
    nats = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    ranks = count_likelier(logits, targets.clamp(min=0)) * (targets != IGNORED)
    return TokenScores(nats.view(targets.shape), ranks)


def in_float32(values: Tensor) -> Tensor:
    """Give values in float32, or in float64 where they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def select_rows(state: ModelState | None, rows: slice) -> ModelState | None:
    """Take some rows of a state."""
    if state is None:
        return None
    return tuple(tuple(tensor[rows] for tensor in layer) for layer in state)


def join_rows(states: list[ModelState]) -> ModelState:
    """Put the rows of states together."""
    if len(states) == 1:
        return states[0]
    return tuple(
        tuple(torch.cat(tensors) for tensors in zip(*layers, strict=True))
        for layers in zip(*states, strict=True)
    )
