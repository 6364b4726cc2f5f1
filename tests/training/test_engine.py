"""What is asked of DeepSpeed: no number twice, no setting left for it to change."""

import importlib.resources
import json
from dataclasses import replace

import pytest
import torch

from helix import distributed
from helix.batch import Batch
from helix.config import ConfigError, RunConfig
from helix.mixers import MIXERS
from helix.models import build_model
from helix.models.stack import Block
from helix.training.ds_settings import OWNED_BY_RUN, compose_ds_config, read_ds_config
from helix.training.engine import Applied, Engine, join_ranks
from helix.training.optimizer import TIME_SCALES
from tests.training.runs import digest_shares, with_words

SHIPPED = sorted(
    file.name.removesuffix(".json")
    for file in importlib.resources.files("ds_configs").iterdir()
    if file.name.endswith(".json")
)


def test_the_files_that_the_documentation_names_are_shipped():
    assert SHIPPED == ["cpu", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"]


@pytest.mark.parametrize("settings", [{}, {"zero_optimization": {"stage": 0}}])
def test_bf16_without_a_zero_stage_is_refused(tiny_run, tmp_path, settings):
    file = tmp_path / "stage0.json"
    file.write_text(json.dumps(settings))
    config = with_words(tiny_run(), deepspeed=str(file))
    assert compose_ds_config(config, 1)["bf16"]["enabled"] is False
    with pytest.raises(ConfigError, match=r"training.precision=bf16 .*stage 0.*use zero1"):
        compose_ds_config(with_words(config, precision="bf16"), 1)


@pytest.mark.parametrize("key", OWNED_BY_RUN)
def test_number_that_lives_in_the_run_is_refused_in_the_file(tiny_run, tmp_path, key):
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 1}, key: 1}))
    config = with_words(tiny_run(), deepspeed=str(file))
    with pytest.raises(ConfigError, match=rf"sets {key}, which {OWNED_BY_RUN[key]} decides"):
        compose_ds_config(config, 1)


def test_gradients_are_sent_in_fp32_unless_the_file_says_bf16_of_a_bf16_run(tiny_run, tmp_path):
    file = tmp_path / "own.json"
    file.write_text(
        json.dumps({"zero_optimization": {"stage": 2}, "communication_data_type": "bf16"})
    )
    config = with_words(tiny_run("training.precision=bf16"), deepspeed=str(file))
    assert compose_ds_config(config, 1)["communication_data_type"] == "bf16"
    shipped = with_words(config, deepspeed="zero2")
    assert compose_ds_config(shipped, 1)["communication_data_type"] == "fp32"
    with pytest.raises(ConfigError, match=r"own.json: communication_data_type=bf16: .*fp32$"):
        compose_ds_config(with_words(config, precision="fp32"), 1)


def test_key_that_deepspeed_would_pass_over_is_refused(tiny_run, tmp_path):
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"zero_optimisation": {"stage": 3}}))
    with pytest.raises(ConfigError, match=r"zero_optimisation .*did you mean zero_optimization\?"):
        compose_ds_config(with_words(tiny_run(), deepspeed=str(file)), 1)


@pytest.mark.parametrize(
    ("zero", "told"),
    [
        ({"overlap_com": True}, r"overlap_com: no such setting; did you mean overlap_comm\?"),
        ({"stage": 5}, r"stage=5: give 0, 1, 2 or 3"),
        ({"stage": "auto"}, r"stage='auto': give 0, 1, 2 or 3"),
        ({"stage": 1, "offload_optimizer": {"device": "gpu"}}, r"offload_optimizer.device: .*cpu"),
    ],
)
def test_word_that_deepspeed_would_stumble_over_is_refused(tiny_run, tmp_path, zero, told):
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"zero_optimization": zero}))
    with pytest.raises(ConfigError, match=rf"own.json: zero_optimization.{told}"):
        compose_ds_config(with_words(tiny_run(), deepspeed=str(file)), 1)


def test_file_that_is_not_there_is_refused_with_the_nearest_name(tiny_run):
    with pytest.raises(ConfigError, match=r"deepspeed=zero33: neither .*; did you mean zero3\?"):
        compose_ds_config(with_words(tiny_run(), deepspeed="zero33"), 1)


@pytest.mark.parametrize("text", ["{", "", "\xff", "[]", '{"zero_optimization": 1}'])
def test_file_that_is_not_settings_is_refused(tiny_run, tmp_path, text):
    file = tmp_path / "own.json"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"training.deepspeed=.*own.json: "):
        compose_ds_config(with_words(tiny_run(), deepspeed=str(file)), 1)


def test_accumulation_follows_from_the_rows_and_the_ranks(tiny_run):
    config = with_words(tiny_run(), batch_rows=12, micro_batch_rows=2)
    settings = compose_ds_config(config, 3)
    assert settings["gradient_accumulation_steps"] == 2
    with pytest.raises(ConfigError, match=r"micro_batch_rows=2 x 5 ranks"):
        compose_ds_config(config, 5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", SHIPPED)
def test_deepspeed_takes_each_shipped_file_as_it_is_meant(tiny_run, name, precision):
    join_ranks()  # the parser asks for the number of ranks
    from deepspeed.runtime.config import DeepSpeedConfig

    config = tiny_run(f"training.deepspeed={name}", f"training.precision={precision}")
    config = replace(config, training=replace(config.training, micro_batch_rows=2, clip_norm=0.7))
    settings = compose_ds_config(config, 1)
    parsed = DeepSpeedConfig(settings)
    rows = (parsed.train_batch_size, parsed.train_micro_batch_size_per_gpu)
    assert (*rows, parsed.gradient_accumulation_steps) == (4, 2, 2)
    assert parsed.gradient_clipping == 0.7
    assert parsed.bfloat16_config.enabled == (precision == "bf16")
    assert parsed.bfloat16_config.check_grad_overflow
    assert not parsed.float16_config.enabled
    assert parsed.grad_accum_dtype == "fp32"  # it would be that of the model
    assert str(parsed.communication_data_type).endswith("float32")  # likewise
    assert not parsed.prescale_gradients
    assert parsed.gradient_predivide_factor == 1.0
    assert parsed.optimizer_name is None
    assert parsed.scheduler_name is None
    zero = json.loads(parsed.zero_config.model_dump_json(by_alias=True))
    for key, value in settings["zero_optimization"].items():
        found = {k: zero[key][k] for k in value} if isinstance(value, dict) else zero[key]
        assert found == value, key


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"])
def test_micro_batches_add_up_to_the_gradient_of_the_batch(tiny_run, name, precision):
    def norms_of(micro_batch_rows: int) -> list[float]:
        words = (f"training.deepspeed={name}", f"training.precision={precision}")
        config = with_words(tiny_run(*words), micro_batch_rows=micro_batch_rows)
        return [applied.gradient_norm for applied in steps_of(config, n_steps=2)]

    bound = {"fp32": 1e-5, "bf16": 5e-2}[precision]  # the first step of AdamW magnifies rounding
    assert norms_of(1) == pytest.approx(norms_of(4), rel=bound)


@pytest.mark.parametrize("kind", MIXERS)
@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3"])
def test_steps_are_the_same_to_the_bit_however_activations_come_back(tiny_run, name, kind):
    """DeepSpeed's own linear map of stage 3 changed what selective recomputation had kept."""

    def norms_of(recompute: str) -> list[float]:
        words = (f"training.deepspeed={name}", f"model.pattern={kind}*2")
        config = tiny_run(*words, f"model.recompute={recompute}")
        return [applied.gradient_norm for applied in steps_of(config, n_steps=3)]

    expected = norms_of("none")
    assert norms_of("selective") == expected
    assert norms_of("full") == expected


@pytest.mark.parametrize("name", ["zero3", "zero3_offload"])
def test_stage_3_gathers_blocks_whole(name):
    """Hooks on each matrix and norm are what stage 3 costs beside what it sends."""
    (path,) = read_ds_config(name)["zero_optimization"]["leaf_module"]["classes"]
    assert path == f"{Block.__module__}.{Block.__qualname__}"


@pytest.mark.parametrize("name", ["zero1", "zero2"])
def test_time_scales_stay_in_fp32_in_a_bf16_run(tiny_run, name):
    config = tiny_run(f"training.deepspeed={name}", "training.precision=bf16")
    join_ranks()
    engine = Engine(build_model(config.model, seed=0, device="cpu"), config)
    dtypes = {n.rpartition(".")[2]: p.dtype for n, p in engine.parameters.items()}
    assert {dtypes.pop(leaf) for leaf in TIME_SCALES} == {torch.float32}
    assert set(dtypes.values()) == {torch.bfloat16}


def steps_of(config: RunConfig, *, n_steps: int) -> list[Applied]:
    """Take steps with an engine of their own."""
    join_ranks()
    engine = Engine(build_model(config.model, seed=0, device="cpu"), config)
    taken = take_steps(engine, config, n_steps=n_steps)
    engine.release()
    return taken


def take_steps(engine: Engine, config: RunConfig, *, n_steps: int) -> list[Applied]:
    """Take steps on four rows of random tokens, of which each rank has its share."""
    generator = torch.Generator().manual_seed(0)
    shape = 4, config.data.n_context + 1
    ids = torch.randint(config.model.n_vocab, shape, generator=generator)
    documents = torch.zeros(4, config.data.n_context, dtype=torch.int64)
    batch = Batch(tokens=ids[:, :-1], targets=ids[:, 1:], document_ids=documents)
    n_rows = 4 // distributed.world_size()
    first, taken = n_rows * distributed.rank(), []
    for _ in range(n_steps):
        for start in range(first, first + n_rows, config.training.micro_batch_rows):
            rows = batch.rows(start, start + config.training.micro_batch_rows)
            engine.accumulate(rows.to(engine.device), n_targets=batch.n_targets)
        taken.append(engine.apply(1e-3))
    return taken


@pytest.mark.ranks
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_an_engine_is_the_same_whether_its_model_was_ever_whole(
    tiny_run, two_ranks, name, precision
):
    config = tiny_run(f"training.deepspeed={name}", f"training.precision={precision}")
    config = with_words(config, micro_batch_rows=2)
    whole, shared = (two_ranks.run(digest_shares, config, is_whole) for is_whole in (True, False))
    assert whole == shared
    assert whole[0].keys() != whole[1].keys()


# Sizes that two ranks do not share evenly: what fills their partitions up must not count.
ODD = (
    "model.n_vocab=259",
    "model.d_model=33",
    "model.d_ffn=47",
    "model.mamba2={d_state: 7, d_head: 11, chunk_tokens: 16, expand: 1}",
    "model.gla={n_heads: 1, key_ratio: 1.0, decay_rank: 3, chunk_tokens: 16}",
    "model.sparse={n_heads: 1, d_head: 6, window_tokens: 16, n_global: 2}",
)


@pytest.mark.ranks
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_stages_judge_one_norm_of_gradients(tiny_run, two_ranks, precision):
    norms = {}
    for name in ("zero1", "zero2", "zero3"):
        config = tiny_run(*ODD, f"training.deepspeed={name}", f"training.precision={precision}")
        ours, theirs = two_ranks.run(norms_of, with_words(config, micro_batch_rows=1))
        assert ours == theirs
        norms[name] = ours
    bound = {"fp32": 1e-5, "bf16": 5e-3}[precision]
    assert norms["zero2"] == pytest.approx(norms["zero1"], rel=bound)
    assert norms["zero3"] == pytest.approx(norms["zero1"], rel=bound)


def norms_of(config: RunConfig) -> list[float]:
    return [applied.gradient_norm for applied in steps_of(config, n_steps=3)]
