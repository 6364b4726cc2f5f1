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


ENDS = """
import atexit, os, sys
from helix import cli
from helix.training.engine import join_ranks

class Witness:  # of Python's own end, which kills gloo's threads where they stand
    def __del__(self, write=os.write):
        write(1, b"finalized")

def join(words):
    import torch.distributed as dist
    join_ranks()
    atexit.register(lambda: print(f"in a group: {dist.is_initialized()}"))
    sys.modules["held"] = dist.group.WORLD, Witness()
    if words:
        raise FileNotFoundError("lost.json")
    print("joined")
    return 0

cli.COMMANDS["train"] = join
sys.argv = ["helix", "train", *sys.argv[1:]]
sys.exit(cli.console())
"""


@pytest.mark.parametrize(
    ("words", "status", "printed"),
    [([], 0, "joined\nin a group: False\n"), (["fails"], 2, "in a group: False\n")],
)
def test_a_rank_leaves_its_group_and_ends_without_pythons_own_end(words, status, printed):
    """Or gloo's threads are killed with Python, and a run that ended well is reported failed."""
    ended = subprocess.run(
        [sys.executable, "-c", ENDS, *words],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert (ended.returncode, ended.stdout) == (status, printed), ended.stderr


def test_a_process_that_was_no_rank_ends_as_python_does():
    words = ["-c", ENDS.replace("    join_ranks()\n", "").replace("dist.group.WORLD", "None")]
    ended = subprocess.run(
        [sys.executable, *words],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert (ended.returncode, ended.stdout.split()[-1]) == (0, "finalized"), ended.stderr
