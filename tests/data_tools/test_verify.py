import json

import pytest

from data_tools.make_shards import make_shards
from data_tools.options import run_program
from data_tools.verify import VerifyOptions, run
from helix.data.shards import Dataset
from helix.tokenizer import ByteTokenizer
from tests.data.conftest import synthetic_documents


@pytest.fixture
def dataset(tmp_path):
    return make_shards(synthetic_documents(), ByteTokenizer(), tmp_path / "data")


def test_a_dataset_as_it_was_written_has_no_fault(dataset, capsys):
    found = run(VerifyOptions(path=str(dataset.path)))
    assert not found.faults
    assert found.n_documents == 85
    assert "9 files, 85 documents" in capsys.readouterr().out


def test_each_fault_is_a_line_with_shard_and_document_and_the_status_is_2(dataset, capsys):
    for source, document in (("de", 4), ("en", 2)):
        shard = dataset.path / dataset.sources[source].shards[0].file
        content = bytearray(shard.read_bytes())
        content[int(dataset.indexes[source].offset[document]) + 3] ^= 1
        shard.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        run_program(run, VerifyOptions, [f"path={dataset.path}"])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith("train/de-000000.tar (source 'de'): bytes changed: SHA-256 is ")
    assert lines[1].startswith("train/de-000000.tar (source 'de', document 4): document its bytes")
    assert "(source 'en', document 2)" in lines[3]
    assert lines[4].endswith("4 faults")
    assert printed.err == (
        f"helix: {dataset.path}: 4 faults; copy the files named above again from where the "
        "dataset was made, or make the dataset again\n"
    )


def test_machines_get_every_fault_as_json(dataset, capsys):
    (dataset.path / "validation" / "en.index.npz").unlink()
    with pytest.raises(ValueError, match="1 faults"):
        run(VerifyOptions(path=str(dataset.path), json=True))
    found = json.loads(capsys.readouterr().out)
    assert [fault["file"] for fault in found["faults"]] == ["validation/en.index.npz"]


def test_a_folder_that_is_no_dataset_is_one_fault(tmp_path, capsys):
    with pytest.raises(ValueError, match="1 faults"):
        run(VerifyOptions(path=str(tmp_path)))
    assert "manifest.json: data.path=" in capsys.readouterr().out


def test_verifying_changes_nothing(dataset):
    before = {file: file.read_bytes() for file in dataset.path.rglob("*") if file.is_file()}
    run(VerifyOptions(path=str(dataset.path)))
    assert {f: f.read_bytes() for f in dataset.path.rglob("*") if f.is_file()} == before
    assert Dataset.open(dataset.path).fingerprint == dataset.fingerprint
