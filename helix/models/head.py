"""The tied head: the embedding's weight scores the vocabulary, and the loss is taken in place.

Head and loss are one module, so that ZeRO-3 has gathered the weight when the loss is computed.

Dims: B rows, T tokens, D width of the model, V vocabulary.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from helix import kernels
from helix.batch import IGNORED
from helix.kernels.chunks import scan_dtype
from helix.kernels.cross_entropy import product_in_float32, token_scores
from helix.models.base import TokenScores


class TiedHead(nn.Module):
    """Scores hidden states against the rows of an embedding that it shares.

    Args:
        is_fp8: Whether the products of training are of 8 bits; without gradients they never are.
    """

    def __init__(
        self, embedding: nn.Embedding, *, chunk_rows: int, backend: str, is_fp8: bool = False
    ) -> None:
        super().__init__()
        self.weight = embedding.weight
        self.chunk_rows = chunk_rows
        self.cross_entropy = kernels.select("cross_entropy", backend)
        self.cross_entropy_fp8 = kernels.select_8_bit("cross_entropy_fp8") if is_fp8 else None

    def forward(
        self,
        hidden: Float[Tensor, "B T D"],
        targets: Int64[Tensor, "B T"] | None,
        *,
        by_token: bool = False,
    ) -> Float[Tensor, "..."] | TokenScores:
        """Sum the loss over the targets in nats; without targets give the last token's logits.

        Args:
            by_token: Score each target by itself instead, without gradient.

        Returns:
            A float32 scalar, float32 logits of shape (B, V), or scores.
        """
        if targets is None:
            return product_in_float32(hidden[:, -1], self.weight.T)
        if by_token:
            return self.score(hidden, targets)
        in_training = self.cross_entropy_fp8 or self.cross_entropy
        cross_entropy = in_training if torch.is_grad_enabled() else self.cross_entropy
        return cross_entropy(
            hidden.flatten(0, 1),
            self.weight,
            targets.flatten(),
            chunk_rows=self.chunk_rows,
            ignored=IGNORED,
        )

    def score(self, hidden: Float[Tensor, "B T D"], targets: Int64[Tensor, "B T"]) -> TokenScores:
        """Score each target by itself."""
        nats, ranks = token_scores(
            hidden.flatten(0, 1),
            self.weight,
            targets.flatten(),
            chunk_rows=self.chunk_rows,
            ignored=IGNORED,
        )
        nats = nats.to(scan_dtype(hidden))
        return TokenScores(nats.view(targets.shape), ranks.view(targets.shape))
