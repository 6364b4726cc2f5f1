"""FLOPs of a training step and how much of the device's peak they are.

    model FLOPs a token = 3 x forward FLOPs a token       (backward costs twice the forward)
    MFU = model FLOPs a token x tokens/s a device / peak  (recomputation is not counted)

Source: Chowdhery et al. 2022 (PaLM), arXiv:2204.02311, appendix B.
"""

import torch

from helix.models.base import ModelConfig

# Dense bf16 matrix peak in TFLOP/s, from the makers' datasheets.
PEAK_BF16_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "B200": 2250.0}


def training_flops_per_token(model: ModelConfig, n_context: int) -> int:
    """Count the FLOPs of forward and backward for one token in full rows."""
    return 3 * sum(model.flops_by_part(n_context).values())


def peak_tflops(device: torch.device) -> float | None:
    """Look up the device's dense bf16 peak; None where it is unknown, as for a CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BF16_TFLOPS.items() if part in name), None)
