"""FLOPs of a training step and how much of the device's peak they are.

FORMULA says how both figures are counted. Selective recomputation repeats no product, and the
scans and attentions that it does repeat are left out of HFU.

Source: Chowdhery et al. 2022 (PaLM), arXiv:2204.02311, appendix B.
"""

import torch

from helix.models.base import ModelConfig
from helix.models.stack import StackConfig

FORMULA = (
    "model FLOPs a token = 3 x forward FLOPs a token (backward costs twice the forward); "
    "MFU = model FLOPs a token x tokens/s a device / peak; "
    "HFU = the same with the forward FLOPs that recomputation runs again"
)

# Dense bf16 matrix peak in TFLOP/s.
PEAK_BF16_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "B200": 2250.0}
PEAK_SOURCE = "dense bf16, without sparsity, from the maker's datasheet"


def training_flops_per_token(model: ModelConfig, n_context: int) -> int:
    """Count the FLOPs of forward and backward for one token in full rows."""
    return 3 * sum(model.flops_by_part(n_context).values())


def block_flops(model: StackConfig, kind: str, n_context: int) -> dict[str, int]:
    """Count forward FLOPs per token of a block with one kind of mixer, whole and by part."""
    mixer = model.mixer(kind).flops_per_token(model.d_model, n_context)
    mlp = 6 * model.d_model * model.d_ffn
    return {"block": mixer + mlp, "mixer": mixer, "mlp": mlp}


def recomputed_flops_per_token(model: StackConfig, n_context: int) -> int:
    """Count the FLOPs per token that the backward pass runs again."""
    if model.recompute != "full":
        return 0
    return sum(
        block_flops(model, kind, n_context)["block"]
        for kind, is_recomputed in zip(model.kinds(), model.recomputed(), strict=True)
        if is_recomputed
    )


def peak_tflops(device: torch.device) -> float | None:
    """Look up the device's dense bf16 peak; None where it is unknown, as for a CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BF16_TFLOPS.items() if part in name), None)


def utilisation(flops_per_token: int, *, tokens_per_s: float, peak: float | None) -> float:
    """Give the share of a peak in TFLOP/s; NaN where the peak is unknown."""
    return flops_per_token * tokens_per_s / (peak * 1e12) if peak else float("nan")
