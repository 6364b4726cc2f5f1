import platform

from helix.training import attempts
from helix.training.trainer import train


def test_each_attempt_says_with_what_it_was_made(tiny_run):
    config = tiny_run("training.n_steps=2")
    assert train(config) == 0
    assert train(config) == 0
    first, second = attempts.read(config.run_dir)
    assert (first["attempt"], second["attempt"]) == (0, 1)
    assert first["n_ranks"] == 1
    assert first["versions"]["python"] == platform.python_version()
    assert {"helix", "torch", "deepspeed"} <= first["versions"].keys()
    assert first["device"]


def test_a_line_that_a_kill_tore_is_left_out(tmp_path):
    assert attempts.read(tmp_path) == []
    attempts.append(tmp_path, {"attempt": 0, "versions": {}})
    with attempts.attempts_path(tmp_path).open("a") as stream:
        stream.write('{"attempt": 1, "ver')
    assert [entry["attempt"] for entry in attempts.read(tmp_path)] == [0]
    attempts.append(tmp_path, {"attempt": 2, "versions": {}})
    assert [entry["attempt"] for entry in attempts.read(tmp_path)] == [0, 2]
