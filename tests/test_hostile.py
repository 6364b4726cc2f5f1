"""Files from strangers: nothing in them is executed, and nothing is written outside.

Checkpoints: tests/training/test_checkpoint_hostile.py. Names in manifests:
tests/data/test_names_of_files.py.
"""

import io
import json
import shutil
import tarfile

import pytest

from data_tools.inspect_run import InspectOptions, inspect_step
from data_tools.verify import verify
from helix import config as configs
from helix.config import ConfigError, load
from helix.data import DataError
from helix.presets import PRESETS

TAGS = (
    "!!python/object/apply:os.system ['touch {mark}']",
    "!!python/object/new:subprocess.Popen [['touch', '{mark}']]",
    "!!python/name:os.system ''",
    "!!python/module:antigravity ''",
)


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_of_yaml_runs_nothing(tmp_path, tag):
    mark = tmp_path / "mark"
    text = tag.format(mark=mark)
    file = tmp_path / "run.yaml"
    file.write_text(f"run_dir: {text}\n")
    with pytest.raises(ConfigError, match="not YAML"):
        load([f"config={file}"], PRESETS)
    with pytest.raises(ConfigError, match="not a value"):
        load([f"training.n_steps={text}"], PRESETS)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    configs.saved_path(run_dir).write_text(f"seed: {text}\n")
    with pytest.raises(ConfigError, match="not YAML"):
        configs.read_saved(run_dir, PRESETS)
    assert not mark.exists()


def add(tar, name, content=b"", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(content))


def test_names_in_a_tar_write_nothing_anywhere(trained_run, tmp_path):
    """Shards are read where they lie; a member that leads outside, or is a link, is no file."""
    data = shutil.copytree(trained_run.data.path, tmp_path / "data")
    shard = data / "train" / "de-000000.tar"
    hostile = io.BytesIO()
    with tarfile.open(fileobj=hostile, mode="w") as tar:
        add(tar, "../../escaped.json", b'[{"id": "x", "n_tokens": 1, "n_bytes": 1}]')
        add(tar, str(tmp_path / "absolute.tokens"), b"12345678")
        add(tar, "de-000000-000000.json", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    n_bytes = shard.stat().st_size
    shard.write_bytes(hostile.getvalue()[:n_bytes].ljust(n_bytes, b"\0"))
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    found = verify(data)
    assert any(fault.file == "train/de-000000.tar" for fault in found.faults)
    run_dir = shutil.copytree(
        trained_run.run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("*.safetensors")
    )
    config = configs.saved_path(run_dir)
    config.write_text(config.read_text().replace(trained_run.data.path, str(data)))
    with pytest.raises(DataError, match="is damaged"):
        inspect_step(InspectOptions(run_dir=str(run_dir), step=1))
    after = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    assert [path for path in after if path.parts[0] != "run"] == before
    assert "root:" not in json.dumps([fault.problem for fault in found.faults])
