import json
from dataclasses import replace

import pytest
import torch

from evals.throughput import SECTIONS
from evals.throughput.bench import Bench, Case, Section
from evals.throughput.options import ThroughputConfig
from evals.throughput.report import Report
from evals.throughput.whole import compare_contexts
from helix.cli import main
from helix.config import load
from helix.presets import PRESETS
from helix.training.optimizer import is_time_scale
from tests.conftest import TINY_MODEL

WORDS = [word for word in TINY_MODEL if not word.startswith("tokenizer.")]
PLAIN = ["step", "parts", "recompute", "context", "decode"]  # those that only call the model


def measure(capsys, *words):
    status = main(["evaluate", "throughput", "json=true", "n_repeats=1", *WORDS, *words])
    return status, json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    out = tmp_path_factory.mktemp("throughput") / "figures.json"
    words = [f"sections={','.join(PLAIN)}", "contexts=16,64", "prefill_tokens=24", "n_repeats=1"]
    assert main(["evaluate", "throughput", "peak_tflops=1", f"out={out}", *WORDS, *words]) == 0
    return json.loads(out.read_text())


@pytest.fixture
def bench():
    return Bench(load(WORDS, PRESETS), ThroughputConfig(n_repeats=1), torch.device("cpu"))


def test_every_section_has_figures_above_zero(figures):
    assert list(figures["sections"]) == PLAIN
    assert figures["failed"] == []
    for rows in figures["sections"].values():
        for row in rows:
            timed = {k: v for k, v in row.items() if k.endswith(("_ms", "_per_s", "_bytes"))}
            timed.pop("tflops_per_s", None)  # of a norm or a look-up: none
            assert timed
            assert all(value > 0 for value in timed.values())


def test_figures_name_device_versions_kernels_and_settings(figures):
    assert figures["device"]
    assert figures["versions"]["torch"] == torch.__version__
    assert set(figures["versions"]) >= {"triton", "flash-linear-attention", "mamba-ssm"}
    assert set(figures["kernels"]) >= {"ssd", "gla", "sparse", "cross_entropy"}
    assert figures["settings"]["run"]["model"]["d_model"] == 32
    assert figures["settings"]["options"]["contexts"] == "16,64"
    assert figures["command"].startswith("helix evaluate throughput")


def test_figures_tell_how_utilisation_is_counted(figures):
    flops = figures["flops"]
    assert "MFU = " in flops["formula"]
    assert flops["peak_tflops"] == 1.0
    (row,) = figures["sections"]["step"]
    expected = 3 * sum(flops["forward_per_token"].values()) * row["tokens_per_s"] / 1e12
    assert row["mfu"] == pytest.approx(expected)


def test_each_kind_of_block_the_look_up_and_the_head_are_timed(figures):
    timed = {(row["kind"], row["part"]) for row in figures["sections"]["parts"]}
    kinds = PRESETS["hybrid_tiny"]().model.kinds()
    assert timed == {("head", "head and loss"), ("embedding", "look-up")} | {
        (kind, part) for kind in kinds for part in ("block", "mixer", "mlp", "mlp_norm")
    }


def test_share_of_peak_of_a_part_is_its_flops_by_its_time(figures):
    for row in figures["sections"]["parts"]:
        assert row["of_peak"] == pytest.approx(row["tflops_per_s"])  # the peak is 1 TFLOP/s


def test_only_full_recomputation_adds_to_the_hardware_flops(figures):
    ratios = {r["recompute"]: r["hfu"] / r["mfu"] for r in figures["sections"]["recompute"]}
    assert ratios.pop("none") == ratios.pop("selective") == 1
    assert ratios.pop("none; every 4th block's activations on the host") == 1
    assert set(ratios) == {
        *("full", "full, every 2", "full, every 4"),
        *("full, mamba2", "full, gla", "full, sparse"),
    }
    assert all(1 < ratio <= ratios["full"] < 4 / 3 for ratio in ratios.values())


def test_every_length_of_row_has_as_many_tokens_a_step(figures):
    rows = figures["sections"]["context"]
    assert [row["n_context"] for row in rows] == [16, 64]
    assert len({row["tokens"] for row in rows}) == 1
    assert rows[0]["of_first"] == 1


def test_rows_longer_than_the_batch_make_every_step_longer(capsys):
    words = ["sections=context", "contexts=32,256"]  # the preset's micro-batch has 4 x 32 tokens
    rows = measure(capsys, *words)[1]["sections"]["context"]
    assert [(row["rows"], row["tokens"]) for row in rows] == [(4, 256), (1, 256)]


def test_state_of_decoding_has_one_size_at_every_length(figures):
    rows = figures["sections"]["decode"]
    assert len({row["state_bytes"] for row in rows}) == 1
    assert [row["pieces"] for row in rows] == [1, 3]


def test_what_is_not_known_is_null(capsys):
    (row,) = measure(capsys, "sections=step")[1]["sections"]["step"]
    assert row["tokens_per_s"] > 0
    assert row["mfu"] is None
    assert row["peak_gib"] is None


def test_every_model_of_a_bench_has_the_same_weights_with_time_scales_in_fp32(bench):
    run = bench.run
    bf16 = replace(run, training=replace(run.training, precision="bf16"))
    halved = replace(bench, run=bf16).model(run.model)
    whole = dict(bench.host_model().named_parameters())
    for name, parameter in halved.named_parameters():
        dtype = torch.float32 if is_time_scale(name) else torch.bfloat16
        assert torch.equal(parameter, whole[name].to(dtype)), name


def test_a_row_that_fails_holds_its_error_and_loses_no_other(bench, capsys):
    def fail():
        raise torch.OutOfMemoryError("too small\nand more")

    def cases(bench):
        yield Case({"row": 1}, fail)
        yield Case({"row": 2}, lambda: {"tokens_per_s": 2.0})
        raise RuntimeError("the data are gone")

    report = Report(bench)
    report.fill("step", Section(cases, compare_contexts))
    assert report.sections["step"] == [
        {"row": 1, "error": "OutOfMemoryError: too small"},
        {"row": 2, "tokens_per_s": 2.0, "of_first": 1.0},
        {"error": "RuntimeError: the data are gone"},
    ]
    assert report.failed() == [
        "step row=1: OutOfMemoryError: too small",
        "step: RuntimeError: the data are gone",
    ]
    assert "throughput: step row=2" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="the libraries may run here")
def test_what_was_not_measured_is_told_at_the_end(capsys, tmp_path):
    out = tmp_path / "figures.json"
    words = ["sections=library,step", f"out={out}", "n_repeats=1"]
    assert main(["evaluate", "throughput", *WORDS, *words]) == 2
    error = capsys.readouterr().err
    refusal = "library: ConfigError: library: the libraries' kernels need a CUDA device"
    assert error.endswith(f"helix: throughput: not measured: {refusal}\n")
    figures = json.loads(out.read_text())
    assert figures["failed"] == [refusal]
    assert figures["sections"]["step"][0]["tokens_per_s"] > 0


def test_tables_show_formula_peak_and_notes(capsys):
    assert main(["evaluate", "throughput", "sections=step", "peak_tflops=7", *WORDS]) == 0
    shown = capsys.readouterr().out
    for words in ("MFU = ", "peak = 7 TFLOP/s", "forward FLOPs a token", SECTIONS["step"].note):
        assert words in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["throughput", "sections=speed"], "'speed' is none of ['step', "),
        (["throughput", "contexts=many"], "contexts=many: give lengths in tokens"),
        (["throughput", "accumulations="], "accumulations=: give numbers, as in 1,8"),
        (["throughput", "stages=0"], "stages=0: give some of 1,2,3"),
        (["throughput", "n_steps=-1"], "n_steps=-1: give 0 or more"),
        (
            ["throughput", "sections=context", "contexts=20"],
            "data.n_context=20: must be a multiple",
        ),
        (["throughput", "out=/nowhere/x.json"], "its folder does not exist"),
        (["througput"], "evaluate througput: no such evaluation; did you mean throughput?"),
        ([], "name the run to evaluate"),
    ],
)
def test_mistake_is_one_line_that_names_it(capsys, words, message):
    assert main(["evaluate", *words, *(WORDS if len(words) > 1 else [])]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
