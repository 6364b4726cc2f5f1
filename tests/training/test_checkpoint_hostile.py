"""Checkpoints of others: damaged, cut, contradictory or hostile; nothing runs, nothing is lost."""

import hashlib
import json
import os
import pickle
import random
import shutil

import pytest
import torch

from helix.cli import main
from helix.config import load
from helix.models import build_model
from helix.presets import PRESETS
from helix.training import checkpoint
from helix.training.checkpoint import CheckpointError, Progress, TensorReader, files, reading
from helix.training.trainer import Trainer
from tests.conftest import TINY_MODEL
from tests.training.runs import small_files

N_FLIPS = 100
WEIGHTS, MOMENTS = "weights-00000-00000.safetensors", "moments-00000-00000.safetensors"


@pytest.fixture(scope="module")
def engine(corpus, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("engine") / "run"
    words = [f"run_dir={run_dir}", f"data.path={corpus}"]
    trainer = Trainer.build(load([*TINY_MODEL, *words], PRESETS))
    with trainer.metrics, trainer.loader, trainer.saver:
        trainer.take_step()
    return trainer.engine


@pytest.fixture(scope="module")
def saved(engine, tmp_path_factory):
    """A run folder with checkpoints of steps 1 and 2 in many files; tests change copies of it."""
    run_dir = tmp_path_factory.mktemp("saved") / "run"
    with small_files():
        for step in (1, 2):
            checkpoint.save(engine, run_dir, Progress(step=step), keep=2)
    return run_dir


@pytest.fixture
def run_dir(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


@pytest.fixture
def newest(run_dir):
    return run_dir / "checkpoints" / "step-00000002"


@pytest.fixture(params=["load", "weights alone"])
def read(request, engine):
    """Read a checkpoint as a run does that goes on, or as sampling does."""
    if request.param == "load":
        return lambda path: checkpoint.load(engine, path)
    config = load([*TINY_MODEL], PRESETS).model
    return lambda path: checkpoint.read_weights(path, build_model(config, seed=0, device="cpu"))


def vouch(path, **others):
    """Write a manifest that names the files as they are, and others."""
    names = [file.name for file in path.iterdir() if file.name != files.MANIFEST]
    described = {
        name: files.describe(path / name) for name in names if files.FILE_NAME.fullmatch(name)
    }
    files.write_manifest(path, described | others)


def rewrite(file, *, drop=(), move=None, also=None):
    """Write a file of runs again: without some keys, under another key, with one more run."""
    with reading.safe_open(file, framework="pt") as tensors:
        held = {key: tensors.get_tensor(key).clone() for key in tensors.keys()}  # noqa: SIM118
    held = {key: value for key, value in held.items() if key not in drop}
    if move:
        held[move[1]] = held.pop(move[0])
    held |= also or {}
    keys = sorted(held)
    entries = [files.Entry(key=key, dtype=torch.float32, shape=held[key].shape) for key in keys]
    files.write_tensors(file, entries, [held[key] for key in keys])


def key_of(file, name):
    with reading.safe_open(file, framework="pt") as tensors:
        return next(key for key in tensors.keys() if key.startswith(name))  # noqa: SIM118


def test_each_of_a_hundred_flipped_bits_is_found_and_the_one_before_loads(
    engine, run_dir, newest, capsys
):
    bits = random.Random(0)
    paths = sorted(newest.iterdir())
    assert len(paths) > 10
    for number in range(N_FLIPS):
        file = paths[number % len(paths)]
        whole = file.read_bytes()
        torn = bytearray(whole)
        torn[bits.randrange(len(torn))] ^= 1 << bits.randrange(8)
        file.write_bytes(torn)
        assert not checkpoint.is_intact(newest), (file, number)
        assert checkpoint.newest(run_dir).name == "step-00000001"
        file.write_bytes(whole)
    assert checkpoint.newest(run_dir) == newest
    assert capsys.readouterr().err.count("damaged; going on from step-00000001") == N_FLIPS
    assert checkpoint.load(engine, newest).step == 2


@pytest.mark.parametrize("kind", ["missing", "gap", "overlap", "twice", "of no parameter"])
def test_runs_that_do_not_cover_each_parameter_once_are_refused_by_name(newest, read, kind):
    file = newest / WEIGHTS
    key = key_of(file, "")
    name, _, offset = key.rpartition("@")
    rewrites = {
        "missing": {"drop": [key]},
        "gap": {"move": (key, f"{name}@{int(offset) + 1}")},
        "overlap": {"also": {f"{name}@{int(offset) + 1}": torch.zeros(3)}},
        "twice": {"also": {f"{name}@0{offset}": torch.zeros(2)}},
        "of no parameter": {"also": {"evil.weight@0": torch.zeros(2)}},
    }
    told = {
        "missing": f"{name}: elements 0 to .* are missing",
        "gap": f"{name}: elements 0 to 0 are missing",
        "overlap": f"{name}: elements .* are there twice or too many",
        "twice": f"{name}: elements .* are there twice or too many",
        "of no parameter": "evil.weight: no parameter of the model that was saved",
    }
    rewrite(file, **rewrites[kind])
    vouch(newest)
    assert checkpoint.is_intact(newest)
    with pytest.raises(CheckpointError, match=f"{told[kind]}; restore the checkpoint from a copy"):
        read(newest)


def test_moments_that_are_missing_are_refused_by_name(engine, newest):
    key = key_of(newest / MOMENTS, "")
    rewrite(newest / MOMENTS, drop=[key])
    vouch(newest)
    with pytest.raises(CheckpointError, match=rf"{key.rpartition('@')[0]}: elements 0 to .* miss"):
        checkpoint.load(engine, newest)


@pytest.mark.parametrize(
    "name",
    [
        *("../outside.safetensors", "../../weights-00000-00000.safetensors", "weights/../x"),
        *("/etc/passwd", "", ".", "..", "state.json/", "weights-00000-00000.safetensors\n"),
        *("weights-0-0.safetensors", "weights-00000-00000.pt", "WEIGHTS-00000-00000.safetensors"),
    ],
)
def test_name_that_is_none_of_ours_is_refused(newest, read, name):
    (newest.parent / "outside.safetensors").write_bytes(b"")
    vouch(newest, **{name: files.Described(n_bytes=0, sha256=hashlib.sha256(b"").hexdigest())})
    assert not checkpoint.is_intact(newest)
    with pytest.raises(CheckpointError, match="no name of ours"):
        read(newest)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
@pytest.mark.parametrize("name", [WEIGHTS, files.STATE, files.MANIFEST])
def test_file_that_leads_elsewhere_is_refused(newest, read, tmp_path, kind, name):
    moved = shutil.move(newest / name, tmp_path / "elsewhere")
    if kind == "link":
        (newest / name).symlink_to(moved)
    elif kind == "pipe":
        os.mkfifo(newest / name)
    else:
        (newest / name).mkdir()
    assert not checkpoint.is_intact(newest)
    with pytest.raises(CheckpointError, match="not a regular file"):
        read(newest)


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, touched):
        self.touched = touched

    def __reduce__(self):
        return open, (str(self.touched), "w")


@pytest.mark.parametrize("is_vouched_for", [False, True])
@pytest.mark.parametrize("name", [WEIGHTS, MOMENTS, files.STATE, files.MANIFEST, files.LATEST])
def test_pickle_under_any_name_that_is_read_is_never_opened(
    engine, run_dir, newest, tmp_path, name, is_vouched_for
):
    touched = tmp_path / "touched"
    for bomb in (pickle.dumps(Bomb(touched)), zip_bomb(touched, tmp_path)):
        folder = newest.parent if name == files.LATEST else newest
        (folder / name).write_bytes(bomb)
        if is_vouched_for and name not in (files.LATEST, files.MANIFEST):
            vouch(newest)
            with pytest.raises(CheckpointError, match=r"not safetensors|not a state of ours"):
                checkpoint.load(engine, newest)
        elif name != files.LATEST:
            assert checkpoint.newest(run_dir).name == "step-00000001"
        checkpoint.list_saved(run_dir)
        assert main(["export", "list", f"run_dir={run_dir}", "verify=true", "json=true"]) == 0
        checkpoint.save(engine, run_dir, Progress(step=3), keep=3)
        assert checkpoint.newest(run_dir).name == "step-00000003"
        shutil.rmtree(newest.parent / "step-00000003")
    assert not touched.exists()


def zip_bomb(touched, folder):
    """Pack a bomb as torch.save does."""
    torch.save(Bomb(touched), folder / "packed")
    return (folder / "packed").read_bytes()


def header(table, *, n_bytes=None, body=b""):
    text = json.dumps(table).encode()
    return (len(text) if n_bytes is None else n_bytes).to_bytes(8, "little") + text + body


def line(**changes):
    return {"a@0": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\0" * 7, header({}, n_bytes=2**63), header({}, n_bytes=10**8 + 1)),
        header(line(), n_bytes=10**6, body=bytes(8)),
        header(line(), body=bytes(4)),
        header(line(), body=bytes(12)),
        header(line(shape=[2**40]), body=bytes(8)),
        header(line(shape=[2**62, 4]), body=bytes(8)),
        header(line(shape=[2**40], data_offsets=[0, 2**42]), body=bytes(8)),
        header(line(data_offsets=[8, 0]), body=bytes(8)),
        header(line(data_offsets=[-8, 0]), body=bytes(8)),
        header(line(dtype="F64", shape=[1]), body=bytes(8)),
        header(line(dtype="PICKLE"), body=bytes(8)),
        header({"a": line()["a@0"]}, body=bytes(8)),
        header({"a@-1": line()["a@0"]}, body=bytes(8)),
        header({"a@1e9": line()["a@0"]}, body=bytes(8)),
        header(line() | {"b@0": line()["a@0"]}, body=bytes(8)),
    ],
)
def test_header_that_does_not_fit_its_file_is_refused_before_memory_is_taken(newest, content):
    (newest / WEIGHTS).write_bytes(content)
    vouch(newest)
    with pytest.raises(CheckpointError, match=f"{WEIGHTS}: not safetensors .* from a copy"):
        TensorReader(newest)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("step", -1), ("step", "1"), ("step", None), ("step", 1.5), ("n_tokens", 2**70)),
        *(("n_updates", []), ("loader", 3), ("shapes", []), ("shapes", {"a": 3})),
        *(("shapes", {"a": [-1]}), ("shapes", {"a": ["x"]}), ("bits_per_byte", "low")),
        *(("guard", 3), ("step", ...)),
    ],
)
def test_state_that_makes_no_sense_is_refused(newest, read, key, value):
    state = json.loads((newest / files.STATE).read_text()) | {key: value}
    if value is ...:
        del state[key]
    (newest / files.STATE).write_text(json.dumps(state))
    vouch(newest)
    with pytest.raises(CheckpointError, match=r"state.json: not a state of ours .* from a copy"):
        read(newest)


@pytest.mark.parametrize(
    "text", ["[" * 10**6, '{"a":' * 10**6, "9" * 10**6, "[1]", " " * 1000], ids=lambda t: t[:5]
)
@pytest.mark.parametrize("name", [files.STATE, files.MANIFEST])
def test_json_that_is_too_deep_or_no_object_is_refused(run_dir, newest, read, name, text):
    (newest / name).write_text(text)
    if name == files.STATE:
        vouch(newest)
    else:
        assert checkpoint.newest(run_dir).name == "step-00000001"
    with pytest.raises(CheckpointError, match="from a copy"):
        read(newest)


def test_json_that_is_too_long_is_refused(newest, read, monkeypatch):
    monkeypatch.setattr(files, "JSON_BYTES", 100)
    with pytest.raises(CheckpointError, match="longer than 100 bytes"):
        read(newest)
