"""What a person gets wrong, and what disks and signals do: one clear line, and nothing is lost."""

import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import time

import pytest

from helix.cli import main
from helix.data import Dataset
from helix.training import checkpoint
from helix.training.attempts import attempts_path
from helix.training.metrics import metrics_path, read_records
from tests.commands import start_helix
from tests.conftest import TINY_MODEL

TIMEOUT_S = 120
LONG_STEPS = 60  # long enough to be stopped on the way


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """A run of six steps, with checkpoints of steps 3 and 6; tests damage copies of it."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    assert main(train_words(run_dir, corpus)) == 0
    return run_dir


@pytest.fixture
def run_dir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def dataset(corpus, tmp_path):
    return shutil.copytree(corpus, tmp_path / "data")


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    """The run that the stopped ones must equal."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main(long_words(run_dir, corpus)) == 0
    return run_dir


@pytest.fixture
def small_disk(tmp_path):
    """A disk of two megabytes."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def train_words(run_dir, data, *words):
    """Write the command that trains the tiny model; words override it."""
    overridden = {word.partition("=")[0] for word in words}
    kept = [word for word in TINY_MODEL if word.partition("=")[0] not in overridden]
    return ["train", f"run_dir={run_dir}", f"data.path={data}", *kept, *words]


def long_words(run_dir, data):
    words = [f"training.n_steps={LONG_STEPS}", "training.checkpoint_every_steps=0"]
    return train_words(run_dir, data, *words)


def refusal(arguments, capsys, *, alone=True):
    """Run a command that must be refused; give the line that says why.

    Args:
        alone: Nothing else may be on stderr. A run that had begun has told its progress there.
    """
    capsys.readouterr()
    assert main(arguments) == 2
    return only_line(capsys.readouterr().err, alone=alone)


def only_line(stderr, *, alone):
    lines = stderr.splitlines()
    told = [line for line in lines if line.startswith("helix: ")]
    assert len(told) == 1, stderr
    assert "Traceback" not in stderr
    if alone:
        assert lines == told
    return told[0]


def hashes(*folders):
    """Hash every file of some folders."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def assert_still_there(before):
    for file, digest in before.items():
        assert hashlib.sha256(file.read_bytes()).hexdigest() == digest, file


def flip_byte(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def checkpoint_of(run_dir, step):
    return run_dir / "checkpoints" / f"step-{step:08d}"


def losses(run_dir):
    records = read_records(run_dir)
    return [r["train/loss_nats_per_token"] for r in records if "train/loss_nats_per_token" in r]


def weights_of(run_dir, step):
    return hashes(checkpoint_of(run_dir, step)).values()


# The command line.


def test_command_that_does_not_exist_is_refused_by_name(capsys):
    line = refusal(["tran", "preset=hybrid_tiny"], capsys)
    assert line.startswith("helix: tran: no such command; did you mean train? Allowed: data, demo")
    line = refusal(["data", "shards"], capsys)
    assert "data shards: no such verb; did you mean shard?" in line
    assert main([]) == main(["data"]) == 2


def test_preset_that_does_not_exist_is_refused_by_name(capsys):
    line = refusal(["train", "preset=hybrid_tiney", "run_dir=nowhere"], capsys)
    assert "preset=hybrid_tiney: no such preset; did you mean hybrid_tiny?" in line


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("training.n_steps", "'training.n_steps': write settings as key=value"),
        ("training.n_steps=", "training.n_steps: "),
        ("training.n_steps=many", "training.n_steps: Value 'many'"),
        ("training.n_step=3", "training.n_step: no such setting; did you mean n_steps?"),
        ("training.n_steps={", "training.n_steps={: not a value"),
        ("data.n_context=40", r"data.n_context=40: .* mamba2.chunk_tokens=16; .* 32.* 48"),
    ],
)
def test_setting_that_does_not_fit_is_refused_by_its_path(corpus, tmp_path, capsys, word, message):
    key = word.partition("=")[0]
    words = [w for w in train_words(tmp_path / "run", corpus) if not w.startswith(f"{key}=")]
    assert re.search(message, refusal([*words, word], capsys))
    assert not (tmp_path / "run").exists()


# Text.


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "the file is empty; give"), (b"Stra\xdfe " * 99, r"byte 4 \(0xdf\) is not UTF-8; conv")],
    ids=["empty", "not UTF-8"],
)
def test_text_file_that_holds_no_text_is_refused_by_name(tmp_path, capsys, content, message):
    file = tmp_path / "novel.de.txt"
    file.write_bytes(content)
    before = hashes(tmp_path)
    shards = ["data", "shard", str(file), f"out={tmp_path}/data", "tokenizer=byte"]
    vocabulary = ["data", "tokenizer", str(file), f"out={tmp_path}/a.model"]
    demo = ["demo", f"text={file}", f"run_dir={tmp_path}/demo"]
    for arguments in ([*shards, "unchecked=true"], vocabulary, demo):
        line = refusal(arguments, capsys)
        assert str(file) in line
        assert re.search(message, line)
    assert hashes(tmp_path) == before  # so that the demo takes the file when it is mended


# Shards and vocabularies.


def test_shard_cut_short_is_refused_by_name(dataset, tmp_path, capsys):
    shard = dataset / "train" / "de-000000.tar"
    os.truncate(shard, shard.stat().st_size - 1000)
    before = hashes(dataset)
    line = refusal(train_words(tmp_path / "run", dataset), capsys)
    assert f"{shard}: shard cut short" in line
    assert "copy the file again" in line
    assert hashes(dataset) == before


def test_shard_whose_bytes_changed_stops_the_run_that_reads_them(dataset, tmp_path, capsys):
    shard = dataset / "train" / "de-000000.tar"
    index = Dataset.open(dataset).indexes["de"]
    for offset in index.offset:
        flip_byte(shard, int(offset))
    before = hashes(dataset)
    line = refusal(train_words(tmp_path / "run", dataset), capsys, alone=False)
    assert re.search(rf"{shard}: document \d+ of 'de' at byte \d+: bytes changed .* copy", line)
    assert hashes(dataset) == before
    assert checkpoint.newest(tmp_path / "run") is None


@pytest.mark.parametrize("n_vocab", [100, 1000])
def test_vocabulary_that_does_not_match_the_tokenizer_is_refused(corpus, tmp_path, capsys, n_vocab):
    words = train_words(tmp_path / "run", corpus, f"model.n_vocab={n_vocab}")
    line = refusal(words, capsys)
    assert f"model.n_vocab={n_vocab}: the tokenizer has 258 entries; set model.n_vocab=258" in line


def test_shards_of_another_tokenizer_are_refused(dataset, tmp_path, capsys):
    manifest = json.loads((dataset / "manifest.json").read_text())
    manifest["tokenizer_fingerprint"] = "0" * 64
    del manifest["fingerprint"]  # or it would be refused as changed
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    line = refusal(train_words(tmp_path / "run", dataset), capsys)
    assert "made with the tokenizer 0000" in line


def test_file_that_is_no_tokenizer_is_refused(corpus, tmp_path, capsys):
    (tmp_path / "a.model").write_bytes(b"not a vocabulary")
    words = [w for w in train_words(tmp_path / "run", corpus) if w != "tokenizer.kind=byte"]
    line = refusal([*words, f"tokenizer.path={tmp_path}/a.model"], capsys)
    assert "not a SentencePiece model" in line
    line = refusal([*words, f"tokenizer.path={tmp_path}/b.model"], capsys)
    assert "b.model: no such file" in line


# Run folders and checkpoints.


def test_run_folder_of_another_config_is_refused(run_dir, corpus, capsys):
    before = hashes(run_dir)
    line = refusal(train_words(run_dir, corpus, "model.d_ffn=64"), capsys)
    assert "holds another run: model.d_ffn=64 here, 48 there; drop that setting" in line
    assert hashes(run_dir) == before


def test_checkpoint_of_another_model_is_refused(run_dir, corpus, capsys):
    (run_dir / "config.yaml").unlink()
    before = hashes(run_dir)
    line = refusal(train_words(run_dir, corpus, "model.d_ffn=64"), capsys)
    assert "a checkpoint of another model" in line
    assert "use the run's own config.yaml" in line
    assert hashes(run_dir) == before


def test_damaged_newest_checkpoint_falls_back_to_the_one_before(run_dir, corpus, finished, capsys):
    flip_byte(next(checkpoint_of(run_dir, 6).glob("weights-*")), -1)
    before = hashes(corpus, checkpoint_of(run_dir, 3))
    capsys.readouterr()
    assert main(train_words(run_dir, corpus)) == 0
    line = only_line(capsys.readouterr().err, alone=False)
    assert line.endswith("step-00000006: damaged; going on from step-00000003")
    assert_still_there(before)
    assert losses(run_dir) == losses(finished)
    assert checkpoint.is_intact(checkpoint_of(run_dir, 6))


def test_no_intact_checkpoint_is_an_error_that_says_so(run_dir, corpus, capsys):
    for step in (3, 6):
        flip_byte(next(checkpoint_of(run_dir, step).glob("moments-*")), 0)
    before = hashes(run_dir)
    for arguments in (train_words(run_dir, corpus), ["generate", f"run_dir={run_dir}"]):
        line = refusal(arguments, capsys)
        assert "none of 2 checkpoints is intact; restore one from a copy, or remove" in line
        assert hashes(run_dir) == before


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, touched):
        self.touched = touched

    def __reduce__(self):
        return open, (str(self.touched), "w")


@pytest.mark.parametrize("name", ["weights-99999-00000.safetensors", "mp_rank_00_states.pt"])
def test_hostile_pickle_that_no_manifest_names_is_passed_over(
    run_dir, corpus, tmp_path, capsys, name
):
    touched = tmp_path / "touched"
    (checkpoint_of(run_dir, 6) / name).write_bytes(pickle.dumps(Hostile(touched)))
    before = hashes(run_dir / "checkpoints")
    assert main(train_words(run_dir, corpus)) == 0
    assert main(["generate", f"run_dir={run_dir}", "n_tokens=2"]) == 0
    assert "helix: " not in capsys.readouterr().err
    assert hashes(run_dir / "checkpoints") == before
    assert not touched.exists()


def test_hostile_pickle_that_the_manifest_vouches_for_is_refused(run_dir, corpus, tmp_path, capsys):
    touched = tmp_path / "touched"
    folder = checkpoint_of(run_dir, 6)
    file = folder / "weights-99999-00000.safetensors"
    file.write_bytes(pickle.dumps(Hostile(touched)))
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest["files"][file.name] = {"bytes": file.stat().st_size, "sha256": digest}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    before = hashes(run_dir)
    for arguments in (train_words(run_dir, corpus), ["generate", f"run_dir={run_dir}"]):
        line = refusal(arguments, capsys)
        assert f"{file}: not safetensors" in line
        assert "restore the checkpoint from a copy" in line
    assert hashes(run_dir) == before
    assert not touched.exists()


@pytest.mark.parametrize("torn", [b'{"step": 4, "attem', b"\x00\xff\x00"], ids=["kill", "disk"])
def test_torn_last_line_of_the_metrics_is_left_out(run_dir, corpus, finished, torn):
    shutil.rmtree(checkpoint_of(run_dir, 6))
    lines = metrics_path(run_dir).read_bytes().splitlines(keepends=True)
    kept = b"".join(lines[:4]) + torn
    metrics_path(run_dir).write_bytes(kept)
    assert main(train_words(run_dir, corpus)) == 0
    assert metrics_path(run_dir).read_bytes().startswith(kept)
    assert losses(run_dir) == losses(finished)


# Disks and signals.


@pytest.mark.parametrize("n_free_bytes", [200_000, 0], ids=["at the checkpoint", "at once"])
def test_full_disk_ends_the_run_and_leaves_what_was_there(
    run_dir, corpus, finished, small_disk, capsys, n_free_bytes
):
    shutil.rmtree(checkpoint_of(run_dir, 6))
    run_dir = shutil.copytree(run_dir, small_disk / "run")
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace(str(finished), str(run_dir)))
    n_free = shutil.disk_usage(small_disk).free - n_free_bytes
    (small_disk / "other").write_bytes(bytes(n_free))
    before = hashes(small_disk)
    metrics = metrics_path(run_dir).read_bytes()
    for grown in (metrics_path(run_dir), attempts_path(run_dir)):
        del before[grown]
    line = refusal(train_words(run_dir, corpus), capsys, alone=False)
    assert "No space left on device" in line
    assert re.search("free some space and run the same command again$", line)
    assert_still_there(before)
    assert metrics_path(run_dir).read_bytes().startswith(metrics)
    (small_disk / "other").unlink()
    assert main(train_words(run_dir, corpus)) == 0
    assert losses(run_dir) == losses(finished)


@pytest.mark.parametrize(
    "words", [["--help"], ["plan", "preset=hybrid_tiny"], ["doctor"], ["doctor", "json=true"]]
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_nobody_reads_ends_every_command_alike(monkeypatch, words, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    process = start_helix(*words)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, stderr) == (2, "")


def test_run_whose_progress_nobody_reads_goes_on_to_its_end(corpus, tmp_path, finished):
    process = start_helix(*train_words(tmp_path / "run", corpus))
    assert process.stderr is not None
    process.stderr.close()
    process.stderr = None
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert losses(tmp_path / "run") == losses(finished)


def test_letters_that_a_terminal_lacks_are_escaped(finished, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    process = start_helix("generate", f"run_dir={finished}", "prompt=für", "n_tokens=1")
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    assert stdout.startswith(r"f\xfcr")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_run_that_a_signal_stopped_goes_on_as_if_undisturbed(
    corpus, tmp_path, undisturbed, number, status
):
    run_dir = tmp_path / "run"
    before = hashes(corpus)
    words = long_words(run_dir, corpus)
    process = start_helix(*words)
    while not losses(run_dir) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == status, stderr
    line = only_line(stderr, alone=False)
    assert line == f"helix: stopped by {number.name} and saved; the same command goes on"
    n_steps = len(losses(run_dir))
    assert 0 < n_steps < LONG_STEPS
    assert checkpoint.newest(run_dir) == checkpoint_of(run_dir, n_steps)
    assert main(words) == 0
    assert losses(run_dir) == losses(undisturbed)
    assert_same_weights(run_dir, undisturbed)
    assert hashes(corpus) == before


def assert_same_weights(run_dir, expected):
    ours, theirs = (
        {file.name: digest for file, digest in hashes(checkpoint_of(where, LONG_STEPS)).items()}
        for where in (run_dir, expected)
    )
    assert ours == theirs
