"""Real gloo ranks that live as long as the test session: starting them takes seconds."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

TIMEOUT_S = 240


class Ranks:
    """A group of processes that run the same function together."""

    def __init__(self, n_ranks: int) -> None:
        context = multiprocessing.get_context("spawn")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(n_ranks):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, rank, n_ranks, port), daemon=True)
            process.start()
            theirs.close()  # so that a rank that dies ends the wait for its answer
            self.pipes.append(ours)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call a function on every rank; give what each returned, by rank."""
        for pipe in self.pipes:
            pipe.send((function, arguments))
        answers = []
        for rank, pipe in enumerate(self.pipes):
            if not pipe.poll(TIMEOUT_S):
                self.stop()
                raise TimeoutError(f"rank {rank} gave no answer in {TIMEOUT_S} s")
            is_error, answer = pipe.recv()
            if is_error:
                self.stop()
                raise RuntimeError(f"rank {rank}:\n{answer}")
            answers.append(answer)
        return answers

    def stop(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.kill()
            process.join()

    @property
    def is_alive(self) -> bool:
        """Tell whether all processes run."""
        return all(process.is_alive() for process in self.processes)


def serve(pipe: Connection, rank: int, n_ranks: int, port: int) -> None:
    """Run what comes through the pipe, one call after the other."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(n_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((False, function(*arguments)))
        except BaseException:
            pipe.send((True, traceback.format_exc()))
