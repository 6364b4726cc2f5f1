"""What training holds on one GPU, in bytes; nothing is allocated.

State under ZeRO, in bytes a parameter, with N GPUs (Rajbhandari et al. 2019, arXiv:1910.02054,
section 3, and DeepSpeed's fp32 accumulation of bf16 gradients):

    working weights   2 (bf16) or 4 (fp32)        / N at stage 3
    gradients         4 (sums in fp32)            / N at stages 2 and 3
    optimizer         4 (fp32 weights) + 8        / N at stages 1, 2 and 3

Gradients in bf16 come while activations go, so they count only where those are less; stage 2 sends
them away in buckets. Within 10% of what was measured on one H200 and on two (evals/results), which
tests/test_plan.py holds.
"""

from helix.models.hybrid import HybridConfig

GIB = 2**30


def memory_gib_by_part(
    model: HybridConfig, *, n_gpus: int, zero_stage: int, precision: str, rows: int, n_context: int
) -> dict[str, float]:
    """Size what one GPU holds, in GiB.

    Args:
        rows: Of a micro-batch.

    Returns:
        Bytes of weights, gradients, optimizer, activations and mixer_states, and of what is held
        for a moment only: the logits, a block that is recomputed, or narrow gradients beyond the
        activations that made room for them, whichever is more.
    """
    n_parameters = sum(model.parameters_by_part().values())
    n_tokens = rows * n_context
    activations, block = activation_bytes(model, n_tokens, precision)
    states, block_states = mixer_state_bytes(model, n_tokens, n_context)
    narrow = narrow_gradient_bytes(n_parameters, precision, n_gpus=n_gpus, zero_stage=zero_stage)
    moments = (logit_bytes(model), block + block_states, narrow - activations - states)
    return {
        **state_gib(n_parameters, precision, n_gpus=n_gpus, zero_stage=zero_stage),
        "activations": activations / GIB,
        "mixer_states": states / GIB,
        "for_a_moment": max(moments) / GIB,
    }


def state_gib(
    n_parameters: int, precision: str, *, n_gpus: int, zero_stage: int
) -> dict[str, float]:
    """Size weights, gradients and optimizer on one GPU; see the module's table."""
    is_bf16 = precision == "bf16"
    per_parameter = {
        "weights": (2 if is_bf16 else 4, 3),
        "gradients": (4, 2),
        "optimizer": (12 if is_bf16 or zero_stage else 8, 1),
    }
    return {
        part: n_bytes * n_parameters / (n_gpus if zero_stage >= stage else 1) / GIB
        for part, (n_bytes, stage) in per_parameter.items()
    }


def narrow_gradient_bytes(
    n_parameters: int, precision: str, *, n_gpus: int, zero_stage: int
) -> int:
    """Size the gradients in bf16 at the end of a backward pass, before they are in their sums."""
    if precision != "bf16" or zero_stage == 2:
        return 0
    return 2 * n_parameters // (n_gpus if zero_stage == 3 else 1)


def activation_bytes(model: HybridConfig, n_tokens: int, precision: str) -> tuple[int, int]:
    """Estimate what is kept for the backward pass, with fused kernels.

    A block keeps its two inputs, what the norms give, the MLP's gate, up and product, and for the
    mixer its projections and output: twice the inner width for Mamba-2 and its convolution, and
    six or five times the model's for GLA and attention. A block that is recomputed keeps its input
    and, if selectively, the results of its products.

    Returns:
        What all blocks keep, and what the widest that is recomputed holds when its turn comes.
    """
    d, f = model.d_model, model.d_ffn
    inner = {"mamba2": model.mamba2.expand * d}
    widths = {
        "mamba2": 4 * inner["mamba2"] + 2 * model.mamba2.d_state,
        "gla": 6 * d,
        "sparse": 5 * d,
        "attention": 5 * d,
    }
    # A matrix of d rows has as many columns as it has parameters over d; the last one leads back.
    projected = {
        kind: model.mixer(kind).n_parameters(d) // d - inner.get(kind, d) for kind in widths
    }
    whole = [4 * d + 3 * f + widths[kind] for kind in model.kinds()]
    products = [3 * d + 2 * f + projected[kind] for kind in model.kinds()]
    left = [d] * len(whole) if model.recompute == "full" else products
    blocks = list(zip(model.recomputed(), whole, left, strict=True))
    kept = sum(some if is_recomputed else all_ for is_recomputed, all_, some in blocks)
    at_a_time = max((all_ for is_recomputed, all_, _ in blocks if is_recomputed), default=0)
    n_bytes = n_tokens * (2 if precision == "bf16" else 4)
    return n_bytes * kept, n_bytes * at_a_time


def mixer_state_bytes(model: HybridConfig, n_tokens: int, n_context: int) -> tuple[int, int]:
    """Estimate the recurrent states that chunked scans keep: one for each chunk of each layer.

    Returns:
        Those of all layers that are not recomputed, and of the largest that is.
    """
    kept, at_a_time = 0, 0
    for kind, is_recomputed in zip(model.kinds(), model.recomputed(), strict=True):
        mixer = model.mixer(kind)
        chunk_tokens = getattr(mixer, "chunk_tokens", 0)
        if chunk_tokens:
            state = mixer.state_bytes(model.d_model, n_context, bytes_per_value=2)
            n_bytes = n_tokens * state // chunk_tokens
            kept += 0 if is_recomputed else n_bytes
            at_a_time = max(at_a_time, n_bytes if is_recomputed else 0)
    return kept, at_a_time


def logit_bytes(model: HybridConfig) -> int:
    """Size the logits that the loss holds at a time, and the head's gradient, both in float32."""
    return 4 * model.n_vocab * (model.loss_chunk_rows + model.d_model)
