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
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", f"tests.kernels.interpreted.{name}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "check_" in done.stdout
