"""Preflight: on the job's own nodes, before GPU hours burn, would this run go well?

It is started as `helix train` would be, with the same words, by one process or by all ranks.
"""

import os
import sys
import threading

import torch.distributed as dist

from helix.config import ConfigError
from helix.preflight.checks import CHECKS
from helix.preflight.conduct import Conduct
from helix.preflight.context import Context, PreflightConfig
from helix.preflight.disk import tidy
from helix.preflight.findings import line_of
from helix.preflight.report import print_report
from helix.training.engine import join_ranks

__all__ = ["CHECKS", "PreflightConfig", "preflight"]


def preflight(words: list[str], options: PreflightConfig) -> int:
    """Make all checks and let rank 0 print them; give 0, or 2 where one failed. All ranks call it.

    Where a check never came back the process ends here: its thread would keep it.

    Args:
        words: The run's settings, as for training.

    Raises:
        ConfigError: The ranks do not find each other, or lost rank 0.
    """
    meet(options.timeout_s)
    conduct = Conduct(Context.here(words, options))
    try:
        findings = conduct.make(CHECKS)
        tidy(conduct.context)
        if conduct.context.rank == 0:
            print_report(findings, is_json=options.json)
        status = conduct.agree()
    except (dist.DistError, TimeoutError) as error:
        raise ConfigError(
            f"doctor preflight: rank {conduct.context.rank} lost rank 0 ({line_of(error)}); see "
            "what rank 0 says"
        ) from error
    if conduct.n_hung:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def meet(timeout_s: float) -> None:
    """Join the ranks, or say that they do not find each other."""
    problem: list[str] = [f"not all ranks came within {timeout_s:.0f} s"]

    def join() -> None:
        try:
            join_ranks()
            problem[:] = []
        except Exception as error:  # of the store, of NCCL, of the device
            problem[:] = [line_of(error)]

    thread = threading.Thread(target=join, name="preflight meeting", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if problem:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        rank, n_ranks = (os.environ.get(name, "?") for name in ("RANK", "WORLD_SIZE"))
        raise ConfigError(
            f"doctor preflight: rank {rank} of {n_ranks} did not meet the others at {where} "
            f"({problem[0]}); look whether all ranks were started, and whether nodes may reach "
            "that port"
        )
