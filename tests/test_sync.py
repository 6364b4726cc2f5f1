import json
import shutil
import struct
import time
from pathlib import Path

import pytest

from helix.config import ConfigError, load_options
from helix.sync import SyncConfig, sync
from helix.training.metrics import metrics_path, read_records
from helix.training.tracking import tracking_path

BLOCK_BYTES = 32 * 1024  # of the log files that wandb writes
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def run_dir(trained_run, tmp_path):
    """A copy of a run's folder, but for its weights, that a test may change."""
    return shutil.copytree(
        trained_run.run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("*.safetensors")
    )


def records_of(file):
    """Cut a log of wandb into its records; see LevelDB's log format."""
    data, at, whole = Path(file).read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK_BYTES - at % BLOCK_BYTES < 7:
            at += BLOCK_BYTES - at % BLOCK_BYTES
            continue
        _, n_bytes, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + n_bytes]
        at += 7 + n_bytes
        if kind in (1, 4):  # whole, or the last of several parts
            yield whole
            whole = b""


def whole_log(file, parse):
    """The records of a log that was finished: wandb writes the last of them a little later."""
    deadline = time.monotonic() + 30
    while True:
        records = [parse(data) for data in records_of(file)]
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        assert time.monotonic() < deadline, file
        time.sleep(0.05)


def history_of(run_dir):
    """What wandb was sent: run id to its lines, of all offline runs in the order of time."""
    from wandb.proto import wandb_internal_pb2 as protocol

    history: dict[str, list[dict]] = {}
    for file in sorted(Path(run_dir).glob("wandb/offline-run-*/*.wandb")):
        lines = history.setdefault(file.stem.removeprefix("run-"), [])
        for record in whole_log(file, protocol.Record.FromString):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                line = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                lines.append({k: v for k, v in line.items() if not k.startswith("_")})
    return history


def sync_offline(run_dir):
    sync(SyncConfig(run_dir=str(run_dir), mode="offline"))


def append(run_dir, *lines):
    with metrics_path(run_dir).open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)


def test_each_line_arrives_once_however_often_it_is_sent(run_dir, capsys):
    pytest.importorskip("wandb")
    written = read_records(run_dir)
    last = max(record["step"] for record in written)
    sync_offline(run_dir)
    repeated = [r for r in written if r["step"] == last and "speed/step_ms" in r]
    append(run_dir, *({**r, "attempt": 1} for r in repeated))  # as a run that was killed does
    append(run_dir, {**repeated[0], "attempt": 1, "step": last + 1})
    sync_offline(run_dir)
    sync_offline(run_dir)
    [(_, sent)] = history_of(run_dir).items()
    assert [line["step"] for line in sent] == [r["step"] for r in written] + [last + 1]
    for line, record in zip(sent, written, strict=False):
        assert line == record
    assert capsys.readouterr().out.split("\n")[1].startswith("sent 1 lines to wandb helix/")


def test_after_a_rollback_a_new_version_holds_the_whole_history(run_dir):
    pytest.importorskip("wandb")
    sync_offline(run_dir)
    written = read_records(run_dir)
    third = next(r for r in written if r["step"] == 3 and "speed/step_ms" in r)
    append(run_dir, {**third, "train/loss_nats_per_token": 1.25})
    sync_offline(run_dir)
    first, second = sorted(history_of(run_dir).items())
    assert second[0] == f"{first[0]}-2"
    assert [line["step"] for line in second[1]] == [r["step"] for r in read_records(run_dir)]
    assert max(line["step"] for line in second[1]) == 3  # what came after was given up
    assert 1.25 in [line.get("train/loss_nats_per_token") for line in second[1]]


def test_a_save_that_is_written_down_late_begins_no_new_version(run_dir):
    """A run was killed beside a save; the attempt after it saves that step when others are sent."""
    pytest.importorskip("wandb")
    sync_offline(run_dir)
    append(run_dir, {"step": 2, "attempt": 1, "tokens": 0, "checkpoint/write_s": 1.0})
    for _ in range(2):
        sync_offline(run_dir)
    [(_, sent)] = history_of(run_dir).items()
    assert [line["step"] for line in sent[-2:]] == [read_records(run_dir)[-1]["step"], 2]


def test_tensorboard_has_every_figure_under_its_step(run_dir):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # written anew each time
        sync(SyncConfig(run_dir=str(run_dir), to="tensorboard"))
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    name = "train/loss_nats_per_token"
    written = {r["step"]: r[name] for r in read_records(run_dir) if name in r}
    sent = {event.step: event.value for event in events.Scalars(name)}
    assert sent == pytest.approx(written)
    assert len(events.Scalars(name)) == len(written)


@pytest.mark.parametrize(("word", "allowed"), [("to", "wandb"), ("mode", "online")])
def test_bad_options_are_refused_by_name(word, allowed):
    with pytest.raises(ConfigError, match=rf"{word}: .*mlflow.*{allowed}"):
        load_options(SyncConfig, ["run_dir=r", f"{word}=mlflow"])


def test_a_run_without_figures_and_a_damaged_note_are_told(run_dir):
    pytest.importorskip("wandb")
    tracking_path(run_dir).write_text("{")
    with pytest.raises(ConfigError, match=r"tracking.json: damaged"):
        sync_offline(run_dir)
    metrics_path(run_dir).unlink()
    with pytest.raises(ConfigError, match="has no figures yet"):
        sync_offline(run_dir)
