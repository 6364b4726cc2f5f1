import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from helix.cli import main
from helix.config import ConfigError
from helix.models import build_model, build_on_meta
from helix.plan import Plan, PlanConfig, plan
from helix.plan.fitting import USABLE
from helix.plan.memory import GIB
from helix.plan.scaling import MACHINERY_S, divide_rows, micro_batches
from helix.presets import PRESETS
from helix.training.flops import training_flops_per_token
from tests.models.cases import batch_of, draw_tokens, hybrid

ROOT = Path(__file__).parents[1]


class NoTensors(TorchDispatchMode):
    """Fails on any operation of torch, and so on any allocation."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} was called")


@pytest.mark.parametrize("name", PRESETS)
def test_plan_of_each_preset_counts_the_model_that_would_be_built(name):
    config = PRESETS[name]()
    with NoTensors():
        result = plan(config, PlanConfig())
    built = build_on_meta(config.model)
    assert result.n_parameters == sum(p.numel() for p in built.parameters())
    assert sum(result.parameters_by_part.values()) == result.n_parameters
    assert all(flops > 0 for flops in result.forward_flops_per_token_by_part.values())
    assert result.training_flops_per_token == 3 * sum(
        result.forward_flops_per_token_by_part.values()
    )
    assert result.memory_gib == pytest.approx(sum(result.memory_gib_by_part.values()))
    n_recurrent = len(set(config.model.kinds()) & {"mamba2", "gla"})
    for part, gib in result.memory_gib_by_part.items():
        assert gib > 0 or (part == "mixer_states" and n_recurrent == gib == 0)
    assert all(fit.memory_gib <= USABLE * 80 for fit in result.fits)


def test_seven_billion_parameters_in_bf16_need_the_bytes_of_the_table():
    result = plan(PRESETS["hybrid_7b"](), PlanConfig(n_gpus=8, zero_stage=3))
    n = result.n_parameters
    parts = result.memory_gib_by_part
    found = [parts[name] * GIB for name in ("weights", "gradients", "optimizer")]
    assert found == pytest.approx([2 * n / 8, 4 * n / 8, 12 * n / 8])


@given(
    name=st.sampled_from(sorted(PRESETS)),
    n_gpus=st.integers(1, 4096),
    more=st.integers(1, 4096),
    stage=st.integers(0, 3),
    rows=st.integers(1, 64),
)
def test_more_gpus_need_no_more_memory_a_gpu(name, n_gpus, more, stage, rows):
    options = PlanConfig(n_gpus=n_gpus, zero_stage=stage, micro_batch_rows=rows)
    few, many = (plan(PRESETS[name](), replace(options, n_gpus=n)) for n in (n_gpus, n_gpus + more))
    assert many.memory_gib <= few.memory_gib
    assert many.tokens_per_s > few.tokens_per_s


@given(
    name=st.sampled_from(sorted(PRESETS)),
    n_gpus=st.integers(1, 4096),
    precision=st.sampled_from(["bf16", "fp32"]),
)
def test_higher_stage_needs_no_more_memory_a_gpu(name, n_gpus, precision):
    config = PRESETS[name]()
    config = replace(config, training=replace(config.training, precision=precision))
    memory = [
        plan(config, PlanConfig(n_gpus=n_gpus, zero_stage=s)).memory_gib for s in (0, 1, 2, 3)
    ]
    if precision == "fp32" and n_gpus == 1:
        assert memory[0] < memory[1]  # ZeRO keeps fp32 weights a second time, and shares them out
        memory = memory[1:]
    assert sorted(memory, reverse=True) == memory


@given(st.integers(1, 10_000))
def test_context_that_does_not_suit_the_model_is_refused(n_context):
    config, options = PRESETS["hybrid_tiny"](), PlanConfig(n_context=n_context)
    if n_context % 64:
        with pytest.raises(ConfigError, match=rf"data.n_context={n_context}: must be a multiple"):
            plan(config, options)
    else:
        assert plan(config, options).n_context == n_context


@pytest.mark.parametrize(
    "word",
    [
        "overlap=2",
        "latency_us=-1",
        "gpus_per_node=0",
        "n_gpus=0",
        "micro_batch_rows=-1",
        "n_context=-64",
        "utilisation=0",
        "peak_tflops=nan",
    ],
)
def test_option_that_cannot_be_is_refused_in_one_line(word, capsys):
    assert main(["plan", "preset=hybrid_tiny", word]) == 2
    assert capsys.readouterr().err.startswith(f"helix: {word.partition('=')[0]}=")


def test_context_is_refused_in_one_line(capsys):
    assert main(["plan", "preset=hybrid_7b", "n_context=100"]) == 2
    assert capsys.readouterr().err.startswith("helix: data.n_context=100: must be a multiple of")


def test_json_holds_every_field(capsys):
    assert main(["plan", "preset=hybrid_7b", "n_gpus=64", "zero_stage=3", "json=true"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == [field.name for field in fields(Plan)]
    assert (printed["preset"], printed["n_gpus"], printed["zero_stage"]) == ("hybrid_7b", 64, 3)
    assert printed["n_parameters"] == pytest.approx(7e9, rel=0.02)


def test_tables_name_every_part(capsys):
    assert main(["plan", "preset=hybrid_0_9b", "model.recompute=full"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "embedding",
        "mamba2",
        "gla",
        "sparse",
        "mlp",
        "head",
        "optimizer",
        "tokens a day",
    ):
        assert part in printed


def measured_gib():
    """Give what one H200 held at its peak: words of `helix plan`, and GiB under our engine."""
    text = (ROOT / "evals/results/hybrid_0_9b_h200.json").read_text(encoding="utf-8")
    sections = [run["sections"] for run in json.loads(text)["runs"]]
    engine = [
        {row["loop"]: row["peak_gib"] for row in run["engine"] if row["micro_batches"] == 1}
        for run in sections
        if "engine" in run
    ]
    yield [], engine[0]["engine"]
    yield ["micro_batch_rows=16"], engine[1]["engine"]
    (rows,) = (run["recompute"] for run in sections if "recompute" in run)
    by_name = {row["recompute"]: row["peak_gib"] for row in rows}  # in a plain loop
    of_engine = engine[0]["engine"] - engine[0]["plain"]
    for name in ("selective", "full"):
        yield [f"model.recompute={name}"], by_name[name] + of_engine
    for n in (2, 4):
        words = ["model.recompute=full", f"model.recompute_every={n}"]
        yield words, by_name[f"full, every {n}"] + of_engine
    for kind in ("mamba2", "gla", "sparse"):
        words = ["model.recompute=full", f"model.recompute_kinds={kind}"]
        yield words, by_name[f"full, {kind}"] + of_engine


@pytest.mark.parametrize(("words", "gib"), list(measured_gib()))
def test_memory_is_within_a_tenth_of_what_was_measured(words, gib, capsys):
    assert main(["plan", "preset=hybrid_0_9b", "model.n_vocab=200064", "json=true", *words]) == 0
    assert json.loads(capsys.readouterr().out)["memory_gib"] == pytest.approx(gib, rel=0.1)


@given(
    name=st.sampled_from(["hybrid_100m", "hybrid_0_9b", "hybrid_7b"]),
    n_gpus=st.sampled_from([1, 2, 3, 8, 64]),
    gpu_gib=st.sampled_from([8.0, 24.0, 80.0, 141.0]),
)
@settings(max_examples=15)
def test_what_fits_is_what_the_plan_of_it_holds(name, n_gpus, gpu_gib):
    config = PRESETS[name]()
    options = PlanConfig(n_gpus=n_gpus, gpu_gib=gpu_gib)
    fits = plan(config, options).fits
    for fit in fits:
        again = replace(config, model=replace(config.model, recompute=fit.recompute))
        rows = {"micro_batch_rows": fit.micro_batch_rows, "zero_stage": fit.zero_stage}
        assert plan(again, replace(options, **rows)).memory_gib == fit.memory_gib
        assert fit.memory_gib <= USABLE * gpu_gib
        assert config.training.batch_rows % (fit.micro_batch_rows * n_gpus) == 0
    speeds = [fit.tokens_per_s for fit in fits]
    assert speeds == sorted(speeds, reverse=True)
    smallest = min(micro_batches(config.training.batch_rows, n_gpus), default=0)
    of_full = replace(config, model=replace(config.model, recompute="full"))
    least = replace(options, micro_batch_rows=smallest, zero_stage=3 if n_gpus > 1 else 1)
    if smallest and plan(of_full, least).memory_gib <= USABLE * gpu_gib:
        assert fits


def test_a_model_that_fits_nowhere_is_told_of(capsys):
    assert main(["plan", "preset=hybrid_7b", "n_gpus=2", "gpu_gib=24"]) == 0
    assert "Nothing fits into 24 GiB a GPU" in capsys.readouterr().out


def test_a_batch_that_does_not_divide_is_told_of(capsys):
    assert main(["plan", "preset=hybrid_0_9b", "n_gpus=3"]) == 0
    printed = capsys.readouterr().out
    assert "training.batch_rows=128 does not divide over 3 GPUs" in printed
    assert "Nothing fits" not in printed


def test_recomputation_needs_less_memory():
    config = PRESETS["hybrid_3b"]()
    recomputed = replace(config, model=replace(config.model, recompute="full"))
    kept, spared = (
        plan(c, PlanConfig()).memory_gib_by_part["activations"] for c in (config, recomputed)
    )
    assert spared < kept / 5


def counted_flops_per_token(config, n_context):
    model = build_model(config, seed=0, device="cpu")
    batch = batch_of(draw_tokens(n_context + 1))
    # PyTorch counts no fused attention on a CPU; unfused it is two products over all pairs
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(batch)
    return counter.get_total_flops() / n_context


@pytest.mark.parametrize("n_context", [1, 16, 64])
def test_flops_of_attention_equal_an_independent_count(n_context):
    config = hybrid(pattern="attention*2")
    told = sum(config.flops_by_part(n_context).values())
    # The formula leaves out pairs that the mask forbids: (T - 1) / 2 keys of each token.
    n_masked = 2 * 4 * config.d_model * (n_context - 1) / 2
    assert counted_flops_per_token(config, n_context) == told + n_masked


def test_flops_of_a_hybrid_are_near_an_independent_count():
    # Chunked scans do other products than the recurrence whose FLOPs the formula tells, and the
    # convolution does none; projections, MLPs and the head are most of a wide model.
    config = hybrid(d_model=128, d_ffn=384, n_vocab=500)
    told = sum(config.flops_by_part(64).values())
    assert counted_flops_per_token(config, 64) == pytest.approx(told, rel=0.1)


def test_training_flops_are_a_little_more_than_six_per_parameter():
    # The tied embedding is read without arithmetic and multiplied as the head: it counts once.
    run = PRESETS["hybrid_0_9b"]()
    n_parameters = sum(run.model.parameters_by_part().values())
    flops = training_flops_per_token(run.model, run.data.n_context)
    assert 1 < flops / (6 * n_parameters) < 1.15


def steps_of(name, **options):
    """Time the steps of a growing batch."""
    return plan(PRESETS[name](), PlanConfig(**options)).growing_batch


def two_gpus():
    """Give the runs that were measured on two H200."""
    text = (ROOT / "evals/results/hybrid_two_h200.json").read_text(encoding="utf-8")
    return json.loads(text)["runs"]


def test_two_gpus_take_what_was_measured_on_two():
    alone, *together = two_gpus()[0]["sections"]["zero"]
    one = 8 * 4096 * plan(PRESETS["hybrid_0_9b"](), PlanConfig()).training_flops_per_token
    utilisation = one / (alone["step_ms"] / 1e3) / 989e12
    assert [row["stage"] for row in together] == [1, 2, 3]
    for row in together:
        options = {"n_gpus": 2, "zero_stage": row["stage"], "utilisation": utilisation}
        (step,) = (s for s in steps_of("hybrid_0_9b", **options) if s.n_gpus == 2)
        assert step.computing_s == pytest.approx(alone["step_ms"] / 1e3)
        assert step.efficiency == pytest.approx(row["of_one_rank"], abs=0.01)


def test_memory_on_two_gpus_is_within_a_tenth_of_what_was_measured(capsys):
    runs = two_gpus()
    found = {
        f"hybrid_0_9b zero_stage={row['stage']} micro_batch_rows=8": row["peak_gib"]
        for row in runs[0]["sections"]["zero"][1:]
    }
    for words, run in (
        ("hybrid_3b zero_stage=2 micro_batch_rows=4", runs[2]),
        ("hybrid_7b zero_stage=3 micro_batch_rows=4 model.recompute=full", runs[3]),
    ):
        assert words.split()[0] in run["command"]
        found[words] = max(row["peak_gib"] for row in run["sections"]["steps"])
    for words, gib in found.items():
        name, *rest = words.split()
        shared = ["n_gpus=2", "n_context=4096", "model.n_vocab=200064", "json=true"]
        assert main(["plan", f"preset={name}", *shared, *rest]) == 0
        assert json.loads(capsys.readouterr().out)["memory_gib"] == pytest.approx(gib, rel=0.1)


def test_seven_billion_parameters_at_stage_3_send_eight_bytes_a_parameter_past_each_gpu():
    config = PRESETS["hybrid_7b"]()
    result = plan(config, PlanConfig(n_gpus=16, zero_stage=3, latency_us=0, network_gb_per_s=100))
    (step,) = (s for s in result.growing_batch if s.n_gpus == 16)
    assert step.sending_s == pytest.approx(8 * result.n_parameters * 15 / 16 / 100e9)
    machinery_s = MACHINERY_S[3] * len(config.model.kinds())
    assert step.step_s == pytest.approx(step.computing_s + machinery_s + step.sending_s)


@given(
    name=st.sampled_from(sorted(PRESETS)),
    stage=st.integers(0, 3),
    n_gpus=st.integers(1, 2048),
    gb_per_s=st.floats(1, 1000),
    overlap=st.floats(0, 1),
)
def test_more_gpus_are_never_more_efficient_and_better_links_never_slower(
    name, stage, n_gpus, gb_per_s, overlap
):
    options = {"zero_stage": stage, "n_gpus": n_gpus, "network_gb_per_s": gb_per_s}
    steps = steps_of(name, **options, overlap=overlap)
    efficiencies = [step.efficiency for step in steps]
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert efficiencies[0] == 1
    for step, better in zip(steps, steps_of(name, **options, overlap=1.0), strict=True):
        assert better.step_s <= step.step_s
    faster = steps_of(name, **options | {"network_gb_per_s": 2 * gb_per_s}, overlap=overlap)
    assert all(new.step_s <= old.step_s for new, old in zip(faster, steps, strict=True))


@given(rows=st.integers(1, 600), micro_batch_rows=st.integers(1, 16), n_gpus=st.integers(1, 600))
def test_a_fixed_batch_is_divided_whole(rows, micro_batch_rows, n_gpus):
    found = divide_rows(rows, micro_batch_rows, n_gpus)
    fitting = [m for m in range(1, micro_batch_rows + 1) if rows % (m * n_gpus) == 0]
    assert found == max(fitting, default=0)
