import json
from dataclasses import replace

import pytest
import torch

from helix.config import ConfigError
from helix.training.checkpoint import CheckpointError
from helix.training.metrics import metrics_path, read_records
from helix.training.trainer import train
from tests.training.runs import losses_of, parameters_after, train_until, with_words

# Sums in another order: one rank or two, one micro-batch or four. Measured: 2e-7 relative.
SAME_CURVE = {"rel": 2e-6}


@pytest.mark.ranks
def test_ranks_and_accumulation_leave_the_loss_curve_alone(tiny_run, two_ranks):
    whole = losses_of(tiny_run(run_dir="whole"))
    accumulated = losses_of(tiny_run("training.micro_batch_rows=1", run_dir="accumulated"))
    split = tiny_run("training.micro_batch_rows=2", run_dir="split")
    split_accumulated = tiny_run("training.micro_batch_rows=1", run_dir="both")
    two = two_ranks.run(losses_of, split)[0]
    both = two_ranks.run(losses_of, split_accumulated)[0]
    assert len(whole) == 6
    assert accumulated == pytest.approx(whole, **SAME_CURVE)
    assert two == pytest.approx(whole, **SAME_CURVE)
    assert both == pytest.approx(whole, **SAME_CURVE)


@pytest.mark.ranks
@pytest.mark.parametrize("stage", ["zero1", "zero2", "zero3"])
def test_ranks_sum_their_gradients_to_that_of_the_whole_batch_in_bf16(tiny_run, two_ranks, stage):
    # norms, not losses: AdamW would hide a gradient that is twice as large
    words = ("training.precision=bf16", f"training.deepspeed={stage}")
    alone = norms_of(tiny_run(*words, run_dir="alone"))
    split = tiny_run(*words, "training.micro_batch_rows=2", run_dir="split")
    both = tiny_run(*words, "training.micro_batch_rows=1", run_dir="both")
    for config in (split, both):
        assert two_ranks.run(norms_of, config)[0] == pytest.approx(alone, rel=5e-2)


def norms_of(config):
    train(config)
    records = read_records(config.run_dir)
    return [r["train/gradient_norm"] for r in records if "train/gradient_norm" in r]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_run_is_bit_identical(tiny_run, precision):
    words = [f"training.precision={precision}"]
    whole = parameters_after(tiny_run(*words, run_dir="whole"))
    train_until(tiny_run(*words, run_dir="cut"), 2)
    resumed = parameters_after(tiny_run(*words, run_dir="cut"))
    assert whole.keys() == resumed.keys()
    for name, expected in whole.items():
        assert torch.equal(resumed[name], expected), name


@pytest.mark.ranks
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_run_is_bit_identical_on_two_ranks(tiny_run, two_ranks, precision):
    words = [f"training.precision={precision}", "training.micro_batch_rows=2"]
    whole = two_ranks.run(parameters_after, tiny_run(*words, run_dir="whole"))[0]
    two_ranks.run(train_until, tiny_run(*words, run_dir="cut"), 2)
    resumed = two_ranks.run(parameters_after, tiny_run(*words, run_dir="cut"))[0]
    for name, expected in whole.items():
        assert torch.equal(resumed[name], expected), name


@pytest.mark.ranks
@pytest.mark.parametrize(("saved_under", "loaded_under"), [("zero1", "zero3"), ("zero3", "zero2")])
def test_checkpoint_loads_under_another_stage_and_world_size(
    tiny_run, two_ranks, saved_under, loaded_under
):
    undisturbed = losses_of(tiny_run(run_dir="undisturbed"))
    saved = tiny_run(f"training.deepspeed={saved_under}", "training.micro_batch_rows=2")
    two_ranks.run(train_until, saved, 3)
    resumed = losses_of(with_words(saved, deepspeed=loaded_under, micro_batch_rows=4))
    assert resumed == pytest.approx(undisturbed, **SAME_CURVE)


@pytest.mark.ranks
def test_checkpoint_of_one_rank_loads_on_two_under_zero3(tiny_run, two_ranks):
    undisturbed = losses_of(tiny_run(run_dir="undisturbed"))
    saved = tiny_run()
    train_until(saved, 3)
    two = with_words(saved, deepspeed="zero3", micro_batch_rows=2)
    resumed = two_ranks.run(losses_of, two)[0]
    assert resumed == pytest.approx(undisturbed, **SAME_CURVE)


@pytest.mark.parametrize("stage", ["zero2", "zero3", "stage0"])
def test_every_stage_trains_the_same_model(tiny_run, tmp_path, stage):
    stage0 = tmp_path / "stage0.json"
    stage0.write_text('{"zero_optimization": {"stage": 0}}')
    name = str(stage0) if stage == "stage0" else stage
    expected = losses_of(tiny_run(run_dir="zero1"))
    found = losses_of(tiny_run(f"training.deepspeed={name}", run_dir="other"))
    assert found == pytest.approx(expected, **SAME_CURVE)


def test_gradient_norm_is_told_at_every_stage(tiny_run, tmp_path):
    stage0 = tmp_path / "stage0.json"
    stage0.write_text('{"zero_optimization": {"stage": 0}}')
    norms = []
    for name in ("zero1", str(stage0)):
        config = tiny_run(f"training.deepspeed={name}", run_dir=f"run{len(norms)}")
        train(config)
        records = read_records(config.run_dir)
        norms.append([r["train/gradient_norm"] for r in records if "train/gradient_norm" in r])
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_recomputation_changes_no_loss(tiny_run):
    kept = losses_of(tiny_run(run_dir="kept"))
    recomputed = losses_of(tiny_run("model.recompute=full", run_dir="recomputed"))
    assert recomputed == pytest.approx(kept, **SAME_CURVE)


def test_validation_does_not_disturb_training(tiny_run):
    rarely = losses_of(tiny_run(run_dir="rarely"))
    often = losses_of(tiny_run("training.validate_every_steps=1", run_dir="often"))
    assert often == rarely


def test_finished_run_is_left_as_it_is(tiny_run):
    config = tiny_run()
    train(config)
    before = metrics_path(config.run_dir).read_bytes()
    assert train(config) == 0
    assert metrics_path(config.run_dir).read_bytes() == before


def test_run_folder_of_another_config_is_refused_and_left_alone(tiny_run):
    config = tiny_run()
    train(config)
    saved = (metrics_path(config.run_dir).parent / "config.yaml").read_bytes()
    other = replace(config, model=replace(config.model, d_ffn=64))
    with pytest.raises(ConfigError, match=r"holds another run: model.d_ffn=64 here, 48 there"):
        train(other)
    assert (metrics_path(config.run_dir).parent / "config.yaml").read_bytes() == saved


def test_checkpoint_of_another_model_is_refused(tiny_run, tmp_path):
    train(tiny_run())
    other = tiny_run("model.d_ffn=64", run_dir="other")
    (tmp_path / "other").mkdir()
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "other" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"another model: .*mlp.* has shape"):
        train(other)


def test_vocabulary_that_does_not_match_the_tokenizer_is_refused(tiny_run):
    for n_vocab in (100, 1000):
        with pytest.raises(ConfigError, match=rf"model.n_vocab={n_vocab}: the tokenizer has 258"):
            train(tiny_run(f"model.n_vocab={n_vocab}"))
    assert train(tiny_run("model.n_vocab=384", "training.n_steps=2")) == 0


def test_run_without_a_folder_is_refused(tiny_run):
    with pytest.raises(ConfigError, match="run_dir=: say where"):
        train(replace(tiny_run(), run_dir=""))


def test_ranks_that_do_not_divide_the_batch_are_refused(tiny_run):
    with pytest.raises(ConfigError, match=r"micro_batch_rows=4 x 3 ranks"):
        tiny_run().training.n_accumulations(3)


def test_metrics_name_every_figure_with_its_unit(tiny_run):
    config = tiny_run()
    train(config)
    step = next(r for r in read_records(config.run_dir) if "train/bits_per_byte" in r)
    assert set(step) - {"speed/mfu"} == {  # told where the device's peak is known
        "step",
        "attempt",
        "tokens",
        "train/loss_nats_per_token",
        "train/bits_per_byte",
        "train/learning_rate",
        "train/gradient_norm",
        "train/is_step_applied",
        "speed/tokens_per_s",
        "speed/step_ms",
        "speed/data_wait_ms",
        "memory/peak_gib",
    }
    assert (step["step"], step["tokens"]) == (1, 4 * 32)


def test_effective_deepspeed_configuration_is_saved(tiny_run, tmp_path):
    train(tiny_run())
    settings = json.loads((tmp_path / "run" / "deepspeed.json").read_text())
    assert settings["train_batch_size"] == 4
    assert settings["gradient_clipping"] == 1.0
    assert settings["zero_optimization"]["stage"] == 1
