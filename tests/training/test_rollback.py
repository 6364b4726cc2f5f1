"""Bad data: skipped, gone back from and passed over; a kill on the way changes nothing."""

import json
import math

import pytest
import torch

from data_tools.inspect_run import InspectOptions, inspect_step
from helix.data.provenance import name_documents
from helix.training import checkpoint, incidents
from helix.training.metrics import read_records
from helix.training.rollback import TrainingError
from helix.training.trainer import Trainer
from tests.training.runs import stage_words, tensors_of

GUARD = ("guard.rollback_incidents=2", "guard.within_steps=4", "training.keep_checkpoints=9")


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def build(config, bad_rows=(), factor=math.nan):
    """Make a trainer whose gradient is multiplied where a batch begins at one of some rows.

    Its `seen` tells the first row of the data of each step that changed the weights.
    """
    trainer = Trainer.build(config)
    trainer.seen = {}
    read, step, state = trainer.loader.next, trainer.take_step, {"row": -1}

    def read_noting_row():
        state["row"] = trainer.loader.state_dict()["n_rows_drawn"]
        return read()

    def step_noting_row():
        taken = step()
        if taken[2]["train/is_step_applied"]:
            trainer.seen[taken[0]] = state["row"]
        return taken

    trainer.loader.next, trainer.take_step = read_noting_row, step_noting_row
    trainer.engine.parameters["stack.norm.weight"].register_hook(
        lambda gradient: gradient * (factor if state["row"] in bad_rows else 1)
    )
    return trainer


def figures(config, name):
    return {int(r["step"]): r[name] for r in read_records(config.run_dir) if name in r}


def test_one_bad_step_is_skipped_counted_and_its_documents_are_told(tiny_run):
    config = tiny_run(*GUARD)
    trainer = build(config, bad_rows={8})
    loader = trainer.loader.loader
    expected = name_documents(loader, 8, n_named=64)
    assert trainer.fit() == 0
    assert figures(config, "train/is_step_applied") == {1: 1, 2: 1, 3: 0, 4: 1, 5: 1, 6: 1}
    assert figures(config, "train/is_gradient_not_finite") == {3: 1}
    (entry,) = incidents.read(config.run_dir)
    assert (entry["step"], entry["kind"], entry["row"]) == (3, "gradient_not_finite", 8)
    assert entry["documents"] == expected
    assert all(name.startswith(source) for source, _, name in expected)
    assert inspect_step(InspectOptions(run_dir=config.run_dir, step=3)).skipped
    found = inspect_step(InspectOptions(run_dir=config.run_dir, step=4))
    assert not found.skipped
    tokens = figures(config, "tokens")
    assert tokens[3] == tokens[2]


def test_spiking_gradient_is_skipped(tiny_run):
    words = ("guard.window_steps=4", "guard.least_steps=3", "training.clip_norm=0")
    config = tiny_run(*GUARD, *words)
    build(config, bad_rows={16}, factor=1e6).fit()
    assert figures(config, "train/is_gradient_spike") == {5: 1}


def test_several_bad_steps_lead_back_and_past_their_data(tiny_run):
    config = tiny_run(*GUARD, "training.n_steps=12")
    trainer = build(config, bad_rows={16, 20})
    assert trainer.fit() == 0
    rows = {1: 0, 2: 4, 3: 8} | {step: 24 + 4 * (step - 4) for step in range(4, 13)}
    assert {step: trainer.seen[step] for step in rows} == rows
    kinds = [entry["kind"] for entry in incidents.read(config.run_dir)]
    assert kinds == ["gradient_not_finite", "gradient_not_finite", "rollback"]
    state = checkpoint.read_state(checkpoint.newest(config.run_dir)).progress
    assert state.guard["jumps"] == [[3, 12]]
    assert state.loader["n_rows_drawn"] == 12 * 4 + 12
    for step, row in rows.items():
        found = inspect_step(InspectOptions(run_dir=config.run_dir, step=step))
        documents = dict.fromkeys((part.source, part.document) for part in found.parts)
        told = name_documents(trainer.loader.loader, row, n_named=0)
        assert list(documents) == [tuple(entry) for entry in told], step


def test_weights_after_a_rollback_are_those_of_a_run_that_never_saw_the_data(tiny_run):
    config = tiny_run(*GUARD, "training.n_steps=9", run_dir="rolled")
    build(config, bad_rows={16, 20}).fit()
    clean = tiny_run(*GUARD, "training.n_steps=9", run_dir="clean")
    trainer = build(clean)
    with trainer.metrics, trainer.loader, trainer.saver:
        while trainer.progress.step < 9:
            if trainer.progress.step == 3:
                position = trainer.loader.state_dict()
                trainer.loader.loader.go_to_row(24)
                position = trainer.loader.loader.state_dict()
                trainer.loader.load_state_dict(position)
            trainer.take_step()
        trainer.save()
        trainer.saver.finish()
    ours, theirs = (tensors_of(checkpoint.newest(c.run_dir)) for c in (config, clean))
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert torch.equal(ours[name], expected), name


@pytest.mark.parametrize("moment", ["put_abandoned_aside", "before the next save"])
def test_kill_in_a_rollback_repeats_no_data(tiny_run, monkeypatch, moment):
    whole = tiny_run(*GUARD, "training.n_steps=9", run_dir="whole")
    build(whole, bad_rows={20, 24}).fit()
    config = tiny_run(*GUARD, "training.n_steps=9", run_dir="killed")

    def die(*_):
        raise Killed

    trainer = build(config, bad_rows={20, 24})
    is_early = moment == "put_abandoned_aside"
    owner, name = (incidents, moment) if is_early else (trainer.guard, "load_state_dict")
    monkeypatch.setattr(owner, name, die)
    with pytest.raises(Killed):
        trainer.fit()
    monkeypatch.undo()
    assert (checkpoint.checkpoints_dir(config.run_dir) / "step-00000006").exists() == (is_early)
    found = inspect_step(InspectOptions(run_dir=config.run_dir, step=4))
    resumed = build(config, bad_rows={20, 24})
    assert resumed.progress.step == 3
    assert resumed.fit() == 0
    assert resumed.seen == {step: 28 + 4 * (step - 4) for step in range(4, 10)}
    again = inspect_step(InspectOptions(run_dir=config.run_dir, step=4))
    assert again.parts == found.parts
    assert figures(config, "train/loss_nats_per_token") == figures(
        whole, "train/loss_nats_per_token"
    )
    ours, theirs = (tensors_of(checkpoint.newest(c.run_dir)) for c in (config, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def roll_back_on_ranks(config):
    """On a rank: train with a gradient that is bad on rank 1 alone."""
    from helix import distributed
    from helix.training.engine import join_ranks

    join_ranks()
    trainer = build(config, bad_rows={16, 20} if distributed.rank() == 1 else ())
    trainer.fit()
    return trainer.seen, trainer.guard.state_dict()


@pytest.mark.ranks
@pytest.mark.parametrize("words", [(2, "fp32"), (1, "bf16"), (3, "bf16")])
def test_ranks_skip_and_go_back_together(tiny_run, two_ranks, words, tmp_path):
    stage, precision = words
    settings = (*stage_words(stage, tmp_path), f"training.precision={precision}")
    config = tiny_run(*GUARD, *settings, "training.n_steps=8", "training.micro_batch_rows=2")
    first, second = two_ranks.run(roll_back_on_ranks, config)
    assert first == second
    assert first[0] == {1: 0, 2: 4, 3: 8} | {step: 24 + 4 * (step - 4) for step in range(4, 9)}
    assert first[1]["jumps"] == [[3, 12]]


def test_rollbacks_that_do_not_help_end_the_run(tiny_run):
    config = tiny_run(*GUARD, "guard.max_rollbacks=2", "training.n_steps=30")
    with pytest.raises(TrainingError, match=r"2 of the last 4 skipped, after 2 rollbacks"):
        build(config, bad_rows=set(range(16, 999))).fit()
    kinds = [entry["kind"] for entry in incidents.read(config.run_dir)]
    assert kinds.count("rollback") == 2
    with pytest.raises(TrainingError, match="after 2 rollbacks"):  # and it is not forgotten
        build(config, bad_rows=set(range(16, 999))).fit()


def test_bad_steps_before_any_checkpoint_end_the_run(tiny_run):
    config = tiny_run(*GUARD)
    with pytest.raises(TrainingError, match=r"no checkpoint from before step 1 .*learning_rate"):
        build(config, bad_rows={0, 4}).fit()
    assert checkpoint.newest(config.run_dir) is None


def test_run_begun_anew_in_its_folder_knows_nothing_of_former_rollbacks(tiny_run):
    import shutil

    config = tiny_run(*GUARD)
    build(config, bad_rows={12, 16}).fit()
    shutil.rmtree(checkpoint.checkpoints_dir(config.run_dir))
    trainer = build(config)
    assert trainer.fit() == 0
    assert trainer.seen[4] == 12
    assert incidents.read(config.run_dir) == []
    assert build(config).fit() == 0  # nothing was put aside: there is no step left to take
    assert checkpoint.newest(config.run_dir).name == "step-00000006"


def test_checkpoint_from_before_there_was_a_guard_loads(tiny_run):
    config = tiny_run()
    Trainer.build(config).fit()
    state = checkpoint.newest(config.run_dir) / "state.json"
    content = json.loads(state.read_text())
    del content["guard"]
    state.write_text(json.dumps(content))
    assert checkpoint.read_state(state.parent).progress.guard == {}


def test_saves_amid_bad_steps_leave_what_they_lead_back_to(tiny_run):
    words = ("guard.rollback_incidents=3", "guard.within_steps=4", "training.keep_checkpoints=1")
    config = tiny_run(*words, "training.checkpoint_every_steps=1", "training.n_steps=9")
    trainer = build(config, bad_rows={12, 16, 20})
    assert trainer.fit() == 0
    assert trainer.progress.guard["jumps"] == [[3, 12]]


def test_a_document_may_be_named_by_any_character(tmp_path):
    name = "a\u2028b\u0085c\nd"
    incidents.append(tmp_path, {"kind": "x", "documents": [["de", 0, name]]})
    (entry,) = incidents.read(tmp_path)
    assert entry["documents"] == [["de", 0, name]]


def test_torn_and_foreign_lines_of_the_log_are_passed_over(tmp_path):
    incidents.incidents_path(tmp_path).write_text('{"kind": "rollback", "num\n[1]\n{"kind": "x"}')
    incidents.append(tmp_path, {"kind": "y"})
    assert [entry["kind"] for entry in incidents.read(tmp_path)] == ["x", "y"]
    assert incidents.read_rollbacks(tmp_path) == []
