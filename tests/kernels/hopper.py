"""Compiles our kernels for Hopper without one; test_triton.py starts it.

Triton's interpreter knows of no shared memory, and a launch that asks for too much fails. Nor does
it run what ptxas made of a kernel. So what a forward and a backward pass would launch is compiled,
and its machine code read.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

from helix.kernels import devices

devices.require_cuda = lambda: None  # nothing is launched
torch.cuda.get_device_capability = lambda device=None: (9, 0)

from helix.kernels import triton_gla, triton_sparse, triton_ssd  # noqa: E402

SHARED_BYTES = 227 * 1024  # of a program on compute capability 9.0
DISASSEMBLER = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
N_ROWS, N_TOKENS = 2, 512
TOLD = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?(?P<op>\S+) (?P<to>UR\d+), (?P<rest>.*) ;")
HIGH_WORD = re.compile(r"(?:UP\d, )?(?P<added>UR\d+), (?P<constant>-?0x[0-9a-f]+), URZ, UP\d, !UPT")


def compile_only() -> list:
    """Let launches compile for Hopper and no more; gives the list that their kernels go to."""
    compiled = []
    launch = jit.JITFunction.run

    def compile_one(self, *arguments, grid, warmup, **options):
        kernel = launch(self, *arguments, grid=grid, warmup=True, **options)
        compiled.append((self.__name__, kernel))

    jit.JITFunction.run = compile_one
    driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: GPUTarget("cuda", 90, 32),
            get_current_device=lambda: 0,
            get_current_stream=lambda device: 0,
        )
    )
    return compiled


def misplaced_operands(kernel: triton.compiler.CompiledKernel) -> list[str]:
    """List the sums that address an operand of a product and begin from a wrong register.

    An operand's descriptor is a small number with a constant above it, 64 bits in all: to go on in
    shared memory, the words below are added, and those above to zero, with the carry. ptxas 12.8
    was seen to take both from the register of the plain address.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [DISASSEMBLER, "-c", file.name]
        code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return list(_sums_above_no_zero(code))


def _sums_above_no_zero(code: str) -> Iterator[str]:
    zeros = set()
    for line in code.splitlines():
        told = TOLD.search(line)
        if not told:
            continue
        above = HIGH_WORD.fullmatch(told["rest"]) if told["op"] == "UIADD3.X" else None
        of_descriptor = above and abs(int(above["constant"], 16)) >= 2**29
        if of_descriptor and above["added"] not in zeros:
            yield line.strip()
        register = int(told["to"][2:])
        zeros -= {told["to"], f"UR{register + 1}"} if "64" in told["op"] else {told["to"]}
        if (told["op"], told["rest"]) == ("UMOV", "URZ"):
            zeros.add(told["to"])


def leaf(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=True)


def differentiate(outputs: tuple[torch.Tensor, ...], inputs: list[torch.Tensor]) -> None:
    gradients = [torch.empty_like(y) for y in outputs]
    torch.autograd.grad(outputs, inputs, gradients, allow_unused=True)


def run_gla(d_key: int, d_value: int) -> None:
    q, k = (leaf(N_ROWS, N_TOKENS, 2, d_key) for _ in range(2))
    decay = leaf(N_ROWS, N_TOKENS, 2, d_key, dtype=torch.float32)
    inputs = [q, k, leaf(N_ROWS, N_TOKENS, 2, d_value), decay]
    starts = torch.empty(N_ROWS, N_TOKENS, dtype=torch.bool, device="meta")
    differentiate(triton_gla.gla(*inputs, starts), inputs)


def run_ssd(d_head: int, d_state: int, dtype: torch.dtype) -> None:
    shapes = (N_ROWS, N_TOKENS, 4), (4,), (4,)
    dt, a, skip = (leaf(*shape, dtype=torch.float32) for shape in shapes)
    b, c = (leaf(N_ROWS, N_TOKENS, 1, d_state, dtype=dtype) for _ in range(2))
    inputs = [leaf(N_ROWS, N_TOKENS, 4, d_head, dtype=dtype), dt, a, b, c, skip]
    starts = torch.empty(N_ROWS, N_TOKENS, dtype=torch.bool, device="meta")
    differentiate(triton_ssd.ssd(*inputs, starts), inputs)


def run_sparse(d_head: int) -> None:
    n_tokens = 2 * triton_sparse.CHUNK_TOKENS  # fewer, and none hears first tokens from afar
    inputs = [leaf(N_ROWS, n_tokens, 2, d_head) for _ in range(3)]
    positions = torch.empty(N_ROWS, n_tokens, dtype=torch.int64, device="meta")
    y, _ = triton_sparse.sparse(*inputs, positions, window_tokens=128, n_global=4)
    differentiate((y,), inputs)


def check_machine_code() -> None:
    compiled = compile_only()
    jobs = [(run_gla, (d_key, d_value)) for d_key in (8, 128, 256) for d_value in (16, 64, 256)]
    dtypes = (torch.bfloat16, torch.float32)
    jobs += [(run_ssd, (64, n, dtype)) for dtype in dtypes for n in (128, 32, 16)]
    jobs += [(run_ssd, (128, 256, torch.bfloat16)), (run_ssd, (256, 128, torch.bfloat16))]
    jobs += [(run_ssd, (128, 128, torch.float32))]
    jobs += [(run_sparse, (width,)) for width in (16, 64, 128)]
    for run, sizes in jobs:
        run(*sizes)
        assert compiled
        for name, kernel in compiled:
            words = f"{name} of {run.__name__}{sizes}"
            assert kernel.metadata.shared <= SHARED_BYTES, words
            assert not misplaced_operands(kernel), words
        compiled.clear()
    for sizes in ((256, 256, torch.bfloat16), (512, 64, torch.bfloat16), (256, 64, torch.float32)):
        run_ssd(*sizes)
        assert not compiled, f"{sizes} do not fit, and PyTorch's form is to be run"


def check_that_a_misplaced_operand_is_seen() -> None:
    below = "/*3e10*/  UIADD3 UR4, UP0, UR6, 0x20, URZ ;"
    above = "/*3e30*/  UIADD3.X UR5, {}, -0x3ffffff0, URZ, UP0, !UPT ;"
    zero = "/*3e00*/  UMOV UR7, URZ ;"
    assert not list(_sums_above_no_zero("\n".join((zero, below, above.format("UR7")))))
    assert list(_sums_above_no_zero("\n".join((zero, below, above.format("UR6")))))
    taken = "/*3e20*/  UMOV UR7, UR8 ;"
    assert list(_sums_above_no_zero("\n".join((zero, taken, below, above.format("UR7")))))


if __name__ == "__main__":
    check_that_a_misplaced_operand_is_seen()
    check_machine_code()
    print("check_machine_code")
