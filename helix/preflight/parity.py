"""Kernels: do the backends that this run takes compute, on this device, what our references do?"""

from typing import Any

import torch
from torch import Tensor

from helix import kernels
from helix.distributed import local_device
from helix.kernels.tuned.bench import relative_error
from helix.preflight.cases import Case, cases_of
from helix.preflight.context import Context
from helix.preflight.findings import Facts, Seen, line_of

# Relative root mean square, of results and of gradients: the bounds of the kernels' own tests.
BOUNDS = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
FP8_BOUND = 0.12
BROKEN = float("inf")


def look_at_kernels(context: Context) -> list[dict[str, Any]]:
    """Compare each kernel of the run's pattern; one that raises does not end the others."""
    device, run = local_device(), context.of_run
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    found = []
    for case in cases_of(run.model, run.seed):
        told = {"kernel": case.kernel, "backend": case.backend, "error": BROKEN, "problem": ""}
        try:
            function, told["backend"] = chosen(case)
            told["error"] = error_of(case, function, device, dtype)
        except Exception as error:  # compilers and drivers raise many kinds
            told["problem"] = line_of(error)[:200]
        told["bound"] = FP8_BOUND if case.is_fp8 else BOUNDS[dtype]
        told["is_right"] = bool(told["error"] <= told["bound"])  # what is no number is not
        told["error"] = f"{told['error']:.1e}"
        found.append(told)
    return found


def chosen(case: Case) -> tuple[Any, str]:
    """Give the function that the run would call, and the name of its backend."""
    function = kernels.select(case.kernel, case.backend)
    rows = kernels.candidates(case.kernel)
    first = next(r.backend for r in rows if r.available and case.backend in ("auto", r.backend))
    return function, first


def error_of(case: Case, function: Any, device: torch.device, dtype: torch.dtype) -> float:
    """Give the largest relative error of results and gradients; nan where any is none."""
    rounded = [x.to(dtype) for x in case.rounded]
    truths = [x.float().requires_grad_() for x in (*rounded, *case.exact)]
    inputs = [x.to(device, copy=True).detach().requires_grad_() for x in (*rounded, *case.exact)]
    expected = as_tuple(case.call(case.truth, *truths, *case.fixed))
    actual = as_tuple(case.call(function, *inputs, *(x.to(device) for x in case.fixed)))
    pairs = [
        *zip(actual, expected, strict=True),
        *zip(gradients(actual, inputs), gradients(expected, truths), strict=True),
    ]
    errors = [relative_error(a.detach().cpu(), e.detach()) for a, e in pairs]
    return float("nan") if any(error != error for error in errors) else max(errors)


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    """Give one tensor or several as several."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def gradients(outputs: tuple[Tensor, ...], inputs: list[Tensor]) -> list[Tensor]:
    """Differentiate a fixed random projection of the outputs."""
    generator = torch.Generator().manual_seed(7)
    total = torch.stack(
        [(y.float() * torch.randn(y.shape, generator=generator).to(y.device)).sum()
         for y in outputs if y.requires_grad]
    ).sum()  # fmt: skip
    return list(torch.autograd.grad(total, inputs, materialize_grads=True, allow_unused=True))


def judge_kernels(facts: Facts) -> Seen:
    """Name the kernels that are wrong, or the one that is furthest off."""
    wrong: dict[str, list[int]] = {}
    for rank, rows in facts.by_rank.items():
        for row in rows:
            if not row["is_right"]:
                wrong.setdefault(describe(row), []).append(rank)
    if wrong:
        told = "; ".join(f"{facts.name(ranks)}: {what}" for what, ranks in wrong.items())
        return Seen(
            told,
            "FAILED",
            "take another backend (helix doctor lists them); wrong on one rank alone, the device "
            "is to blame: leave its node out",
        )
    rows = [row for rows in facts.by_rank.values() for row in rows]
    names = sorted({f"{row['kernel']} {row['backend']}" for row in rows})
    furthest = max(rows, key=lambda row: float(row["error"]) / row["bound"])
    return Seen(
        f"{len(names)} right, results and gradients; furthest off {furthest['kernel']} "
        f"({furthest['backend']}) by {furthest['error']}, {furthest['bound']:.0e} are allowed"
    )


def describe(row: dict[str, Any]) -> str:
    """Say what is wrong with a kernel."""
    what = row["problem"] or f"relative error {row['error']} above {row['bound']:.0e}"
    return f"{row['kernel']} ({row['backend']}): {what}"
