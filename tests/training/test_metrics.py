import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.training.metrics import Metrics, metrics_path, read_records

FIGURES = {
    "train/loss_nats_per_token": 2.5,
    "train/bits_per_byte": 3.6,
    "speed/tokens_per_s": 1000.0,
}
SCORES = {"validation/de/bits_per_byte": 1.5, "validation/de/loss_nats_per_token": 1.0}


def write_lines(folder, lines):
    metrics_path(folder).write_text("".join(line + "\n" for line in lines))


def steps_of(folder):
    return [(r["step"], r["attempt"]) for r in read_records(folder)]


@pytest.fixture
def config(tiny_run, tmp_path):
    return tiny_run(run_dir=".")


def test_folder_without_figures_has_no_records(tmp_path):
    assert read_records(tmp_path) == []


def test_repeated_step_is_the_last_attempts(config, tmp_path):
    for attempt, steps in enumerate([(1, 2, 3, 4), (3, 4, 5)]):
        with Metrics(config, is_main=True, attempt=attempt) as metrics:
            for step in steps:
                metrics.write(step, 10 * step, FIGURES)
    assert steps_of(tmp_path) == [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1)]


def test_stretch_that_a_run_went_back_from_is_no_longer_its(config, tmp_path):
    with Metrics(config, is_main=True, attempt=0) as metrics:
        for step in (1, 2, 3, 4):
            metrics.write(step, 10 * step, FIGURES)
        metrics.write(4, 40, SCORES)
        metrics.write(2, 20, {**FIGURES, "train/loss_nats_per_token": 3.5})
    with Metrics(config, is_main=True, attempt=1) as metrics:
        metrics.write(2, 20, {**FIGURES, "train/loss_nats_per_token": 3.5})
    assert steps_of(tmp_path) == [(1, 0), (2, 1)]


def test_scores_of_a_step_stand_beside_its_figures(config, tmp_path):
    with Metrics(config, is_main=True, attempt=0) as metrics:
        metrics.write(0, 0, SCORES)
        metrics.write(1, 10, FIGURES)
        metrics.write(1, 10, SCORES)
    found = [(r["step"], "validation/de/bits_per_byte" in r) for r in read_records(tmp_path)]
    assert found == [(0, True), (1, False), (1, True)]


@given(data=st.data())
def test_line_torn_anywhere_costs_that_line_alone(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("torn")
    lines = [json.dumps({"step": step, "attempt": 0, **FIGURES}) for step in (1, 2, 3)]
    torn = lines[2][: data.draw(st.integers(0, len(lines[2]) - 1))]
    metrics_path(folder).write_text("\n".join([*lines[:2], torn]))
    assert steps_of(folder) == [(1, 0), (2, 0)]


def test_torn_line_does_not_swallow_the_next_attempts_first(config, tmp_path):
    metrics_path(tmp_path).write_text('{"step": 1, "attempt": 0}\n{"step": 2, "att')
    with Metrics(config, is_main=True, attempt=1) as metrics:
        metrics.write(2, 20, FIGURES)
    assert steps_of(tmp_path) == [(1, 0), (2, 1)]


@given(st.permutations(range(6)))
def test_records_are_in_order_of_step(tmp_path_factory, order):
    folder = tmp_path_factory.mktemp("order")
    write_lines(folder, [json.dumps({"step": step, "attempt": 0}) for step in order])
    assert [r["step"] for r in read_records(folder)] == list(range(6))


def test_line_holds_step_attempt_tokens_and_figures(config, tmp_path):
    with Metrics(config, is_main=True, attempt=3) as metrics:
        metrics.write(7, 70, FIGURES)
    assert read_records(tmp_path) == [{"step": 7, "attempt": 3, "tokens": 70, **FIGURES}]


def test_other_ranks_write_nothing(config, tmp_path, capsys):
    with Metrics(config, is_main=False, attempt=0) as metrics:
        metrics.write(1, 10, FIGURES)
    assert not metrics_path(tmp_path).exists()
    assert capsys.readouterr().err == ""


def test_figure_is_on_disk_before_the_next_step(config, tmp_path):
    with Metrics(config, is_main=True, attempt=0) as metrics:
        metrics.write(1, 10, FIGURES)
        assert steps_of(tmp_path) == [(1, 0)]


def test_progress_without_a_terminal_is_lines_on_stderr(config, capsys):
    with Metrics(config, is_main=True, attempt=0) as metrics:
        metrics.write(1, 10, FIGURES)
        metrics.write(1, 10, SCORES)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "step 1/6: 2.500 nats/token, 3.60 bits/byte, 1,000 tokens/s",
        "step 1/6: held-out bits/byte: de 1.500",
    ]
