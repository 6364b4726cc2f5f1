"""Checkpoints written beside the training: the same bytes, no wait, whole or not at all."""

import dataclasses
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time

import pytest
from safetensors.torch import save

from helix.config import load
from helix.presets import PRESETS
from helix.training import checkpoint
from helix.training.checkpoint import CheckpointError, Progress, Retention, Saver, files, saving
from helix.training.metrics import read_records
from helix.training.trainer import Trainer, train
from tests.conftest import TINY_MODEL
from tests.training.runs import full_disk, small_files, tensors_of

N_KILLS = 40


@pytest.fixture(scope="module")
def trainer(corpus, tmp_path_factory):
    """A trainer after one step, so that there are moments to save."""
    run_dir = tmp_path_factory.mktemp("trainer") / "run"
    words = ["training.n_steps=1000", f"run_dir={run_dir}", f"data.path={corpus}"]
    kept = [word for word in TINY_MODEL if not word.startswith("training.n_steps")]
    trainer = Trainer.build(load([*kept, *words], PRESETS))
    with trainer.metrics, trainer.loader:
        trainer.take_step()
        yield trainer


@pytest.fixture
def saver(tmp_path):
    with Saver(tmp_path / "run", Retention()) as saver:
        yield saver


class Gate:
    """Holds a background write up until it is opened."""

    def __init__(self, patch):
        self.opened = threading.Event()
        self.write = files.write_tensors
        patch.setattr(saving, "write_tensors", self.wait)

    def wait(self, *arguments, **options):
        assert self.opened.wait(60)
        return self.write(*arguments, **options)


@pytest.fixture
def gate(monkeypatch):
    gate = Gate(monkeypatch)
    yield gate
    gate.opened.set()


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def names(run_dir):
    return sorted(path.name for path in checkpoint.checkpoints_dir(run_dir).iterdir())


def test_what_is_saved_is_the_step_that_was_asked_for_though_training_went_on(
    trainer, saver, gate, tmp_path
):
    progress = trainer.progress
    gate.opened.set()
    expected = checkpoint.save(trainer.engine, tmp_path / "at once", progress, keep=1)
    gate.opened.clear()
    path = saver.start(trainer.engine, progress)
    for _ in range(2):
        trainer.take_step()
        assert saver.poll() == []
    assert not path.exists()
    gate.opened.set()
    (cost,) = saver.finish()
    assert contents(path) == contents(expected)
    assert cost.step == progress.step
    later = checkpoint.save(trainer.engine, tmp_path / "later", trainer.progress, keep=1)
    assert contents(later) != contents(expected)


def test_buffers_are_used_again_and_hold_what_is_new(trainer, saver, tmp_path):
    addresses = []
    for _ in range(2):
        path = saver.start(trainer.engine, trainer.progress)
        saver.finish()
        again = checkpoint.save(trainer.engine, tmp_path / path.name, trainer.progress, keep=1)
        assert contents(path) == contents(again)
        addresses.append([buffer.data_ptr() for buffer in saver.snapshot.buffers])
        trainer.take_step()
    assert addresses[0] == addresses[1]


def test_reserved_buffers_are_those_that_a_save_takes(trainer, saver):
    with small_files():
        saver.snapshot.reserve(trainer.engine)
        reserved = [buffer.data_ptr() for buffer in saver.snapshot.buffers]
        saver.start(trainer.engine, trainer.progress)
        saver.finish()
    assert len(reserved) > 10
    assert [buffer.data_ptr() for buffer in saver.snapshot.buffers] == reserved


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_files_are_what_the_library_would_write(trainer, saver, cut):
    if cut:
        with small_files():
            path = saver.start(trainer.engine, trainer.progress)
    else:
        path = saver.start(trainer.engine, trainer.progress)
    saver.finish()
    written = list(path.glob("*.safetensors"))
    assert len(written) > 10 if cut else len(written) == 2
    for file in written:
        with checkpoint.reading.safe_open(file, framework="pt") as tensors:
            held = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
        assert file.read_bytes() == save(held)


def test_loop_does_not_wait_for_a_slow_disk(trainer, saver, gate):
    started = time.perf_counter()
    saver.start(trainer.engine, trainer.progress)
    for _ in range(100):
        assert saver.poll() == []
    assert time.perf_counter() - started < 30  # the gate would hold it up for 60
    gate.opened.set()
    (cost,) = saver.finish()
    assert cost.write_s > 0
    assert saver.longest_save_s == cost.write_s
    assert cost.gib == pytest.approx(sum(map(len, contents(saver.whole[0]).values())) / 2**30, 0.1)


@pytest.mark.parametrize("is_asynchronous", [True, False])
def test_stall_is_the_snapshot_where_it_is_asynchronous_and_all_of_it_where_not(
    trainer, tmp_path, monkeypatch, is_asynchronous
):
    hash_slowly(monkeypatch, 0.25)
    with Saver(tmp_path, Retention(), is_asynchronous=is_asynchronous) as saver:
        started = time.perf_counter()
        saver.start(trainer.engine, trainer.progress)
        costs = saver.poll()
        while not costs:
            time.sleep(0.01)
            costs = saver.poll()
    n_parts = 4  # header and body of two files
    assert 0.25 * n_parts <= costs[0].write_s <= time.perf_counter() - started
    is_short = costs[0].stall_ms / 1e3 < 0.25 * n_parts
    assert is_short == is_asynchronous


def test_a_save_that_comes_too_soon_tells_what_it_waited(trainer, saver, monkeypatch):
    hash_slowly(monkeypatch, 0.2)
    saver.start(trainer.engine, trainer.progress)
    (cost,) = saver.finish()
    assert 0.2 * 4 <= cost.wait_ms / 1e3 <= cost.stall_ms / 1e3  # header and body of two files


def test_polls_alone_make_a_checkpoint_whole(trainer, saver):
    path = saver.start(trainer.engine, trainer.progress)
    costs, started = [], time.perf_counter()
    while not costs and time.perf_counter() - started < 60:
        costs = saver.poll()
    assert [cost.step for cost in costs] == [trainer.progress.step]
    assert checkpoint.newest(saver.run_dir) == path
    assert saver.poll() == []


def test_second_save_waits_for_the_first_and_says_so_once(trainer, saver, gate, capsys):
    steps = [dataclasses.replace(trainer.progress, step=step) for step in (101, 102, 103)]
    saver.start(trainer.engine, steps[0])
    threading.Timer(0.2, gate.opened.set).start()
    for progress in steps[1:]:
        path = saver.start(trainer.engine, progress)
    assert [cost.step for cost in saver.finish()] == [101, 102, 103]
    assert checkpoint.newest(saver.run_dir) == path
    assert capsys.readouterr().err == (
        "helix: step 102: waits for step-00000101, which is still being written; "
        "saves are asked for faster than they end\n"
    )


def test_error_in_the_thread_is_told_at_the_next_poll(trainer, saver, monkeypatch):
    old = saver.start(trainer.engine, Progress(step=1))
    saver.finish()
    before = contents(old)
    monkeypatch.setattr(saving, "write_tensors", full_disk)
    saver.start(trainer.engine, Progress(step=2))
    with pytest.raises(
        CheckpointError, match=r"step-00000002: not written: .*No space left.* free"
    ):
        poll_for_ever(saver)
    assert contents(old) == before
    assert names(saver.run_dir) == ["latest", "step-00000001"]
    monkeypatch.undo()
    saver.start(trainer.engine, Progress(step=2))
    saver.finish()
    assert checkpoint.newest(saver.run_dir).name == "step-00000002"


def poll_for_ever(saver):
    while True:
        assert saver.poll() == []


def test_memory_that_is_not_there_is_an_error_that_says_so(trainer, saver, monkeypatch):
    def fail(engine):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(saver.snapshot, "take", fail)
    saver.start(trainer.engine, Progress(step=2))
    with pytest.raises(CheckpointError, match="no copy in host memory: out of memory"):
        saver.finish()


def test_write_that_is_given_up_ends_at_once_and_leaves_the_old_one(trainer, tmp_path, monkeypatch):
    old = checkpoint.save(trainer.engine, tmp_path, Progress(step=1), keep=1)
    monkeypatch.setattr(files, "CHUNK_BYTES", 16)  # hours, if it were not given up
    hash_slowly(monkeypatch, 0.01)
    with Saver(tmp_path, Retention()) as saver:
        saver.start(trainer.engine, Progress(step=2))
    assert not any(thread.name.startswith("helix-save") for thread in threading.enumerate())
    assert checkpoint.newest(tmp_path) == old


def hash_slowly(patch, seconds):
    real = files.hashlib.sha256

    class Slow:
        def __init__(self):
            self.digest = real()

        def update(self, part):
            time.sleep(seconds)
            self.digest.update(part)

        def hexdigest(self):
            return self.digest.hexdigest()

    patch.setattr(files.hashlib, "sha256", Slow)


def test_step_that_was_taken_again_replaces_what_was_saved_of_it(trainer, saver):
    for position in (5, 6):
        progress = Progress(step=3, loader={"n_rows_drawn": position})
        path = saver.start(trainer.engine, progress)
        saver.finish()
        assert checkpoint.read_state(path).progress == progress


def keep_saving(trainer, run_dir, progress):
    """Save one step after the other until killed: a slow disk makes most of the time a write."""
    files.CHUNK_BYTES = 2**14
    with pytest.MonkeyPatch.context() as patch:
        hash_slowly(patch, 0.0005)
        saver = Saver(run_dir, Retention(last=2))
        while True:
            progress = dataclasses.replace(progress, step=progress.step + 1)
            saver.start(trainer.engine, progress)
            while not saver.poll():
                time.sleep(0.0005)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # one rank, one thread: it is safe
def test_kill_at_any_moment_of_a_background_write_leaves_the_one_before(trainer, tmp_path):
    checkpoint.save(trainer.engine, tmp_path, Progress(step=1), keep=2)
    expected = tensors_of(checkpoint.newest(tmp_path))
    context, moments, n_torn = multiprocessing.get_context("fork"), random.Random(0), 0
    for _ in range(N_KILLS):
        before = checkpoint.newest(tmp_path)
        progress = checkpoint.read_state(before).progress
        process = context.Process(target=keep_saving, args=(trainer, tmp_path, progress))
        process.start()
        time.sleep(moments.uniform(0.005, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        n_torn += any(name.startswith(".partial-step") for name in names(tmp_path))
        found = checkpoint.newest(tmp_path)
        pointed = (found.parent / "latest").read_text()
        assert checkpoint.is_intact(found.parent / pointed)
        assert files.step_of(found) >= files.step_of(before)
        assert files.step_of(found) - files.step_of(found.parent / pointed) in (0, 1)
    assert files.step_of(found) > 5
    assert n_torn > N_KILLS // 4
    found = tensors_of(found)
    assert all((found[name] == value).all() for name, value in expected.items())


@pytest.mark.parametrize("is_asynchronous", [True, False])
def test_run_ends_with_a_whole_checkpoint_and_no_thread(tiny_run, gate, is_asynchronous):
    threading.Timer(0.5, gate.opened.set).start()
    config = tiny_run(f"training.async_checkpoints={str(is_asynchronous).lower()}")
    assert train(config) == 0
    assert checkpoint.newest(config.run_dir).name == "step-00000006"
    assert names(config.run_dir) == ["latest", "step-00000003", "step-00000006"]
    assert not any(thread.name.startswith("helix-save") for thread in threading.enumerate())
    records = [r for r in read_records(config.run_dir) if "checkpoint/write_s" in r]
    assert len(records) == 2
    for record in records:
        assert set(record) == {
            *("step", "attempt", "tokens"),
            *("checkpoint/stall_ms", "checkpoint/wait_ms", "checkpoint/write_s", "checkpoint/gib"),
        }


def test_asynchronous_run_saves_the_same_bytes(tiny_run):
    words = ["training.checkpoint_every_steps=1", "training.keep_checkpoints=9"]
    runs = [
        tiny_run(f"training.async_checkpoints={flag}", *words, run_dir=flag)
        for flag in ("true", "false")
    ]
    ours, theirs = (checkpoint.checkpoints_dir(run.run_dir) for run in runs if train(run) == 0)
    assert [path.name for path in sorted(ours.iterdir())] == names(theirs.parent)
    for step in range(1, 7):
        name = f"step-{step:08d}"
        assert contents(ours / name) == contents(theirs / name), name


def test_checkpoint_of_the_first_format_loads(trainer, tmp_path):
    path = checkpoint.save(trainer.engine, tmp_path, trainer.progress, keep=1)
    expected = tensors_of(path)
    shapes = checkpoint.read_state(path).shapes
    for file in path.glob("*.safetensors"):
        file.unlink()
    of_kind = {"weights": {}, "moments": {}}
    for name, value in expected.items():
        kind = "weights" if name in shapes else "moments"
        of_kind[kind][name] = value.view(
            shapes[name.removesuffix("/exp_avg").removesuffix("/exp_avg_sq")]
        )
    for kind, tensors in of_kind.items():
        (path / f"{kind}-00000-00000.safetensors").write_bytes(save(tensors))
    described = {
        file.name: files.describe(file) for file in path.iterdir() if file.name != "manifest.json"
    }
    files.write_manifest(path, described)
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 1'))
    assert checkpoint.is_intact(path)
    assert checkpoint.load(trainer.engine, path) == checkpoint.read_state(path).progress
    again = checkpoint.save(trainer.engine, tmp_path / "again", trainer.progress, keep=1)
    found = tensors_of(again)
    assert all((found[name] == value).all() for name, value in expected.items())
    shutil.rmtree(tmp_path / "again")
