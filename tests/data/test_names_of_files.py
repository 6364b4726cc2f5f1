"""A manifest or a folder from a stranger does not lead out of its own folder."""

import json
import re

import pytest

from helix.data import DataError, Dataset
from helix.data.manifest import MANIFEST
from helix.data.verification import verify
from tests.data.remote_server import serve

NAMES = ["../outside", "/etc/passwd", "train/../../x", "a\\..\\b", ".lock/x", "", "a//b", "./x"]


def rename_a_file(path, kind, name):
    """Change a name in the manifest, as somebody would who can hash it again."""
    fields = json.loads((path / MANIFEST).read_text())
    del fields["fingerprint"]
    source = fields["splits"]["train"]["de"]
    if kind == "shard":
        source["shards"][0]["file"] = name
    else:
        source["index"] = name
    (path / MANIFEST).write_text(json.dumps(fields))


@pytest.mark.parametrize("kind", ["shard", "index"])
@pytest.mark.parametrize("name", [*NAMES, "x\n"])
def test_a_name_that_leads_elsewhere_is_refused_at_load(dataset_path, tmp_path, kind, name):
    rename_a_file(dataset_path, kind, name)
    message = rf"manifest.json: names the file {re.escape(repr(name))}, which may lie outside"
    with pytest.raises(DataError, match=message):
        Dataset.open(dataset_path)
    [fault] = verify(dataset_path).faults
    assert fault.file == MANIFEST
    with serve(dataset_path) as server:
        with pytest.raises(DataError, match=message):
            Dataset.open(server.url, cache=tmp_path / "cache")
        assert set(server.requests) == {MANIFEST}
    assert not (tmp_path / "cache").exists()


def test_a_file_that_is_named_twice_is_refused(dataset_path):
    rename_a_file(dataset_path, "shard", MANIFEST)
    with pytest.raises(DataError, match=r"names the file 'manifest.json' twice"):
        Dataset.open(dataset_path)


@pytest.mark.parametrize("kind", ["file", "folder", "circle"])
def test_a_link_that_leads_out_of_the_folder_is_refused_at_load(dataset_path, tmp_path, kind):
    shard = dataset_path / "train" / "de-000000.tar"
    if kind == "folder":
        (dataset_path / "train").rename(tmp_path / "elsewhere")
        (dataset_path / "train").symlink_to(tmp_path / "elsewhere")
    else:
        shard.rename(tmp_path / "elsewhere.tar")
        shard.symlink_to(tmp_path / "elsewhere.tar" if kind == "file" else shard)
    with pytest.raises(DataError, match=r"de-000000.tar: a link that leads out of the dataset's"):
        Dataset.open(dataset_path)
    assert shard.name in {fault.file.split("/")[-1] for fault in verify(dataset_path).faults}


def test_a_link_within_the_folder_and_a_folder_that_is_a_link_are_welcome(dataset_path, tmp_path):
    shard = dataset_path / "train" / "de-000000.tar"
    shard.rename(dataset_path / "own.tar")
    shard.symlink_to("../own.tar")
    (tmp_path / "link").symlink_to(dataset_path)
    assert len(Dataset.open(tmp_path / "link").read("de", 0)) > 1


def test_a_link_in_the_cache_is_not_written_through(pristine, tmp_path):
    with serve(pristine) as server:
        dataset = Dataset.open(server.url, cache=tmp_path / "cache")
        (tmp_path / "victim").write_bytes(b"mine")
        (dataset.path / "train" / "de-000000.tar").symlink_to(tmp_path / "victim")
        with pytest.raises(DataError, match="a link that leads out"):
            dataset.read("de", 0)
    assert (tmp_path / "victim").read_bytes() == b"mine"
