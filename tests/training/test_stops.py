"""Signals and the deadline: remembered, agreed, kept from helpers; and the requeue command."""

import json
import os
import signal
import time

import pytest

from helix.config import ConfigError
from helix.training.metrics import metrics_path
from helix.training.requeue import requeue_once, run_requeue
from helix.training.stops import DEADLINE, STOP_SIGNALS, TIME_IS_UP, Stops
from helix.training.trainer import Trainer


def ask_after_signal(number: int) -> int:
    """On a rank: signal rank 1 alone, then agree."""
    from helix import distributed
    from helix.training.engine import join_ranks

    join_ranks()
    with Stops() as stops:
        if distributed.rank() == 1:
            os.kill(os.getpid(), number)
        return stops.agreed()


def ask_before_deadline(left_s: float) -> int:
    """On a rank: agree where rank 1's clock alone says that time is up."""
    from helix import distributed
    from helix.training.engine import join_ranks

    join_ranks()
    stops = Stops(first_save_s=10)
    stops.deadline_unix_s = time.time() + (left_s if distributed.rank() == 1 else 1000)
    return stops.agreed()


@pytest.mark.ranks
def test_ranks_agree_on_a_stop_that_one_of_them_knows_of(two_ranks):
    for number in STOP_SIGNALS:
        assert two_ranks.run(ask_after_signal, int(number)) == [number, number]
    assert two_ranks.run(ask_before_deadline, 5.0) == [TIME_IS_UP] * 2
    assert two_ranks.run(ask_before_deadline, 500.0) == [0, 0]


def test_time_is_up_when_a_step_and_one_and_a_half_saves_are_left(monkeypatch):
    monkeypatch.setenv(DEADLINE, str(time.time() + 100))
    stops = Stops(first_save_s=60)
    assert not stops.is_time_up()
    stops.note_save(70, is_under_way=False)
    assert stops.is_time_up()
    stops.note_save(35, is_under_way=False)
    assert not stops.is_time_up()
    stops.note_save(35, is_under_way=True)
    assert not stops.is_time_up()
    stops.note_save(45, is_under_way=True)
    assert stops.is_time_up()
    stops.note_save(0, is_under_way=False)
    assert not stops.is_time_up()
    stops.steps_s.append(20)
    assert stops.is_time_up()


def test_run_without_a_deadline_has_all_the_time(monkeypatch):
    monkeypatch.delenv(DEADLINE, raising=False)
    assert not Stops(first_save_s=1e9).is_time_up()


def test_deadline_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv(DEADLINE, "noon")
    with pytest.raises(ConfigError, match=r"HELIX_DEADLINE_UNIX_S=noon: give the seconds"):
        Stops()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_helpers_ignore_the_signals_that_their_parent_waits_for():
    with Stops():
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            kept = [signal.getsignal(number) == signal.SIG_IGN for number in STOP_SIGNALS]
            os.write(writing, b"yes" if all(kept) else b"no")
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reading, 9) == b"yes"


def test_requeue_command_runs_with_the_stop_signals_blocked(tmp_path, monkeypatch, capsys):
    script = tmp_path / "requeue.sh"
    script.write_text(
        '#!/bin/sh\nkill -USR2 $$\nkill -TERM $$\necho "$1" > "$2"\n'  # it outlives both
    )
    monkeypatch.setenv("HELIX_REQUEUE", f"sh {script} 'job 42' {tmp_path / 'told'}")
    assert run_requeue()
    assert (tmp_path / "told").read_text() == "job 42\n"
    assert "helix: requeued: " in capsys.readouterr().err
    signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("sh -c 'echo no such job >&2; exit 3'", "status 3: no such job"),
        ("/no/such/command 42", "No such file"),
        ("unclosed 'quote", "No closing quotation"),
    ],
)
def test_requeue_that_fails_is_told_and_not_fatal(monkeypatch, capsys, command, why):
    monkeypatch.setenv("HELIX_REQUEUE", command)
    assert not run_requeue()
    told = capsys.readouterr().err
    assert why in told
    assert "start the job again" in told
    assert len(told.splitlines()) == 1


def test_only_the_first_rank_requeues(tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    monkeypatch.setenv("HELIX_REQUEUE", f"sh -c 'echo x >> {calls}'")
    claim = tmp_path / "stacks" / "requeued"
    assert [requeue_once(claim) for _ in range(3)] == [True, False, False]
    assert calls.read_text() == "x\n"
    monkeypatch.setenv("HELIX_REQUEUE", "")
    assert not requeue_once(tmp_path / "other")


def test_an_attempt_knows_how_long_the_saves_of_those_before_it_took(tiny_run):
    config = tiny_run()
    build_and_leave(config)
    lines = [{"step": 3, "attempt": 0, "checkpoint/write_s": 4.5}, {"step": 6, "attempt": 0}]
    with metrics_path(config.run_dir).open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)
    assert build_and_leave(config).stops.save_s == 4.5


def build_and_leave(config):
    trainer = Trainer.build(config)
    with trainer.metrics, trainer.loader, trainer.saver:
        return trainer
