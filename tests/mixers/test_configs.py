"""What the configs say without building a mixer, and what they refuse."""

import pytest
from torch import nn

from helix.mixers import AttentionConfig, GLAConfig, Mamba2Config, SparseConfig
from tests.mixers.cases import CASES, D_MODEL, build, kind_of


@pytest.mark.parametrize(
    ("config", "n_millions"),
    [
        (Mamba2Config(), 10.226),  # Helix v2 at d_model 1280: shared/facts/seed_systems.md, A.2
        (GLAConfig(n_heads=10), 6.585),
        (SparseConfig(n_heads=10), 6.554),
        (AttentionConfig(n_heads=10), 6.554),
    ],
)
def test_parameters_at_the_width_of_helix_v2(config, n_millions):
    assert round(config.n_parameters(1280) / 1e6, 3) == n_millions


def keys_heard(config, n_context):
    if isinstance(config, AttentionConfig):
        return sum(p + 1 for p in range(n_context))
    return sum(
        p - j < config.window_tokens or j < config.n_global
        for p in range(n_context)
        for j in range(p + 1)
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n_context", [1, 4, 31])
def test_flops_are_those_of_the_products_and_the_memory(case, n_context):
    config, mixer = CASES[case], build(case)
    linear = [m for m in mixer.modules() if isinstance(m, nn.Linear)]
    flops = 2 * sum(m.weight.numel() for m in linear)
    if kind_of(case) in ("sparse", "attention"):
        d_head = config.d_head or D_MODEL // config.n_heads
        flops += 4 * config.n_heads * d_head * keys_heard(config, n_context) // n_context
    elif kind_of(case) == "gla":
        heads = (config.key_ratio * D_MODEL / config.n_heads) * (config.value_ratio * D_MODEL)
        flops += int(6 * heads)
    else:
        flops += 2 * mixer.conv.weight.numel() + 6 * config.expand * D_MODEL * config.d_state
    assert config.flops_per_token(D_MODEL, n_context) == flops


@pytest.mark.parametrize(("ratio", "width"), [(2.01, 2010), (0.29, 290)])
def test_width_is_the_whole_number_that_a_ratio_stands_for(ratio, width):
    config = GLAConfig(key_ratio=ratio, value_ratio=ratio, n_heads=1)
    config.check(1000)
    assert config.d_key(1000) == config.d_value(1000) == width


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mamba2Config(d_state=0), "mamba2.d_state=0: give at least 1"),
        (lambda: Mamba2Config(chunk_tokens=48), "mamba2.chunk_tokens=48: give a power of two"),
        (
            lambda: Mamba2Config(d_head=48).check(256),
            r"mamba2.d_head=48: must divide expand \* d_model = 512; allowed 1, 2, 4",
        ),
        (lambda: Mamba2Config(n_groups=3).check(256), "mamba2.n_groups=3: must divide"),
        (lambda: GLAConfig(key_ratio=0.0), "gla.key_ratio=0.0: give more than 0"),
        (lambda: GLAConfig(key_ratio=1e-12).check(256), "gla.key_ratio=1e-12: times d_model"),
        (lambda: GLAConfig(decay_rank=0), "gla.decay_rank=0: give at least 1"),
        (lambda: GLAConfig(chunk_tokens=48), "gla.chunk_tokens=48: give a power of two"),
        (lambda: GLAConfig(n_heads=3).check(256), r"gla.n_heads=3: must divide key_ratio \* d_mo"),
        (lambda: GLAConfig(key_ratio=0.3).check(256), "gla.key_ratio=0.3: times d_model = 256"),
        (lambda: SparseConfig(window_tokens=0), "sparse.window_tokens=0: give at least 1"),
        (lambda: SparseConfig(n_global=-1), "sparse.n_global=-1: give at least 0"),
        (lambda: SparseConfig(n_kv_heads=3), "sparse.n_kv_heads=3: must divide n_heads = 4"),
        (lambda: SparseConfig(n_heads=3).check(256), "sparse.n_heads=3: must divide d_model = 256"),
        (lambda: AttentionConfig(d_head=5), "attention.d_head=5: rotary pairs need an even width"),
        (lambda: AttentionConfig(n_heads=4).check(20), "attention.n_heads=4: .* = 5, but rotary"),
        (lambda: AttentionConfig(rotary_theta=0.5), "attention.rotary_theta=0.5: give more than 1"),
    ],
)
def test_error_names_the_config_path_and_what_is_allowed(make, message):
    with pytest.raises(ValueError, match=message):
        make()
