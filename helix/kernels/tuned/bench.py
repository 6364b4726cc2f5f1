"""Runs a family's workload at given launch constants: is it right, and how long does it take?"""

import importlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from helix.kernels.tuned import override
from helix.kernels.tuned.candidates import CANDIDATES
from helix.kernels.tuned.search import choices
from helix.kernels.tuned.workloads import Workload

BOUND = 2e-2  # relative RMS error in bfloat16: that of tests/numerics.py
N_REPEATS, N_WARM_UPS, N_TIMES = 3, 3, 20
LEAD_CYCLES = 2_500_000  # that the GPU waits, about 1.5 ms, so that launches are not timed


class Bench:
    """One family at work; its module's constants are changed and, by `place`, changed back.

    Args:
        width: Whose entry is taken of a constant that is a table by width.

    Attributes:
        start: The constants that are searched, as they were found.
        candidates: For each, what else is tried.
    """

    def __init__(self, family: str, workload: Workload, *, width: int) -> None:
        self.module = importlib.import_module(f"helix.kernels.triton_{family}")
        self.workload, self.width = workload, width
        tried = CANDIDATES[family]
        self.start = {name: self._entry(name) for name in tried}
        self.candidates = {
            name: [override(self.start[name], c, f"{family}.{name}") for c in tried[name]]
            for name in tried
        }
        self.expected = self._results()

    def n_trials(self) -> int:
        """Count the values that a search tries."""
        return sum(len(choices(self.start[name], self.candidates[name])) for name in self.start)

    def place(self, values: Mapping[str, Any]) -> None:
        """Let the kernels be launched with these constants from now on."""
        for name, value in values.items():
            if self._is_table(name):
                getattr(self.module, name)[self.width] = value
            else:
                setattr(self.module, name, value)

    def check(self, values: Mapping[str, Any]) -> str:
        """Say what is wrong with the results, next to those at the start and time after time."""
        self.place(values)
        try:
            first = self._results()
            again = [self._results() for _ in range(N_REPEATS - 1)]
        except Exception as error:  # Triton's compiler and the driver raise many kinds
            return f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
        errors = [relative_error(a, e) for a, e in zip(first, self.expected, strict=True)]
        far = [error for error in errors if not error <= BOUND]  # so is what is no number
        if far:
            return f"wrong: relative error {far[0]:.1e}"
        same = all(torch.equal(a, b) for other in again for a, b in zip(first, other, strict=True))
        return "" if same else "wrong: differs from run to run"

    def time_ms(self, values: Mapping[str, Any]) -> float:
        """Give the median time on the GPU."""
        self.place(values)
        for _ in range(N_WARM_UPS):
            self._run()
        marks = []
        for _ in range(N_TIMES):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.workload.prepare()
            torch.cuda._sleep(LEAD_CYCLES)
            begin.record()
            self.workload.run()
            end.record()
            marks.append((begin, end))
        torch.cuda.synchronize()
        return statistics.median(begin.elapsed_time(end) for begin, end in marks)

    def to_json(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Give constants as a file holds them."""
        plain = {name: to_fields(value) for name, value in values.items()}
        return {n: {str(self.width): v} if self._is_table(n) else v for n, v in plain.items()}

    def _entry(self, name: str) -> Any:
        value = getattr(self.module, name)
        return value[self.width] if self._is_table(name) else value

    def _is_table(self, name: str) -> bool:
        value = getattr(self.module, name)
        return isinstance(value, dict) and all(isinstance(key, int) for key in value)

    def _run(self) -> Sequence[Tensor]:
        self.workload.prepare()
        return self.workload.run()

    def _results(self) -> list[Tensor]:
        return [x.detach().clone() for x in self._run()]


def to_fields(value: Any) -> dict[str, int | None] | int:
    """Give a constant's numbers by name, or the number that it is."""
    return value._asdict() if isinstance(value, tuple) else value  # pyright: ignore


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Divide the error's root mean square by that of what was expected; nan if any is none."""
    size = torch.linalg.vector_norm(expected.float())
    error = torch.linalg.vector_norm(actual.float() - expected.float())
    return float(error / size) if size > 0 else float(error)
