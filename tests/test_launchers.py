"""One command, three launchers: python, torchrun and deepspeed train the same run."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from helix.training.metrics import read_records
from tests.commands import clean_environment
from tests.conftest import TINY_MODEL

TIMEOUT_S = 180
SAME_CURVE = {"rel": 2e-6}  # sums in another order; see tests/training/test_trainer.py
COMPILERS = ("c++", "g++", "gcc", "cc", "clang", "ninja", "nvcc")


@pytest.fixture
def watched(tmp_path):
    """An environment that notes each call of a compiler and each import of mpi4py."""
    calls = tmp_path / "calls"
    (tmp_path / "bin").mkdir()
    for name in COMPILERS:
        tool = tmp_path / "bin" / name
        tool.write_text(f'#!/bin/sh\necho "$0 $@" >> {calls}\nexit 1\n')
        tool.chmod(0o755)
    package = tmp_path / "packages" / "mpi4py"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        f'open({str(calls)!r}, "a").write("mpi4py\\n")\nraise ImportError("not here")\n'
    )
    environment = clean_environment(TORCH_EXTENSIONS_DIR=str(tmp_path / "extensions"))
    environment["PATH"] = f"{tmp_path / 'bin'}:{environment['PATH']}"
    environment["PYTHONPATH"] = str(tmp_path / "packages")
    return environment


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.ranks
def test_every_launcher_gives_one_loss_curve_and_compiles_nothing(corpus, tmp_path, watched):
    scripts = Path(sys.executable).parent
    n_gpus = ["--num_gpus", "2", "--master_port", free_port()]
    launchers = {
        "python": [sys.executable, "-m", "helix"],
        "torchrun": [scripts / "torchrun", "--standalone", "--nproc_per_node", "2", "-m", "helix"],
        "deepspeed": [scripts / "deepspeed", *n_gpus, "--module", "helix"],
    }
    own = {"training.n_steps": 2, "training.micro_batch_rows": 2}
    words = [word for word in TINY_MODEL if word.partition("=")[0] not in own]
    words += [f"data.path={corpus}", *(f"{key}={value}" for key, value in own.items())]
    curves = {}
    for name, launcher in launchers.items():
        command = [*launcher, "train", f"run_dir={tmp_path / name}", *words]
        ended = subprocess.run(
            command, env=watched, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        assert ended.returncode == 0, f"{name}:\n{ended.stderr}"
        records = read_records(tmp_path / name)
        curves[name] = [r["train/loss_nats_per_token"] for r in records if "speed/step_ms" in r]
    assert len(curves["python"]) == 2
    assert curves["torchrun"] == pytest.approx(curves["python"], **SAME_CURVE)
    assert curves["deepspeed"] == pytest.approx(curves["python"], **SAME_CURVE)
    assert not (tmp_path / "calls").exists(), (tmp_path / "calls").read_text()
    assert not any((tmp_path / "extensions").glob("**/*"))


LEAVES_THE_GROUP = """
import sys
from helix import cli
from helix.training.engine import join_ranks

def join(words):
    join_ranks()
    if words:
        raise FileNotFoundError("lost.json")
    return 0

cli.COMMANDS["train"] = join
sys.argv = ["helix", "train", *sys.argv[1:]]
status = cli.console()
import torch.distributed as dist
print(status, dist.is_initialized())
"""


@pytest.mark.parametrize(("words", "status"), [([], 0), (["fails"], 2)])
def test_a_process_leaves_its_group_before_it_ends(words, status):
    """Or gloo's threads are killed with Python, and a run that ended well is reported failed."""
    ended = subprocess.run(
        [sys.executable, "-c", LEAVES_THE_GROUP, *words],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert ended.stdout.split() == [str(status), "False"], ended.stderr
