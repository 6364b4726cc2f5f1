"""The hybrid family: embedding, a stack of mixers of several kinds, and a tied head.

Dims: B rows, T tokens, D width of the model, V vocabulary.
Source: Helix v2 (Mamba-2 below, gated linear attention between, sparse attention on top).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from helix.batch import Batch
from helix.kernels.fp8 import check_width
from helix.models.base import LanguageModel, ModelState, Output, Piece, TokenScores
from helix.models.head import TiedHead
from helix.models.stack import Stack, StackConfig


@dataclass(frozen=True, kw_only=True)
class HybridConfig(StackConfig):
    """A stack between a tied embedding.

    Attributes:
        n_vocab: Rows of the embedding: the tokenizer's, or those rounded up to a multiple of 128.
        loss_chunk_rows: Tokens whose logits are held at a time; V times as many floats.
    """

    n_vocab: int = 8000
    loss_chunk_rows: int = 1024
    loss_backend: Literal["auto", "reference", "triton"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_vocab < 2:
            raise ValueError(f"model.n_vocab={self.n_vocab}: give the tokenizer's size")
        if "head" in self.fp8.split():
            check_width("model.n_vocab", self.n_vocab)
        if self.loss_chunk_rows < 1:
            raise ValueError(f"model.loss_chunk_rows={self.loss_chunk_rows}: give at least 1")

    def parameters_by_part(self) -> dict[str, int]:
        """Count parameters of the tied embedding, each mixer kind, the MLPs and the norms."""
        return {"embedding": self.n_vocab * self.d_model, **super().parameters_by_part()}

    def flops_by_part(self, n_context: int) -> dict[str, int]:
        """Count forward FLOPs per token; the head is a product, the embedding a look-up."""
        return {**super().flops_by_part(n_context), "head": 2 * self.n_vocab * self.d_model}


class Hybrid(LanguageModel):
    """Embedding, stack, tied head."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.n_vocab, config.d_model)
        self.stack = Stack(config)
        self.head = TiedHead(
            self.embedding,
            chunk_rows=config.loss_chunk_rows,
            backend=config.loss_backend,
            is_fp8="head" in config.fp8.split(),
        )

    def loss(self, batch: Batch) -> Output:
        """Take the loss of a batch of packed documents."""
        embedded = self.embedding(batch.tokens)
        hidden, _ = self.stack(embedded, batch.document_ids, is_continued=False)
        return Output(loss=self.head(hidden, batch.targets), n_targets=batch.n_targets)

    def tie_weights(self) -> None:
        """Give the head the embedding's weight."""
        self.head.weight = self.embedding.weight

    def score(self, piece: Piece) -> tuple[TokenScores, ModelState]:
        """Score each target of a piece by itself; give the state after its last token, too."""
        documents = piece.document_ids
        if documents is None:
            documents = torch.zeros_like(piece.tokens)
        hidden, left = self.stack(self.embedding(piece.tokens), documents, piece.state)
        return self.head(hidden, piece.targets, by_token=True), left

    def predict(
        self, tokens: Int64[Tensor, "B T"], state: ModelState | None = None
    ) -> tuple[Float[Tensor, "B V"], ModelState]:
        """Read tokens of one document a row and give the next token's logits."""
        hidden, left = self.stack(self.embedding(tokens), torch.zeros_like(tokens), state)
        return self.head(hidden, None), left
