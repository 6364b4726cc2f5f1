"""Making checks: all ranks in step, each check under a time limit, and rank 0 judges.

A check that raises or hangs on a rank is a finding, and the next one is made all the same. Only
checks in which ranks talk to each other are left out once such a one went wrong: a rank would wait
there for others that are elsewhere.
"""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from helix.distributed import local_device
from helix.preflight.context import Context
from helix.preflight.findings import Facts, Finding, Seen, blame, line_of, worst

GRACE_S = 15.0  # that a rank may be late with its answer
WEEK_S = 7 * 86_400.0

Look = Callable[[Context], Any]  # on a rank: facts fit for JSON; None where it has nothing to tell
Judge = Callable[[Facts], Seen]  # on rank 0


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing to look at.

    Attributes:
        is_collective: Ranks talk to each other in it.
        needs_run: It asks for the run's settings.
        is_patient: It takes as long as it takes.
    """

    name: str
    look: Look
    judge: Judge = worst
    is_collective: bool = False
    needs_run: bool = True
    is_patient: bool = False


class Conduct:
    """One rank's way through the checks.

    Attributes:
        is_broken: A check in which ranks talk went wrong, or a rank is silent.
        has_run: Every rank could read its settings.
        n_hung: Checks that did not end on this rank; their threads are left behind.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.is_broken, self.has_run, self.n_hung = False, True, 0
        self.silent: set[int] = set()
        self.hosts: dict[int, str] = {}
        self.findings: list[Finding] = []

    def make(self, checks: Sequence[Check]) -> list[Finding]:
        """Make all checks, together with all ranks; only rank 0 gets findings."""
        console = Console(stderr=True)
        is_shown = self.context.rank == 0 and console.is_terminal
        with Progress(console=console, disable=not is_shown, transient=True) as bar:
            task = bar.add_task("preflight", total=len(checks))
            for number, check in enumerate(checks):
                bar.update(task, description=check.name)
                self.step(number, check)
                bar.advance(task)
        return self.findings

    def step(self, number: int, check: Check) -> None:
        """Make one check, tell rank 0, and learn from it how to go on."""
        reason = self.why_not(check)
        answer = {"error": reason} if reason else self.answer(check)
        board, context = self.context.board, self.context
        if context.rank:
            board.post(f"{number}/{context.rank}", self.signed(answer))
            told = board.read(f"{number}/next", timeout_s=self.limit_s(check) + 4 * GRACE_S)
            self.is_broken, self.has_run = told["is_broken"], told["has_run"]
            return
        answers = {0: self.signed(answer)} | self.gather(number, check)
        if reason:
            self.findings.append(
                Finding(name=check.name, found=reason, verdict="warning", advice="", seconds=0.0)
            )
        else:
            self.conclude(check, answers)
        board.post(f"{number}/next", {"is_broken": self.is_broken, "has_run": self.has_run})

    def why_not(self, check: Check) -> str:
        """Say why a check cannot be made; all ranks say the same."""
        if check.needs_run and not self.has_run:
            return "not looked at: there is no configuration"
        if check.is_collective and self.is_broken:
            return "not looked at: the ranks lost each other above"
        return ""

    def limit_s(self, check: Check) -> float:
        """Give the time that a check may take."""
        return WEEK_S if check.is_patient else self.context.options.timeout_s

    def answer(self, check: Check) -> dict[str, Any]:
        """Look, in a thread that is left behind where it does not come back."""
        held: dict[str, Any] = {}

        def look() -> None:
            try:
                if torch.cuda.is_available():
                    torch.cuda.set_device(local_device())  # each thread has its own
                held["facts"] = check.look(self.context)
            except Exception as error:  # whatever it is, it is what the check found
                held["error"] = line_of(error)

        started = time.monotonic()
        thread = threading.Thread(target=look, name=f"preflight {check.name}", daemon=True)
        thread.start()
        limit_s = self.limit_s(check)
        thread.join(limit_s)
        if thread.is_alive():
            self.n_hung += 1
            held = {"error": f"no end after {limit_s:.0f} s; see what it waits for, or give a "
                    "longer timeout_s"}  # fmt: skip
        return held | {"seconds": time.monotonic() - started}

    def signed(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Add who answers."""
        return answer | {"host": self.context.host, "has_run": self.context.run is not None}

    def gather(self, number: int, check: Check) -> dict[int, dict[str, Any]]:
        """Wait for the other ranks' answers; one that is silent is not waited for again."""
        answers = {}
        until = time.monotonic() + self.limit_s(check) + GRACE_S
        for rank in range(1, self.context.world_size):
            if rank in self.silent:
                continue
            try:
                left_s = until - time.monotonic()
                answers[rank] = self.context.board.read(f"{number}/{rank}", timeout_s=left_s)
            except TimeoutError:
                self.silent.add(rank)
                answers[rank] = {"error": "no answer; look whether its process is alive"}
        return answers

    def conclude(self, check: Check, answers: dict[int, dict[str, Any]]) -> None:
        """Judge what ranks brought back, and note the finding; none where none has facts."""
        self.hosts |= {rank: a["host"] for rank, a in answers.items() if "host" in a}
        self.has_run = all(
            a.get("has_run", True) for a in answers.values()
        )  # the silent do not say
        errors = {rank: a["error"] for rank, a in answers.items() if "error" in a}
        told = {rank: a["facts"] for rank, a in answers.items() if a.get("facts") is not None}
        facts = Facts(by_rank=told, hosts=self.hosts)
        if errors:
            seen = worst(Facts(by_rank={r: blame(e) for r, e in errors.items()}, hosts=self.hosts))
            self.is_broken |= check.is_collective or bool(self.silent)
        elif told:
            seen = judged(check, facts)
        else:
            return
        seconds = max(a.get("seconds", 0.0) for a in answers.values())
        self.findings.append(Finding(name=check.name, seconds=round(seconds, 3), **seen._asdict()))

    def agree(self) -> int:
        """Give the exit status, the same on every rank; rank 0 goes last, as it holds the board."""
        board, context = self.context.board, self.context
        if context.rank:
            status = int(board.read("status", timeout_s=GRACE_S))
            board.post(f"bye/{context.rank}", True)
            return status
        status = 2 if any(finding.verdict == "FAILED" for finding in self.findings) else 0
        board.post("status", status)
        until = time.monotonic() + GRACE_S
        for rank in set(range(1, context.world_size)) - self.silent:
            try:
                board.read(f"bye/{rank}", timeout_s=until - time.monotonic())
            except TimeoutError:
                print(f"helix: preflight: rank {rank} did not end with the others", file=sys.stderr)
        return status


def judged(check: Check, facts: Facts) -> Seen:
    """Judge facts; a judge that stumbles has found something, too."""
    try:
        return check.judge(facts)
    except Exception as error:
        return blame(line_of(error))
