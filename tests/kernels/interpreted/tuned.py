"""Holds shipped files and the search to the kernels, on a CPU; test_triton.py starts it."""

import importlib
from functools import partial
from unittest import mock

import torch

from helix.kernels import tuned
from helix.kernels.tuned import workloads
from helix.kernels.tuned.bench import Bench
from helix.kernels.tuned.candidates import CANDIDATES
from tests.kernels.interpreted.checks import run

ROWS = workloads.Rows(1, 70, torch.device("cpu"), torch.float32)
TINY = {
    "gla": partial(workloads.gla, n_heads=1, d_key=16, d_value=32),
    "ssd": partial(workloads.ssd, n_heads=2, d_head=16, n_groups=1, d_state=16),
    "conv": partial(workloads.conv, n_channels=20, n_taps=4, n_beside=4),
    "sparse": partial(
        workloads.sparse, n_heads=2, n_kv_heads=1, d_head=16, window_tokens=40, n_global=4
    ),
    "cross_entropy": partial(workloads.cross_entropy, n_vocab=300, chunk_rows=8),
}


def module_of(family: str) -> object:
    return importlib.import_module(f"helix.kernels.triton_{family}")


def check_every_constant_of_a_file_is_one_of_the_kernels() -> None:
    for family, names in tuned.CONSTANTS.items():
        module = module_of(family)
        with mock.patch.object(tuned, "tuned", wraps=tuned.tuned) as asked:
            importlib.reload(module)
        assert [call.args[0] for call in asked.mock_calls] == [f"{family}.{n}" for n in names]


def check_shipped_files_fit_the_kernels() -> None:
    for file in tuned.FOLDER.glob("*.json"):
        assert file.stem == tuned.slug_of(file.stem)
        for family, constants in tuned.read(file).items():
            for name, given in constants.items():
                tuned.override(getattr(module_of(family), name), given, f"{file}: {family}.{name}")


def check_candidates_are_right_and_defaults_are_put_back() -> None:
    for family in CANDIDATES:
        module = module_of(family)
        before = {name: getattr(module, name) for name in CANDIDATES[family]}
        before = {k: dict(v) if isinstance(v, dict) else v for k, v in before.items()}
        rows = ROWS._replace(n_tokens=130) if family == "sparse" else ROWS
        bench = Bench(family, TINY[family](rows), width=64)
        for name in bench.start:
            value = bench.candidates[name][-1]
            assert bench.check({**bench.start, name: value}) == "", (family, name, value)
        for name, value in bench.to_json(bench.start).items():
            assert tuned.override(before[name], value, name) == before[name]
        bench.place(bench.start)
        assert {name: getattr(module, name) for name in before} == before


def check_what_is_wrong_or_fails_is_refused() -> None:
    bench = Bench("conv", TINY["conv"](ROWS), width=64)
    first = bench.expected[0].clone()
    bench.expected[0].mul_(2)
    assert bench.check(bench.start).startswith("wrong: relative error 5.0e-01")
    bench.expected[0].fill_(float("nan"))
    assert bench.check(bench.start) == "wrong: relative error nan"
    bench.expected[0].copy_(first)
    odd = {**bench.start, "FORWARD": bench.start["FORWARD"] | {"BC": 100}}
    assert bench.check(odd).startswith("failed: ")
    noisy = workloads.Workload(lambda: [first + 1e-4 * torch.randn_like(first)])
    bench.workload, bench.expected = noisy, [first]
    assert bench.check(bench.start) == "wrong: differs from run to run"


if __name__ == "__main__":
    run(
        check_every_constant_of_a_file_is_one_of_the_kernels,
        check_shipped_files_fit_the_kernels,
        check_candidates_are_right_and_defaults_are_put_back,
        check_what_is_wrong_or_fails_is_refused,
    )
