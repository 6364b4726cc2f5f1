"""Parts of the watchdog that need no second process: who is suspected, what is a lost rank."""

import pytest
import torch.distributed as dist

from helix.config import WatchdogConfig
from helix.training.pace import Pace
from helix.training.peers import await_mark, is_lost_peer
from helix.training.watchdog import Place, Watchdog, name_suspect


def at(rank, phase, step=7, phase_s=60.0):
    return Place(rank=rank, step=step, phase=phase, phase_s=phase_s)


def test_rank_that_is_behind_is_the_suspect():
    places = {0: at(0, "backward"), 1: at(1, "data"), 2: at(2, "forward", phase_s=59)}
    assert name_suspect(places, 3) == (
        "suspect rank 1; rank 1 in data of step 7 since 60 s; "
        "rank 2 in forward of step 7 since 59 s; rank 0 in backward of step 7 since 60 s"
    )
    places = {0: at(0, "data"), 1: at(1, "validate", step=6)}
    assert name_suspect(places, 2).startswith("suspect rank 1; ")


def test_rank_that_gives_no_answer_is_the_suspect():
    told = name_suspect({0: at(0, "step")}, 3)
    assert told.startswith("suspect rank 1, 2; rank 0 in step of step 7")
    assert told.endswith("no answer from rank 1, 2")


def test_no_rank_is_suspected_where_all_wait_in_the_same_place():
    told = name_suspect({rank: at(rank, "step") for rank in range(64)}, 64)
    assert "suspect" not in told
    assert told.endswith("56 more ranks further on; all ranks wait in the same place")


def test_limits_of_zero_start_no_thread(tmp_path):
    phases = ("data", "forward", "backward", "step", "save", "validate")
    off = WatchdogConfig(**{f"{phase}_s": 0 for phase in phases})
    assert not Watchdog(off, tmp_path, rank=0, world_size=1).is_on
    on = Watchdog(WatchdogConfig(), tmp_path, rank=0, world_size=1)
    assert on.is_on
    on.enter("data")
    assert on.place().phase == "data"
    with on:
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:4",
        "[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 600000ms for recv operation",
        "Connection reset by peer",
        "NCCL error: remote process exited or there was a network error",
    ],
)
def test_words_of_lost_connections_are_known(words):
    assert is_lost_peer(RuntimeError(words))


def test_other_errors_are_no_lost_rank():
    assert is_lost_peer(dist.DistBackendError("whatever it says"))
    assert not is_lost_peer(RuntimeError("shape mismatch"))
    assert not is_lost_peer(OSError("Connection reset by peer"))  # a download, say
    enforced = "[enforce fail at gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes"
    assert not is_lost_peer(RuntimeError(enforced))


def test_word_of_a_failed_rank_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("helix.training.peers.MARK_S", 0.0)
    assert await_mark(tmp_path / "none") is None
    (tmp_path / "rank-3.failed").write_text("why")
    assert await_mark(tmp_path).stem == "rank-3"


def test_only_a_rank_that_stays_slow_is_named(capsys):
    pace = Pace(WatchdogConfig(slow_comparisons=2, slow_ratio=1.5, compare_every_steps=1))
    for times in ([10, 10, 30], [10, 30, 10], [10, 11, 10], [10, 10, 30]):
        pace.judge([float(t) for t in times], 100.0)
    assert capsys.readouterr().err == ""
    found = pace.judge([10.0, 10.0, 30.0], 100.0)
    assert (found.rank, found.ratio) == (2, 3.0)
    assert "rank 2 is slow: 3.0 times" in capsys.readouterr().err
    pace.judge([10.0, 10.0, 30.0], 100.0)
    assert capsys.readouterr().err == ""  # told once
    for _ in range(3):
        pace.judge([0.1, 0.1, 0.3], 100.0)  # nobody waits for that
    assert capsys.readouterr().err == ""
