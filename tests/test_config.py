import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from helix import config as configs
from helix.config import ConfigError, RunConfig, load
from helix.presets import PRESETS


def test_words_override_the_file_which_overrides_the_preset(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("preset: hybrid_tiny\ntraining: {n_steps: 65, batch_rows: 16}\n")
    run = load([f"config={file}", "training.n_steps=70"], PRESETS)
    assert (run.training.n_steps, run.training.batch_rows) == (70, 16)
    assert run.model == PRESETS["hybrid_tiny"]().model


@pytest.mark.parametrize("name", PRESETS)
def test_saved_run_reloads_equal(name, tmp_path):
    run = PRESETS[name]()
    configs.save(run, tmp_path / "config.yaml")
    assert load([f"config={tmp_path / 'config.yaml'}"], PRESETS) == run
    assert configs.load_file(tmp_path / "config.yaml", RunConfig()) == run


@given(
    n_steps=st.integers(60, 10**7),
    rate=st.floats(1e-8, 1.0),
    weights=st.dictionaries(st.sampled_from(["de", "en", "code"]), st.floats(0.1, 10)),
    wandb=st.sampled_from(["disabled", "online", "offline"]),
)
def test_config_to_yaml_to_config_is_identity(tmp_path_factory, n_steps, rate, weights, wandb):
    words = [f"training.n_steps={n_steps}", f"optimizer.learning_rate={rate!r}"]
    words += [f"data.weights.{k}={v!r}" for k, v in weights.items()] + [f"metrics.wandb={wandb}"]
    run = load(words, PRESETS)
    file = tmp_path_factory.mktemp("yaml") / "config.yaml"
    configs.save(run, file)
    assert load([f"config={file}"], PRESETS) == run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["preset=hybrid_tinny"], "preset=hybrid_tinny: no such preset; did you mean hybrid_tiny"),
        (["training.n_stepz=3"], "training.n_stepz: no such setting; did you mean n_steps"),
        (["trainning.n_steps=3"], "trainning: no such setting; did you mean training"),
        (["training.n_steps=many"], "training.n_steps"),
        (["data.weights={de:0.55,en:0.45}"], "YAML wants a space after each colon"),
        (["training.precision=fp8"], "training.precision"),
        (["training.n_steps=0"], "training.n_steps=0: give at least 1"),
        (["training.batch_rows=7", "training.micro_batch_rows=2"], "training.micro_batch_rows=2"),
        (["model.pattern=mamba2*2 glaa"], "'glaa' is not a mixer"),
        (["model.pattern=mamba2*0"], "'mamba2*0' is not a mixer"),
        (["model.pattern="], "give at least one mixer"),
        (["data.n_context=100"], "data.n_context=100: must be a multiple of mamba2.chunk_tokens"),
        (["schedule.n_warmup_steps=9999"], "more than training.n_steps"),
        (["schedule.n_decay_steps=5"], "has no effect with schedule.shape=cosine"),
        (["n_steps"], "write settings as key=value"),
        (["seed=1", "seed=2"], "given twice"),
        (["config=/nowhere.yaml"], "no such file"),
        (["seed=[1"], "seed="),
        ([f"seed={2**63}"], f"seed={2**63}: give a number from 0"),
        (["data.weights=[0.5, 0.5]"], "data.weights=[0.5, 0.5]: give values by name"),
        (["optimizer.learning_rate=nan"], "optimizer.learning_rate=nan"),
        (["optimizer.weight_decay=nan"], "optimizer.weight_decay=nan: give 0 or more"),
        (["training.clip_norm=nan"], "training.clip_norm=nan: give 0 or more"),
    ],
)
def test_mistake_is_named_with_its_path_and_a_way_out(words, message):
    with pytest.raises(ConfigError) as caught:
        load(words, PRESETS)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["Wasser: ", "1", "null", "a: [b", "${x}", " - ", "a=b", "#x"])
def test_text_is_taken_as_it_stands(text):
    from helix.generate import GenerateConfig

    assert configs.load_options(GenerateConfig, [f"prompt={text}"]).prompt == text
    assert load([f"data.path={text}"], PRESETS).data.path == text


@given(st.text(r"\${}:ab.", max_size=12))
def test_no_text_is_searched_for_what_could_be_put_in_its_place(tmp_path_factory, text):
    try:
        run = load([f"data.path={text}"], PRESETS)
    except ConfigError:
        assume("${" not in text)  # OmegaConf itself cannot keep one that is not closed
        raise
    assert run.data.path == text
    file = tmp_path_factory.mktemp("text") / "config.yaml"
    configs.save(run, file)
    assert load([f"config={file}"], PRESETS) == run


def test_file_from_elsewhere_cannot_read_our_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "s3cr3t")
    file = tmp_path / "run.yaml"
    file.write_text(
        "data: {path: 'http://x/${oc.env:SECRET}', weights: {\"\\x24{oc.env:SECRET}\": 1}}"
    )
    run = load([f"config={file}"], PRESETS)
    assert run.data.path == "http://x/${oc.env:SECRET}"
    assert "s3cr3t" not in str(run)
    file.write_text("preset: ${oc.env:SECRET}")
    with pytest.raises(ConfigError, match=r"preset=\$\{oc.env:SECRET\}: no such preset"):
        load([f"config={file}"], PRESETS)


def test_mapping_that_is_given_whole_takes_the_place_of_the_files(tmp_path):
    file = tmp_path / "run.yaml"
    configs.save(load(["data.weights={de: 0.5, en: 0.5}"], PRESETS), file)
    assert load([f"config={file}", "data.weights={de: 1}"], PRESETS).data.weights == {"de": 1}
    one = load([f"config={file}", "data.weights.de=1"], PRESETS)
    assert one.data.weights == {"de": 1, "en": 0.5}


def test_file_that_is_not_yaml_is_refused(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("a: [1\nb: {")
    with pytest.raises(ConfigError, match="not YAML"):
        load([f"config={file}"], PRESETS)
    file.write_text("- 1\n- 2\n")
    with pytest.raises(ConfigError, match="found a list"):
        load([f"config={file}"], PRESETS)


def test_first_difference_overlooks_what_may_change():
    run = load([], PRESETS)
    same = load(["training.deepspeed=zero2", "run_dir=elsewhere", "metrics.wandb=offline"], PRESETS)
    other = load(["model.d_ffn=640"], PRESETS)
    assert configs.first_difference(run, same) is None
    assert configs.first_difference(run, other) == "model.d_ffn=384 here, 640 there"
