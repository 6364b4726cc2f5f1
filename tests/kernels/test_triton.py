import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKED = sorted(
    path.stem
    for path in (Path(__file__).parent / "interpreted").glob("*.py")
    if path.stem not in ("__init__", "checks")
)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("name", CHECKED)
def test_our_triton_kernels_equal_our_references_under_the_interpreter(name):
    run_checks(f"tests.kernels.interpreted.{name}", TRITON_INTERPRET="1")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_kernels_fit_the_shared_memory_of_hopper():
    run_checks("tests.kernels.hopper")


def run_checks(module, **variables):
    done = subprocess.run(
        [sys.executable, "-m", module],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", **variables},
    )
    assert done.returncode == 0, done.stderr
    assert "check_" in done.stdout
