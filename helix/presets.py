"""Named runs, each one function, derived from each other where they differ in little.

Sizes follow the published Helix v2 family: Mamba-2 below, gated linear attention between and sparse
attention on top, a tied vocabulary of 200,000, heads of 128. MLP widths are chosen so that each
name tells the parameter count, within 2%. For each size `*_attention` is the control: plain
attention in every layer, as many parameters.
"""

from collections.abc import Callable
from dataclasses import replace

from helix.config import RunConfig, TrainingConfig
from helix.data import DataConfig
from helix.mixers.attention import AttentionConfig
from helix.mixers.gla import GLAConfig
from helix.mixers.mamba2 import Mamba2Config
from helix.mixers.sparse import SparseConfig
from helix.models import HybridConfig
from helix.training.optimizer import OptimizerConfig
from helix.training.schedule import ScheduleConfig

N_VOCAB = 200_000
# At this width the gradient of 4096 hidden states is 320 tiles, of 6656 it is 520: 2.4 and 3.9
# times the 132 processors of an H100 or H200 (evals/results/kernels_h200.json).
LOSS_CHUNK_ROWS_1280 = 6656


def hybrid_tiny() -> RunConfig:
    """All three mixers in 1.7M parameters: what `helix demo` trains on two cores in some minutes.

    Widths, depth and rates are the best of 87 runs on an H200 (README, Results).
    """
    return RunConfig(
        preset="hybrid_tiny",
        model=HybridConfig(
            n_vocab=8000,
            d_model=128,
            d_ffn=384,
            pattern="mamba2 gla sparse",
            mamba2=Mamba2Config(d_state=32, d_head=64),
            gla=GLAConfig(n_heads=4),
            sparse=SparseConfig(n_heads=2, window_tokens=128, n_global=4),
            attention=AttentionConfig(n_heads=2),
        ),
        data=DataConfig(n_context=256),
        optimizer=OptimizerConfig(learning_rate=4e-3, beta1=0.8),
        schedule=ScheduleConfig(n_warmup_steps=60, final_ratio=0.05),
        training=TrainingConfig(
            n_steps=600,
            batch_rows=8,
            micro_batch_rows=8,
            deepspeed="cpu",
            validate_every_steps=150,
            checkpoint_every_steps=50,
        ),
    )


def hybrid(
    name: str,
    *,
    d_model: int,
    d_ffn: int,
    pattern: str,
    gla_heads: int,
    n_kv_heads: int | None = None,
    learning_rate: float,
    batch_rows: int,
    loss_chunk_rows: int = 4096,
) -> RunConfig:
    """Compose one size of the family: 4096 tokens of context, bf16, warm-up and cosine."""
    n_heads = d_model // 128
    attention = {"n_heads": n_heads, "n_kv_heads": n_kv_heads}
    return RunConfig(
        preset=name,
        model=HybridConfig(
            n_vocab=N_VOCAB,
            d_model=d_model,
            d_ffn=d_ffn,
            pattern=pattern,
            gla=GLAConfig(n_heads=gla_heads),
            sparse=SparseConfig(window_tokens=1024, n_global=32, **attention),
            attention=AttentionConfig(**attention),
            loss_chunk_rows=loss_chunk_rows,
        ),
        data=DataConfig(n_context=4096),
        optimizer=OptimizerConfig(learning_rate=learning_rate),
        schedule=ScheduleConfig(n_warmup_steps=2000),
        training=TrainingConfig(
            n_steps=50_000,
            batch_rows=batch_rows,
            micro_batch_rows=8,
            precision="bf16",
            validate_every_steps=1000,
            checkpoint_every_steps=1000,
        ),
    )


def hybrid_100m() -> RunConfig:
    """0.10B: three quarters of it is the vocabulary."""
    return hybrid(
        "hybrid_100m",
        d_model=384,
        d_ffn=1024,
        pattern="mamba2*3 gla*6 sparse*3",
        gla_heads=3,
        learning_rate=1e-3,
        batch_rows=64,
    )


def hybrid_250m() -> RunConfig:
    """0.25B."""
    return hybrid(
        "hybrid_250m",
        d_model=768,
        d_ffn=2304,
        pattern="mamba2*3 gla*6 sparse*3",
        gla_heads=3,
        learning_rate=8e-4,
        batch_rows=64,
    )


def hybrid_500m() -> RunConfig:
    """0.50B."""
    return hybrid(
        "hybrid_500m",
        d_model=1024,
        d_ffn=3328,
        pattern="mamba2*4 gla*12 sparse*4",
        gla_heads=4,
        learning_rate=6e-4,
        batch_rows=128,
    )


def hybrid_0_9b() -> RunConfig:
    """0.90B: the published model's depth, width and pattern, with low-rank decays in GLA."""
    return hybrid(
        "hybrid_0_9b",
        d_model=1280,
        d_ffn=4096,
        pattern="mamba2*6 gla*16 sparse*6",
        gla_heads=5,
        learning_rate=3e-4,
        batch_rows=128,
        loss_chunk_rows=LOSS_CHUNK_ROWS_1280,
    )


def hybrid_1b() -> RunConfig:
    """1.0B: four layers more than hybrid_0_9b."""
    return hybrid(
        "hybrid_1b",
        d_model=1280,
        d_ffn=4096,
        pattern="mamba2*7 gla*18 sparse*7",
        gla_heads=5,
        learning_rate=3e-4,
        batch_rows=128,
        loss_chunk_rows=LOSS_CHUNK_ROWS_1280,
    )


def hybrid_3b() -> RunConfig:
    """3.0B: one key and value head for four query heads."""
    return hybrid(
        "hybrid_3b",
        d_model=2560,
        d_ffn=8064,
        pattern="mamba2*6 gla*16 sparse*6",
        gla_heads=10,
        n_kv_heads=5,
        learning_rate=2.5e-4,
        batch_rows=256,
    )


def hybrid_7b() -> RunConfig:
    """7.0B: one key and value head for four query heads."""
    return hybrid(
        "hybrid_7b",
        d_model=4096,
        d_ffn=12288,
        pattern="mamba2*6 gla*16 sparse*6",
        gla_heads=16,
        n_kv_heads=8,
        learning_rate=2e-4,
        batch_rows=512,
    )


def attention_control(of: Callable[[], RunConfig]) -> Callable[[], RunConfig]:
    """Derive the control of a hybrid: the same run with attention in every layer.

    The MLPs take up the difference in parameters, to the nearest multiple of 64.
    """

    def control() -> RunConfig:
        run = of()
        name = f"{run.preset}_attention"
        n_layers = len(run.model.kinds())
        plain = replace(run.model, pattern=f"attention*{n_layers}")
        missing = sum(run.model.parameters_by_part().values())
        missing -= sum(plain.parameters_by_part().values())
        per_width = 3 * plain.d_model * n_layers
        d_ffn = round((plain.d_ffn + missing / per_width) / 64) * 64
        return replace(run, preset=name, model=replace(plain, d_ffn=d_ffn))

    control.__doc__ = f"{of.__name__} with plain attention in every layer: the control."
    return control


HYBRIDS = (
    hybrid_tiny,
    hybrid_100m,
    hybrid_250m,
    hybrid_500m,
    hybrid_0_9b,
    hybrid_1b,
    hybrid_3b,
    hybrid_7b,
)
PRESETS: dict[str, Callable[[], RunConfig]] = {
    **{of.__name__: of for of in HYBRIDS},
    **{f"{of.__name__}_attention": attention_control(of) for of in HYBRIDS},
}
