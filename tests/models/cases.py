"""Small models of every family, and what the tests ask of them."""

import torch
from torch import Tensor

from helix.batch import IGNORED, Batch
from helix.mixers import AttentionConfig, GLAConfig, Mamba2Config, SparseConfig
from helix.models import HybridConfig, build_model
from helix.models.base import LanguageModel, ModelConfig

N_VOCAB = 48
WIDTHS = {
    "n_vocab": N_VOCAB,
    "d_model": 32,
    "d_ffn": 40,
    "loss_chunk_rows": 8,
    "mamba2": Mamba2Config(d_state=8, d_head=16, chunk_tokens=8),
    "gla": GLAConfig(n_heads=2, decay_rank=4, chunk_tokens=8),
    "sparse": SparseConfig(n_heads=2, window_tokens=5, n_global=2),
    "attention": AttentionConfig(n_heads=2),
}


def hybrid(**different: object) -> HybridConfig:
    return HybridConfig(**(WIDTHS | {"pattern": "mamba2 gla sparse"} | different))


CASES: dict[str, ModelConfig] = {
    "hybrid": hybrid(),
    "hybrid-attention-alone": hybrid(pattern="attention*2"),
    "hybrid-recomputed": hybrid(recompute="full"),
    "hybrid-grouped-heads": hybrid(
        pattern="sparse attention",
        sparse=SparseConfig(n_heads=4, n_kv_heads=2, window_tokens=4, n_global=0),
        attention=AttentionConfig(n_heads=4, n_kv_heads=1),
    ),
    "hybrid-normed-heads": hybrid(
        pattern="attention gla sparse",
        sparse=SparseConfig(n_heads=2, window_tokens=5, n_global=2, qk_norm=True),
        attention=AttentionConfig(n_heads=2, d_head=6, qk_norm=True),
    ),
    "hybrid-full-rank-decay": hybrid(
        pattern="gla mamba2*2",
        gla=GLAConfig(n_heads=1, key_ratio=1.0, decay_rank=None, chunk_tokens=8),
        mamba2=Mamba2Config(d_state=4, d_head=8, n_groups=2, d_conv=2, chunk_tokens=8),
    ),
}


def build(case: str, *, seed: int = 0) -> LanguageModel:
    return build_model(CASES[case], seed=seed, device="cpu")


def draw_tokens(n_tokens: int, *, n_rows: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(N_VOCAB, (n_rows, n_tokens), generator=generator)


def batch_of(*documents: Tensor) -> Batch:
    """Pack documents of (1, T) tokens into one row, each a token shorter than its targets need."""
    return Batch(
        tokens=torch.cat([ids[:, :-1] for ids in documents], dim=1),
        targets=torch.cat([ids[:, 1:] for ids in documents], dim=1),
        document_ids=torch.cat(
            [torch.full_like(ids[:, 1:], number) for number, ids in enumerate(documents)], dim=1
        ),
    )


def scoring(batch: Batch, positions: slice) -> Batch:
    """Keep the targets of some positions alone."""
    targets = torch.full_like(batch.targets, IGNORED)
    targets[:, positions] = batch.targets[:, positions]
    return Batch(tokens=batch.tokens, targets=targets, document_ids=batch.document_ids)
