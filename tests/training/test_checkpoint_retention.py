"""What stays on disk: the newest, every n-th step, the best by validation; never nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.training import checkpoint
from helix.training.checkpoint import Progress, Retention, files, read_state
from helix.training.checkpoint.retention import choose, point_to, prune
from helix.training.trainer import train
from tests.training.runs import with_words

SCORES = {1: 3.0, 2: 1.5, 3: None, 4: 2.0, 5: 1.5, 6: 2.5, 7: None, 8: 4.0}


def make(run_dir, step, score=None):
    """Write a checkpoint without weights."""
    path = checkpoint.checkpoints_dir(run_dir) / f"step-{step:08d}"
    path.mkdir(parents=True)
    state = {"step": step, "n_tokens": 10 * step, "loader": {}, "n_updates": 0, "shapes": {}}
    described = files.write_json(path / files.STATE, state | {"bits_per_byte": score})
    files.write_manifest(path, {files.STATE: described})
    return path


def steps_in(run_dir):
    return [saved.step for saved in checkpoint.list_saved(run_dir)]


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (Retention(last=1), [8]),
        (Retention(last=3), [6, 7, 8]),
        (Retention(last=1, every_steps=3), [3, 6, 8]),
        (Retention(last=1, best=1), [5, 8]),  # of equals the newest
        (Retention(last=1, best=3), [2, 4, 5, 8]),
        (Retention(last=2, every_steps=4, best=2), [2, 4, 5, 7, 8]),
        (Retention(last=99), [1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_what_is_asked_for_stays(tmp_path, retention, kept):
    for step, score in SCORES.items():
        path = make(tmp_path, step, score)
    point_to(path)
    prune(path, retention)
    assert steps_in(tmp_path) == kept


@pytest.mark.parametrize(
    ("incidents", "kept"), [((), [7, 8]), ((4, 7), [3, 7, 8]), ((1,), [7, 8]), ((8,), [7, 8])]
)
def test_what_a_rollback_would_go_back_to_stays(tmp_path, incidents, kept):
    for step in range(1, 9):
        path = make(tmp_path, step)
    point_to(path)
    prune(path, Retention(last=2), incidents=incidents)
    assert steps_in(tmp_path) == kept


@given(
    steps=st.sets(st.integers(0, 20), min_size=1),
    last=st.integers(1, 3),
    every=st.integers(0, 4),
    best=st.integers(0, 2),
    data=st.data(),
)
def test_newest_and_the_one_pointed_to_always_stay(
    tmp_path_factory, steps, last, every, best, data
):
    run_dir = tmp_path_factory.mktemp("run")
    paths = {step: make(run_dir, step, data.draw(st.none() | st.floats(0, 9))) for step in steps}
    newest, pointed = (data.draw(st.sampled_from(sorted(steps))) for _ in range(2))
    point_to(paths[pointed])
    prune(paths[newest], Retention(last=last, every_steps=every, best=best))
    left = steps_in(run_dir)
    assert {newest, pointed} <= set(left)
    assert {step for step in steps if step > newest} <= set(left)


def test_damaged_state_has_no_score_and_stops_nothing(tmp_path):
    for step in (1, 2, 3):
        path = make(tmp_path, step, float(step))
    (path.parent / "step-00000001" / files.STATE).write_text("{")
    point_to(path)
    prune(path, Retention(last=1, best=1))
    assert [p.name for p in sorted(path.parent.glob("step-*"))] == ["step-00000002", path.name]


def test_checkpoint_is_chosen_by_step_pointer_or_score(tmp_path):
    for step, score in SCORES.items():
        make(tmp_path, step, score)
    folder = checkpoint.checkpoints_dir(tmp_path)
    assert choose(tmp_path, "latest").name == "step-00000008"
    point_to(folder / "step-00000006")
    assert choose(tmp_path, "latest").name == "step-00000006"
    assert choose(tmp_path, "best").name == "step-00000005"
    assert choose(tmp_path, "4").name == "step-00000004"
    with pytest.raises(checkpoint.CheckpointError, match=r"step=9: no such checkpoint .* 1, 2, 3"):
        choose(tmp_path, "9")


def test_run_keeps_its_best_and_every_nth(tiny_run):
    words = [f"training.{name}_every_steps=1" for name in ("validate", "checkpoint")]
    words += ["training.keep_best=1", "training.keep_every_steps=4", "training.keep_checkpoints=1"]
    config = tiny_run(*words, "optimizer.learning_rate=1.0")  # too high: it gets worse
    train(config)
    saved = checkpoint.list_saved(config.run_dir)
    scores = {found.step: found.bits_per_byte for found in saved}
    assert {4, 6} <= scores.keys()
    assert len(scores) <= 3
    assert all(score is not None for score in scores.values())
    assert choose(config.run_dir, "best").name == f"step-{min(scores, key=scores.get):08d}"


def test_score_is_that_of_a_step_that_was_validated(tiny_run):
    config = tiny_run("training.checkpoint_every_steps=2", "training.keep_checkpoints=9")
    train(with_words(config, validate_every_steps=4))
    folder = checkpoint.checkpoints_dir(config.run_dir)
    scores = [read_state(folder / f"step-{step:08d}").progress for step in (2, 4, 6)]
    assert [progress.bits_per_byte is None for progress in scores] == [True, False, False]
    assert scores[0] == Progress(
        step=2, n_tokens=256, loader=scores[0].loader, guard=scores[0].guard
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.keep_every_steps=-1"], "training.keep_every_steps=-1: give 0 or more"),
        (
            ["training.keep_every_steps=5", "training.checkpoint_every_steps=0"],
            "training.keep_every_steps=5: has no effect without training.checkpoint_every_steps",
        ),
        (
            ["training.keep_best=1", "training.validate_every_steps=0"],
            "training.keep_best=1: has no effect without training.validate",
        ),
    ],
)
def test_setting_without_an_effect_is_refused(tiny_run, words, message):
    with pytest.raises(ValueError, match=message):
        tiny_run(*words)
