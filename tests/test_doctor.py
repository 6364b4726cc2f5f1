import json

import pytest
import torch

from helix import tune
from helix.cli import main
from helix.kernels import BACKENDS, WITHOUT_ADAPTER, Candidate, tuned
from helix.kernels.tuned.candidates import CANDIDATES
from helix.presets import PRESETS


def test_json_names_for_each_kernel_the_backend_taken_and_why_not_the_others(capsys):
    assert main(["doctor", "json=true"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["kernels"]) == set(BACKENDS)
    for kernel, rows in found["kernels"].items():
        named = [backend for backend, _, _ in rows]
        assert named == [*BACKENDS[kernel], *WITHOUT_ADAPTER.get(kernel, ())]
        assert any(available for _, available, _ in rows)
        assert all(reason for _, _, reason in rows)


def test_json_tells_versions_and_what_is_missing(capsys):
    assert main(["doctor", "json=true"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["torch"]
    assert found["packages"]["deepspeed"]
    assert all(version is None or version for version in found["packages"].values())
    assert found["free_disk_gib"] > 0


def test_tables_print_every_package_and_kernel(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for name in ("helix", "deepspeed", "safetensors", *BACKENDS):
        assert name in printed


def test_unknown_option_is_refused(capsys):
    assert main(["doctor", "jsno=true"]) == 2
    assert "did you mean json?" in capsys.readouterr().err


def test_doctor_says_whose_launch_constants_hold(capsys):
    assert main(["doctor", "json=true"]) == 0
    assert json.loads(capsys.readouterr().out)["tuned"] == tuned.describe()
    assert main(["doctor"]) == 0
    assert f"launch constants of our Triton kernels: {tuned.describe()}" in capsys.readouterr().out


def test_unknown_verb_is_refused(capsys):
    assert main(["doctor", "tun"]) == 2
    assert "did you mean tune?" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["out=tuned.json"], ["out=tuned.json", "kernels=gla"]])
def test_tune_without_a_gpu_is_refused_in_one_line(words, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["doctor", "tune", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("helix: doctor tune: no CUDA device")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.fixture
def pretended_gpu(monkeypatch):
    """A GPU that takes 10 ms for WALK=1, 9 for 2, and is wrong at 3, for gla and ssd alike."""

    class Bench:
        start, candidates = {"WALK": 1}, {"WALK": [2, 3]}

        def __init__(self, family, workload, *, width):
            assert workload == f"{family} on 8 x 4096"
            assert width == 128

        def n_trials(self):
            return 3

        def check(self, values):
            return "wrong: relative error 9e+11" if values["WALK"] == 3 else ""

        def time_ms(self, values):
            return 11.0 - values["WALK"]

        def to_json(self, values):
            return values

        def place(self, values):
            assert values == self.start

    def workloads_of(run):
        assert run.preset == "hybrid_0_9b"
        return {f: lambda r, f=f: f"{f} on {r.n_rows} x {r.n_tokens}" for f in CANDIDATES}

    monkeypatch.delenv("HELIX_TUNED", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(tune, "Bench", Bench)
    monkeypatch.setattr(tune, "workloads_of", workloads_of)
    monkeypatch.setattr(
        tune.kernels,
        "candidates",
        lambda name: [Candidate("triton", name != "sparse", "no Hopper")],
    )


def test_tune_writes_what_is_faster_and_right(pretended_gpu, tmp_path, capsys):
    out = tmp_path / "tuned.json"
    assert main(["doctor", "tune", f"out={out}", "kernels=gla,ssd", "json=true"]) == 0
    printed = json.loads(capsys.readouterr().out)
    record = json.loads(out.read_text())
    assert record["values"] == {"gla": {"WALK": 2}, "ssd": {"WALK": 2}}
    assert record["device"] == "NVIDIA H200"
    assert record["torch"] == torch.__version__
    assert record["preset"] == "hybrid_0_9b"
    trials = printed.pop("trials")
    assert printed == record
    assert [(t["constant"], t["value"], t["ms"], t["outcome"]) for t in trials[:3]] == [
        ("gla.WALK", 1, 10.0, ""),
        ("gla.WALK", 2, 9.0, "kept"),
        ("gla.WALK", 3, None, "wrong: relative error 9e+11"),
    ]


def test_tune_keeps_the_constants_of_families_that_it_does_not_search(
    pretended_gpu, monkeypatch, tmp_path, capsys
):
    before = {"gla": {"STRONG": {"num_warps": 8}}, "conv": {"FORWARD": {"RUN": 128}}}
    (tmp_path / "before.json").write_text(json.dumps({"values": before}), encoding="utf-8")
    monkeypatch.setenv("HELIX_TUNED", str(tmp_path / "before.json"))
    out = tmp_path / "tuned.json"
    assert main(["doctor", "tune", f"out={out}", "kernels=gla"]) == 0
    assert json.loads(out.read_text())["values"] == before | {"gla": before["gla"] | {"WALK": 2}}
    printed = capsys.readouterr().out
    assert "wrong: relative error 9e+11" in printed
    assert f"HELIX_TUNED={out}" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "out: missing"),
        (["out=no/such/folder/tuned.json"], "there is no folder no/such/folder"),
        (["out=tuned.json", "kernels=gal"], "no kernels 'gal'; did you mean gla?"),
        (["out=tuned.json", "kernels=sparse"], "not available here: no Hopper"),
        (["out=tuned.json", "kernels=gla", "preset=hybrid_0_9b_attention"], "has none"),
    ],
)
def test_tune_refuses_what_it_cannot_do_before_it_begins(pretended_gpu, words, message, capsys):
    assert main(["doctor", "tune", *words]) == 2
    assert message in capsys.readouterr().err


def test_tune_finds_the_widths_of_a_preset():
    made = tune.workloads_of(PRESETS["hybrid_0_9b"]())
    assert made["gla"].keywords == {"n_heads": 5, "d_key": 128, "d_value": 256}
    assert made["ssd"].keywords == {"n_heads": 40, "d_head": 64, "n_groups": 1, "d_state": 128}
    assert made["conv"].keywords == {"n_channels": 2816, "n_taps": 4, "n_beside": 2560}
    assert made["sparse"].keywords["d_head"] == 128
    assert made["cross_entropy"].keywords["n_vocab"] == 200_000
    assert set(made) == set(CANDIDATES)
    assert tune.table_width(PRESETS["hybrid_tiny"]()) == 64


def test_file_of_launch_constants_that_does_not_fit_is_told_in_one_line(
    pretended_gpu, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("HELIX_TUNED", str(tmp_path / "absent.json"))
    assert main(["doctor", "tune", f"out={tmp_path}/tuned.json", "kernels=gla"]) == 2
    assert "absent.json: no file of launch constants" in capsys.readouterr().err
