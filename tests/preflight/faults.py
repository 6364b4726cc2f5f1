"""What goes wrong in the tests of preflight, on one rank of two: a spawned rank can import it."""

import time
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from helix.preflight import CHECKS, PreflightConfig, clock, communication, disk, steps, versions
from helix.preflight.conduct import Check, Conduct
from helix.preflight.context import Context
from helix.preflight.findings import Seen
from helix.training.engine import join_ranks

ODD = 1  # the rank that is at fault


def another_version(patch):
    patch.setattr(versions, "version_of", lambda package: "0.0.1")


def another_code(patch):
    patch.setattr(versions, "fingerprint", lambda: "0123456789ab")


def wrong_sum(patch):
    def all_reduce(tensor, **kwargs):
        communication_dist.all_reduce(tensor, **kwargs)
        tensor[-1] += 1

    communication_dist = communication.dist
    kept = {n: getattr(communication_dist, n) for n in ("broadcast", "all_gather", "get_backend")}
    patch.setattr(communication, "dist", SimpleNamespace(**kept, all_reduce=all_reduce))


def clock_ahead(patch):
    patch.setattr(clock, "time", SimpleNamespace(time=lambda: time.time() + 5))


def another_folder(patch):
    patch.setattr(disk, "is_there", lambda folder, name: False)


def another_loss(patch):
    losses = steps.look_at_steps

    def look_at_steps(context):
        return [loss + 0.5 for loss in losses(context)]

    return [Check(name="steps", look=look_at_steps, judge=steps.judge_steps, is_collective=True)]


def hangs(patch):
    return [Check(name="slow", look=lambda context: time.sleep(60), needs_run=False)]


def raises_in_a_collective(patch):
    def look_at_links(context):
        raise ZeroDivisionError("no such link")

    return [
        Check(
            name="links",
            look=look_at_links,
            judge=communication.judge_links,
            needs_run=False,
            is_collective=True,
        )
    ]


def quick(context):
    return Seen("done")


FAULTS = {
    fault.__name__: fault
    for fault in (
        another_version,
        another_code,
        wrong_sum,
        clock_ahead,
        another_folder,
        another_loss,
        hangs,
        raises_in_a_collective,
    )
}


def number_where_each_rank_sees_one_gpu():
    """Give the number of this rank on its node, where LOCAL_RANK says 0 on all of them."""
    join_ranks()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")
        return Context.here([], PreflightConfig()).number_on_node


def check_with(words, fault, names, timeout_s):
    """Make the checks of some names with a fault on one rank; give status, seconds, findings."""
    join_ranks()
    own = {check.name: check for check in CHECKS}
    own["slow"] = Check(name="slow", look=quick, needs_run=False)
    with pytest.MonkeyPatch.context() as patch:
        conduct = Conduct(Context.here(words, PreflightConfig(timeout_s=timeout_s)))
        if fault and conduct.context.rank == ODD:
            own |= {check.name: check for check in FAULTS[fault](patch) or []}
        started = time.monotonic()
        findings = conduct.make([own[name] for name in names])
        status = conduct.agree()
    return status, time.monotonic() - started, {f.name: asdict(f) for f in findings}
