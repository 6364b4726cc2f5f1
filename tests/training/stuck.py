"""Runs `helix train` with a fault put into one rank: python -m tests.training.stuck FAULT words.

FAULT is rank:step:place: at that step, that rank sleeps for ever in data, forward, backward, step,
save or validate; or it ends at once in exit, raises an error of its own in error, or is slow in
its forward passes in slow. At step 0, exit_early and error_early do so while the run is built.
"""

import os
import sys
import time

import torch

from helix import cli
from helix.training import engine, trainer
from helix.training.checkpoint import Saver

RANK = int(os.environ.get("RANK", "0"))


def main() -> None:
    rank, step, place = sys.argv.pop(1).split(":")
    if int(rank) == RANK:
        put_fault(int(step), place)
    sys.exit(cli.console())


def put_fault(step: int, place: str) -> None:
    owner, name = {
        "data": (trainer.ReadAhead, "next"),
        "forward": (engine.Engine, "accumulate"),
        "exit": (engine.Engine, "accumulate"),
        "exit_early": (trainer, "resume"),
        "error_early": (trainer, "resume"),
        "error": (engine.Engine, "accumulate"),
        "slow": (engine.ForwardTimer, "stop"),
        "backward": (torch.Tensor, "backward"),
        "step": (engine.Engine, "apply"),
        "save": (Saver, "start"),
        "validate": (engine.Engine, "score"),
    }[place]
    original = getattr(owner, name)
    now = {"step": 0}
    take = trainer.Trainer.take_step

    def take_counted(self):
        now["step"] += 1
        return take(self)

    def faulty(self, *arguments, **options):
        if now["step"] >= step:
            fail(place)
        return original(self, *arguments, **options)

    trainer.Trainer.take_step = take_counted
    setattr(owner, name, faulty)


def fail(place: str) -> None:
    if place.startswith("exit"):
        os._exit(9)
    if place.startswith("error"):
        raise FileNotFoundError("lost.json")
    time.sleep(0.05 if place == "slow" else 1e6)


if __name__ == "__main__":
    main()
