"""From SLURM's variables to a rank's, without a SLURM."""

import shlex
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm import environment as environments
from slurm.environment import (
    adopt,
    first_host,
    job_id_of,
    port_of,
    rank_environment,
    scheduler_environment,
    tasks_of_nodes,
)
from slurm.queue import seconds_of

TASK = {
    "SLURM_JOB_ID": "42",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "9",
    "SLURM_TASKS_PER_NODE": "3(x3)",
    "SLURM_JOB_NODELIST": "gpu[07-09]",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "3,2",
    "SLURM_STEP_NODELIST": "gpu[08-09]",
    "HELIX_DEADLINE_UNIX_S": "2000000000",
}


def test_a_rank_is_named_by_its_step_not_by_its_job():
    named = rank_environment(TASK)
    assert named.pop("MASTER_PORT") == str(port_of(42))
    assert named == {
        "RANK": "4",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "5",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "gpu08",
    }


@pytest.mark.parametrize(
    ("visible", "local_rank"), [("0,1,2,3", "1"), ("3", "0"), ("", "1"), ("GPU-5f", "0")]
)
def test_a_task_that_sees_one_gpu_uses_that_one(visible, local_rank):
    environment = TASK | {"CUDA_VISIBLE_DEVICES": visible}
    assert rank_environment(environment)["LOCAL_RANK"] == local_rank


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[07-09,12],login1", "gpu07"),
        ("gpu[3,5-6]", "gpu3"),
        ("rack[1-2]n[04,06]x,other", "rack1n04x"),
    ],
)
def test_rank_0_is_on_the_first_host_of_the_list(nodes, host):
    assert first_host(nodes) == host


def test_tasks_are_counted_node_by_node():
    assert tasks_of_nodes("8(x3),4,2(x2)") == [8, 8, 8, 4, 2, 2]


@given(job=st.integers(1, 67_000_000), step=st.integers(0, 100), n_restarts=st.integers(0, 1000))
def test_a_port_is_where_linux_opens_none_by_itself(job, step, n_restarts):
    assert 10_000 <= port_of(job, step=step, n_restarts=n_restarts) < 32_768


def test_a_requeued_job_and_a_second_step_use_other_ports():
    assert len({port_of(42), port_of(42, n_restarts=1), port_of(42, step=1), port_of(43)}) == 4


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1:58", 118), ("2:00:01", 7201), ("3-01:00:00", 262_800), ("UNLIMITED", None), ("", None)],
)
def test_times_are_read_as_slurm_writes_them(text, seconds):
    assert seconds_of(text) == seconds


def test_the_deadline_is_what_is_left_from_now():
    deadline = scheduler_environment(TASK, 600)["HELIX_DEADLINE_UNIX_S"]
    assert int(deadline) == pytest.approx(time.time() + 600, abs=5)
    assert "HELIX_DEADLINE_UNIX_S" not in scheduler_environment(TASK, None)


@pytest.mark.parametrize(("restarts", "may"), [("", True), ("1", True), ("2", False), ("9", False)])
def test_a_job_is_requeued_so_often_and_no_more(restarts, may):
    slurm = TASK | {"SLURM_RESTART_COUNT": restarts, "HELIX_MAX_RESTARTS": "2"}
    words = shlex.split(scheduler_environment(slurm, None)["HELIX_REQUEUE"])
    assert words[1:] == (["-m", "slurm.requeue", "42"] if may else [])


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ({}, "42"),
        ({"SLURM_ARRAY_JOB_ID": "42", "SLURM_ARRAY_TASK_ID": "3"}, "42_3"),  # 42 is all tasks
        ({"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "0"}, "42"),  # its own, or inherited
    ],
)
def test_a_task_of_an_array_is_named_alone(own, named):
    assert job_id_of(TASK | own) == named
    command = scheduler_environment(TASK | own, None)["HELIX_REQUEUE"]
    assert shlex.split(command)[-1] == named


@pytest.mark.parametrize("has_terminal", [False, True])
def test_a_step_that_a_shell_on_a_terminal_starts_is_no_such_shell(monkeypatch, has_terminal):
    monkeypatch.setattr(environments, "has_terminal", lambda: has_terminal)
    environment = TASK | {"SLURM_PTY_PORT": "40000"}  # inherited by all that is started there
    adopt(environment)
    assert ("RANK" in environment) is not has_terminal


def test_a_task_of_a_step_becomes_a_rank():
    environment = dict(TASK)
    adopt(environment)
    assert (environment["RANK"], environment["WORLD_SIZE"]) == ("4", "5")
    assert environment["HELIX_DEADLINE_UNIX_S"] == "2000000000"
    assert environment["HELIX_REQUEUE"]


@pytest.mark.parametrize(
    "changes",
    [
        {"SLURM_PROCID": None},  # a shell of salloc, or no SLURM at all
        {"SLURM_STEP_ID": "4294967290"},  # a shell of salloc, where sites run it in a step
        {"SLURM_STEP_NUM_TASKS": None, "SLURM_STEP_ID": None},  # a batch script without srun
        {"RANK": "0"},  # torchrun or deepspeed in a task
    ],
)
def test_everything_else_is_left_alone(changes):
    environment = {name: value for name, value in (TASK | changes).items() if value is not None}
    before = dict(environment)
    adopt(environment)
    assert environment == before
