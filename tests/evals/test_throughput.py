import json

import pytest

from evals.throughput import SECTIONS
from helix.cli import main
from helix.presets import PRESETS
from tests.conftest import TINY_MODEL

WORDS = [word for word in TINY_MODEL if not word.startswith("tokenizer.")]


def measure(capsys, *words):
    assert main(["evaluate", "throughput", "json=true", "n_repeats=1", *WORDS, *words]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    out = tmp_path_factory.mktemp("throughput") / "figures.json"
    words = [f"sections={','.join(SECTIONS)}", "contexts=16,64", "n_repeats=1", f"out={out}"]
    assert main(["evaluate", "throughput", "peak_tflops=1", *WORDS, *words]) == 0
    return json.loads(out.read_text())


def test_every_section_has_figures_above_zero(figures):
    assert set(figures["sections"]) == set(SECTIONS)
    for rows in figures["sections"].values():
        for row in rows:
            timed = {k: v for k, v in row.items() if k.endswith(("_ms", "_per_s", "_bytes"))}
            assert timed
            assert all(value > 0 for value in timed.values())


def test_figures_name_device_kernels_and_run(figures):
    assert figures["device"]
    assert set(figures["kernels"]) >= {"ssd", "gla", "sparse", "cross_entropy"}
    assert figures["run"]["model"]["d_model"] == 32
    assert figures["command"].startswith("helix evaluate throughput")


def test_each_kind_of_block_and_the_head_are_timed(figures):
    timed = {(row["kind"], row["part"]) for row in figures["sections"]["parts"]}
    kinds = PRESETS["hybrid_tiny"]().model.kinds()
    assert timed == {("head", "head and loss")} | {
        (kind, part) for kind in kinds for part in ("block", "mixer", "mlp", "mlp_norm")
    }


def test_only_full_recomputation_adds_to_the_hardware_flops(figures):
    ratios = {r["recompute"]: r["hfu"] / r["mfu"] for r in figures["sections"]["recompute"]}
    assert ratios["none"] == ratios["selective"] == 1
    assert 1 < ratios["full"] < 4 / 3


def test_state_of_decoding_has_one_size_at_every_length(figures):
    assert len({row["state_bytes"] for row in figures["sections"]["decode"]}) == 1


def test_what_is_not_known_is_null(capsys):
    (row,) = measure(capsys, "sections=step")["sections"]["step"]
    assert row["tokens_per_s"] > 0
    assert row["mfu"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["throughput", "sections=speed"], "'speed' is none of ['step', "),
        (["throughput", "contexts=many"], "contexts=many: give lengths in tokens"),
        (
            ["throughput", "sections=context", "contexts=20"],
            "data.n_context=20: must be a multiple",
        ),
        (["throughput", "out=/nowhere/x.json"], "its folder does not exist"),
        (["througput"], "evaluate througput: no such evaluation; did you mean throughput?"),
        ([], "no such evaluation"),
    ],
)
def test_mistake_is_one_line_that_names_it(capsys, words, message):
    assert main(["evaluate", *words, *(WORDS if len(words) > 1 else [])]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
