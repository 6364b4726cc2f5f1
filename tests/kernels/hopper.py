"""Compiles Mamba-2's kernels for Hopper without one: do they fit its shared memory?

Triton's interpreter knows of no shared memory, and a launch that asks for too much fails.
test_triton.py starts it.
"""

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from helix.kernels import devices

devices.require_cuda = lambda: None  # nothing is launched

from helix.kernels import triton_ssd as ssd  # noqa: E402
from helix.kernels import triton_ssd_backward as backward  # noqa: E402
from helix.kernels import triton_ssd_forward as forward  # noqa: E402

SHARED_BYTES = 227 * 1024  # of a program on compute capability 9.0
OF_INPUTS = (
    "x",
    "y",
    "b",
    "c",
    "u",
    "z",
    "other",
    "states",
    "d_states",
    "d_y",
    "d_x",
    "d_z",
    "before",
)
OF_SUMS = (
    *("across", "first", "last", "overlap"),
    *("skip", "step", "total", "leave", "enter", "scale", "pulls", "owns", "skips"),
    *("felt", "sums", "d_scores"),
)
KERNELS = (
    (forward.hear, ssd.HEAR, "BI", {}),
    (backward.pull_inputs, ssd.PULL_INPUTS, "BJ", {}),
    (backward.pull_scores, ssd.PULL_SCORES, "BI", {}),
    (backward.pull_states, ssd.PULL_STATES, "BI", {"SWAPPED": False}),
)


def shared_bytes(kernel, constants: dict, element: str) -> int:
    """Compile a kernel and count the shared memory that a program takes."""
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        of_pointer = {"document": "*i32"} | dict.fromkeys(OF_INPUTS, element)
        of_pointer |= dict.fromkeys(OF_SUMS, "*fp32")
        signature[name] = of_pointer.get(name, "i32")
        attributes[(place,)] = [["tt.divisibility", 16]]
    options = {"num_warps": constants.pop("num_warps")}
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).metadata.shared


def check_shared_memory() -> None:
    for dtype, element in ((torch.bfloat16, "*bf16"), (torch.float32, "*fp32")):
        for width, d_state in ((64, 128), (64, 32), (64, 16)):
            x = torch.empty(1, 256, 4, width, dtype=dtype, device="meta")
            b = torch.empty(1, 256, 1, d_state, dtype=dtype, device="meta")
            for kernel, tiling, block, more in KERNELS:
                launch = ssd._plan(x, b, tiling, programs=1)
                constants = {**launch.options, block: launch.block_tokens, **more}
                n_bytes = shared_bytes(kernel, constants, element)
                words = f"{kernel.__name__} {element} {width} x {d_state}: {n_bytes} bytes"
                assert n_bytes <= SHARED_BYTES, words
            for is_backward in (False, True):
                n_bytes = shared_bytes(forward.walk_states, walk(x, b, is_backward), element)
                assert n_bytes <= SHARED_BYTES, f"walk_states {element} {width} x {d_state}"


def walk(x: torch.Tensor, b: torch.Tensor, is_backward: bool) -> dict:
    """Give the constants of the walk over chunks, as ssd._walk does."""
    width, d_state = x.shape[-1], b.shape[-1]
    return {
        **{"P": width, "N": d_state, "BACKWARD": is_backward, "HAS_FIRST": is_backward},
        **{"C": ssd.CHUNK_TOKENS, "BT": ssd.WALK.block_tokens, "STAGES": ssd.WALK.num_stages},
        **{"BN": min(ssd.WALK_STATE, d_state), "BP": min(ssd.WALK_HEAD, width)},
        "num_warps": ssd.WALK.num_warps,
    }


if __name__ == "__main__":
    check_shared_memory()
    print("check_shared_memory")
