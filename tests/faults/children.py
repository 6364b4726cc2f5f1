"""Training processes that start in a moment: forked from one that has imported everything."""

import multiprocessing
import os
import signal
import socket
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.commands import OF_RANKS

PRELOADED = ["tests.faults.children", "deepspeed", "helix.cli", "helix.training.trainer"]


def context():
    """Give the context that forks children off a server; it imports once."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOADED)
    return server


def train(words: list[str], environment: dict[str, str], log: str) -> None:
    """Be one rank of a run; end with the status that `helix train` has."""
    for name in OF_RANKS:
        os.environ.pop(name, None)
    os.environ |= environment
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    import torch

    from helix import cli

    torch.set_num_threads(1)
    sys.argv = ["helix", "train", *words]
    status = cli.console()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # as the end of a program is; the server's exit handlers are not ours


class Attempt:
    """One start of a run, on so many ranks."""

    def __init__(self, run_dir: Path, words: list[str], *, n_ranks: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.log = run_dir.with_name(f"{run_dir.name}.log")
        server = context()
        self.ranks: list[BaseProcess] = []
        for rank in range(n_ranks):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n_ranks)}
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"}
            arguments = ([f"run_dir={run_dir}", *words], place | meeting, str(self.log))
            process = server.Process(target=train, args=arguments)
            process.start()
            self.ranks.append(process)

    @property
    def is_alive(self) -> bool:
        """Tell whether any rank runs."""
        return any(process.is_alive() for process in self.ranks)

    def signal(self, number: int) -> None:
        """Send a signal to all ranks that run."""
        for process in self.ranks:
            if process.is_alive():
                os.kill(process.pid or 0, number)

    def kill(self, *, only: int | None = None) -> None:
        """Kill all ranks, or one: the others then end by themselves."""
        for rank, process in enumerate(self.ranks):
            if only in (None, rank) and process.is_alive():
                os.kill(process.pid or 0, signal.SIGKILL)

    def join(self, timeout_s: float) -> list[int | None]:
        """Wait for the end; give the statuses, a negative signal for one that was killed."""
        for process in self.ranks:
            process.join(timeout_s)
        return [process.exitcode for process in self.ranks]
