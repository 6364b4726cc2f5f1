"""Checkpoints on one rank: whole or not at all, verified, and no more of them than asked for."""

import json
import os
import shutil
from pathlib import Path

import pytest

from helix.config import load
from helix.presets import PRESETS
from helix.training import checkpoint
from helix.training.checkpoint import CheckpointError, Progress, saving
from helix.training.trainer import Trainer
from tests.conftest import TINY_MODEL


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, and what was being written stays half written."""


@pytest.fixture(scope="module")
def engine(corpus, tmp_path_factory):
    """An engine after one step, so that there are moments to save."""
    run_dir = tmp_path_factory.mktemp("engine") / "run"
    words = [f"run_dir={run_dir}", f"data.path={corpus}"]
    trainer = Trainer.build(load([*TINY_MODEL, *words], PRESETS))
    with trainer.metrics:
        trainer.take_step()
    return trainer.engine


@pytest.fixture(scope="module")
def saved(engine, tmp_path_factory):
    """A run folder with a checkpoint of step 1; tests damage copies of it."""
    run_dir = tmp_path_factory.mktemp("saved") / "run"
    save(engine, run_dir, 1)
    return run_dir


@pytest.fixture
def run_dir(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def save(engine, run_dir, step, *, keep=2):
    return checkpoint.save(engine, run_dir, Progress(step=step, n_tokens=128 * step), keep=keep)


def names(run_dir):
    return sorted(path.name for path in checkpoint.checkpoints_dir(run_dir).iterdir())


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def writes_of(folder):
    """Tell which file each name stands for, and when it was last written."""
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.iterdir()}


def flip_byte(file, at=-1):
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def cut(file):
    os.truncate(file, file.stat().st_size - 1)


class Killer:
    """Patches the file operations of a save, to die in the k-th of them with half of it done."""

    def __init__(self, patch, k):
        self.left = k
        for owner, name, half in (
            (saving, "write_tensors", self.write_torn),
            (Path, "write_text", self.write_half),
            (Path, "mkdir", None),
            (Path, "rename", None),
            (Path, "replace", None),
            (os, "fsync", None),
            (shutil, "rmtree", self.remove_one),
        ):
            patch.setattr(owner, name, self.counted(getattr(owner, name), half))

    def counted(self, operation, half):
        def run(*arguments, **options):
            self.left -= 1
            if self.left < 0:
                if half is not None:
                    half(operation, *arguments)
                raise Killed
            return operation(*arguments, **options)

        return run

    @staticmethod
    def write_torn(operation, file, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda descriptor: None)
            operation(file, *arguments)
        os.truncate(file, file.stat().st_size // 2)

    @staticmethod
    def write_half(operation, file, text, **_):
        operation(file, text[: len(text) // 2])

    @staticmethod
    def remove_one(operation, folder):
        for file in list(folder.glob("*"))[:1]:
            file.unlink()


@pytest.mark.parametrize("is_damaged", [False, True], ids=["new step", "over a damaged one"])
def test_kill_in_any_file_operation_leaves_the_old_checkpoint_or_the_new(
    engine, saved, tmp_path, is_damaged
):
    found, k = [], 0
    while len(found) == k:  # one more operation, until a save is through before it dies
        run_dir = shutil.copytree(saved, tmp_path / f"run-{k}")
        if is_damaged:
            flip_byte(save(engine, run_dir, 2) / "manifest.json", 0)
        old = contents(run_dir / "checkpoints" / "step-00000001")
        with pytest.MonkeyPatch.context() as patch:
            Killer(patch, k)
            try:
                save(engine, run_dir, 2, keep=1)
            except Killed:
                newest = checkpoint.newest(run_dir)
                assert checkpoint.load(engine, newest).step in (1, 2)
                found.append(newest.name)
                if newest.name == "step-00000001":
                    assert contents(newest) == old
        assert checkpoint.newest(save(engine, run_dir, 2, keep=1).parents[1]).name.endswith("2")
        assert names(run_dir)[-1] == "step-00000002"
        assert not [name for name in names(run_dir) if name.startswith(".partial")]
        k += 1
    assert found[0] == "step-00000001"
    assert found[-1] == "step-00000002"
    assert found == sorted(found)
    assert k > 12


def test_no_more_checkpoints_are_kept_than_asked_for(engine, run_dir):
    (run_dir / "checkpoints" / "step-notes").mkdir()  # not ours
    for step in (2, 3, 4):
        save(engine, run_dir, step)
    assert names(run_dir) == ["latest", "step-00000003", "step-00000004", "step-notes"]
    assert (run_dir / "checkpoints" / "latest").read_text() == "step-00000004"
    assert checkpoint.newest(run_dir).name == "step-00000004"


def test_damaged_later_step_does_not_push_out_what_is_saved_after_a_fall_back(engine, run_dir):
    flip_byte(save(engine, run_dir, 9) / "state.json")
    saved = save(engine, run_dir, 2, keep=1)
    assert checkpoint.newest(run_dir) == saved


def test_what_a_kill_left_half_written_is_cleared_away_by_the_next_save(engine, run_dir):
    (run_dir / "checkpoints" / ".partial-step-00000007").mkdir()
    save(engine, run_dir, 2)
    assert names(run_dir) == ["latest", "step-00000001", "step-00000002"]


@pytest.mark.parametrize("damage", [flip_byte, cut, Path.unlink])
@pytest.mark.parametrize("kind", ["weights", "moments", "state"])
def test_damaged_file_is_found_and_its_checkpoint_passed_over(
    engine, run_dir, capsys, kind, damage
):
    newest = save(engine, run_dir, 2)
    damage(next(newest.glob(f"{kind}*")))
    assert not checkpoint.is_intact(newest)
    assert checkpoint.newest(run_dir).name == "step-00000001"
    told = capsys.readouterr().err
    assert told == f"helix: {newest}: damaged; going on from step-00000001\n"


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "3", "\xff", "missing"),
        *("{}", '{"format": 1}', '{"format": 1, "files": []}', '{"format": 1, "files": {}}'),
        '{"format": 3, "files": {}}',
        '{"format": 2, "files": {"state.json": {}}}',
    ],
)
def test_bad_manifest_is_no_checkpoint(run_dir, text):
    manifest = run_dir / "checkpoints" / "step-00000001" / "manifest.json"
    manifest.unlink()
    if text != "missing":
        manifest.write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"none of 1 checkpoints is intact; restore one"):
        checkpoint.newest(run_dir)


def test_folder_without_checkpoints_has_none(tmp_path):
    assert checkpoint.newest(tmp_path) is None


def test_saving_a_step_again_leaves_an_intact_checkpoint_alone(engine, run_dir):
    path = run_dir / "checkpoints" / "step-00000001"
    before = writes_of(path)
    assert save(engine, run_dir, 1) == path
    assert writes_of(path) == before


@pytest.mark.parametrize("damage", [flip_byte, cut, Path.unlink])
def test_saving_a_step_again_mends_a_damaged_checkpoint(engine, saved, run_dir, damage):
    path = run_dir / "checkpoints" / "step-00000001"
    damage(next(path.glob("weights*")))
    save(engine, run_dir, 1)
    assert checkpoint.is_intact(path)
    assert contents(path) == contents(saved / "checkpoints" / path.name)


def test_loaded_checkpoint_saves_to_the_same_bytes(engine, saved, tmp_path):
    path = saved / "checkpoints" / "step-00000001"
    progress = checkpoint.load(engine, path)
    again = checkpoint.save(engine, tmp_path, progress, keep=1)
    assert contents(again) == contents(path)
    assert json.loads((again / "state.json").read_text())["n_tokens"] == 128


def test_folder_that_cannot_be_written_is_an_error_that_says_so(engine, run_dir):
    (run_dir / "checkpoints" / ".partial-step-00000002").write_text("a file in the way")
    with pytest.raises(CheckpointError, match=r"step-00000002: not written: .*File exists.* free"):
        save(engine, run_dir, 2)
    assert checkpoint.newest(run_dir).name == "step-00000001"
