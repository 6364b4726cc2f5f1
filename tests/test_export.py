"""Exported weights: whole, bit by bit those of the run, and never written over anything."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from helix import config as configs
from helix import export
from helix.cli import main
from helix.config import RunConfig
from helix.models import build_model
from helix.training import checkpoint
from helix.training.optimizer import is_time_scale


@pytest.fixture
def run_dir(trained_run, tmp_path):
    return shutil.copytree(trained_run.run_dir, tmp_path / "run")


def export_to(out, run_dir, *words):
    return main(["export", "consolidated", f"run_dir={run_dir}", f"out={out}", *words])


def refusal(arguments, capsys):
    capsys.readouterr()
    assert main(arguments) == 2
    return capsys.readouterr().err.removesuffix("\n")


def tensors_in(out):
    files = sorted(out.glob("*.safetensors"))
    return {name: value for file in files for name, value in load_file(file).items()}


def test_exported_weights_load_into_a_plain_model_bit_by_bit(trained_run, tmp_path, capsys):
    out = tmp_path / "out"
    assert export_to(out, trained_run.run_dir) == 0
    assert re.match(rf"{out}: weights of step-00000020 in fp32, 0\.\d+ GB", capsys.readouterr().out)
    assert sorted(file.name for file in out.iterdir()) == ["config.yaml", "model.safetensors"]
    config = configs.load_file(out / "config.yaml", RunConfig())
    model = build_model(config.model, seed=1, device="cpu")
    with safe_open(out / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    missing, unexpected = model.load_state_dict(tensors_in(out), strict=False)
    assert not unexpected
    assert not set(missing) & set(dict(model.named_parameters()))
    reference = build_model(config.model, seed=2, device="cpu")
    checkpoint.read_weights(checkpoint.newest(trained_run.run_dir), reference)
    for (name, ours), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_exported_file_is_what_the_library_would_write(trained_run, tmp_path):
    for dtype in ("fp32", "bf16"):
        out = tmp_path / dtype
        assert export_to(out, trained_run.run_dir, f"dtype={dtype}") == 0
        expected = save(tensors_in(out), metadata={"format": "pt"})
        assert (out / "model.safetensors").read_bytes() == expected


def test_bf16_rounds_all_but_the_time_scales(trained_run, tmp_path):
    export_to(tmp_path / "whole", trained_run.run_dir)
    export_to(tmp_path / "half", trained_run.run_dir, "dtype=bf16")
    whole, half = tensors_in(tmp_path / "whole"), tensors_in(tmp_path / "half")
    assert any(is_time_scale(name) for name in whole)
    for name, value in whole.items():
        assert torch.equal(half[name], value if is_time_scale(name) else value.bfloat16()), name


def test_many_weights_are_cut_into_files_that_an_index_names(trained_run, tmp_path, monkeypatch):
    export_to(tmp_path / "one", trained_run.run_dir)
    monkeypatch.setattr(export, "SHARD_BYTES", 20_000)
    export_to(tmp_path / "many", trained_run.run_dir)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    one, many = tensors_in(tmp_path / "one"), tensors_in(tmp_path / "many")
    files = sorted(file.name for file in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in one.values())
    assert index["weight_map"].keys() == one.keys() == many.keys()
    for name, file in index["weight_map"].items():
        held = load_file(tmp_path / "many" / file)
        assert torch.equal(held[name], one[name])
        assert sum(v.nbytes for v in held.values()) <= 20_000 or len(held) == 1


def test_step_is_chosen_by_number_or_by_score(run_dir, tmp_path, capsys):
    folder = checkpoint.checkpoints_dir(run_dir)
    assert export_to(tmp_path / "step", run_dir, "step=18") == 0
    assert "step-00000018" in capsys.readouterr().out
    assert export_to(tmp_path / "best", run_dir, "step=best") == 0
    assert "step-00000020" in capsys.readouterr().out
    arguments = ["export", "consolidated", f"run_dir={run_dir}", f"out={tmp_path}/none", "step=7"]
    line = refusal(arguments, capsys)
    assert line.endswith("give latest, best or one of the steps there: 18, 20")
    shutil.rmtree(folder / "step-00000020")
    arguments[-1] = "step=best"
    assert "step=best: no step that was validated is there" in refusal(arguments, capsys)


def test_damaged_checkpoint_is_not_exported(run_dir, tmp_path, capsys):
    file = next((checkpoint.checkpoints_dir(run_dir) / "step-00000020").glob("weights*"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    arguments = ["export", "consolidated", f"run_dir={run_dir}", f"out={tmp_path}/out", "step=20"]
    assert "step-00000020: damaged; restore it from a copy" in refusal(arguments, capsys)
    assert not (tmp_path / "out").exists()
    assert main(arguments[:-1]) == 0
    assert "weights of step-00000018" in capsys.readouterr().out


def test_nothing_is_written_over(trained_run, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    arguments = ["export", "consolidated", f"run_dir={trained_run.run_dir}", f"out={out}"]
    assert "is there already; give a new folder" in refusal(arguments, capsys)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()
    assert main(arguments) == 0


def test_failed_export_leaves_nothing(trained_run, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk on fire")

    monkeypatch.setattr(export, "write_tensors", fail)
    assert export_to(tmp_path / "out", trained_run.run_dir) == 2
    assert list(tmp_path.iterdir()) == []


def test_list_tells_each_checkpoint(run_dir, capsys):
    assert main(["export", "list", f"run_dir={run_dir}", "json=true", "verify=true"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in rows] == [18, 20]
    assert [row["is_latest"] for row in rows] == [False, True]
    assert [row["is_best"] for row in rows] == [False, True]
    assert all(row["is_intact"] and row["n_bytes"] > 10_000 for row in rows)
    assert rows[0]["bits_per_byte"] is None
    assert 0 < rows[1]["bits_per_byte"] < 9
    assert main(["export", "list", f"run_dir={run_dir}"]) == 0
    assert "latest, best" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "export : no such verb"),
        (["consolidate"], "export consolidate: no such verb; did you mean consolidated?"),
        (["consolidated", "out=here"], "run_dir: missing; give run_dir="),
        (["consolidated", "run_dir=.", "out=here", "dtype=fp8"], "dtype"),
        (["consolidated", "run_dir=nowhere", "out=here"], "run_dir=nowhere: holds no run"),
        (["list", "run_dir=nowhere"], "run_dir=nowhere: holds no run"),
    ],
)
def test_command_that_does_not_fit_is_refused(words, message, capsys):
    assert message in refusal(["export", *words], capsys)
    assert not Path("here").exists()
