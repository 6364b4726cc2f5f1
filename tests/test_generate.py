import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helix import generate as sampling
from helix import kernels
from helix.cli import main
from helix.config import ConfigError, save
from helix.generate import GenerateConfig, draw_tokens, generate_text, load_run, sample_ids

NO_TOKEN = -1  # an eos that is never drawn


def draw(logits, options, generator):
    return draw_tokens(logits[None], options, [generator])[0]


@pytest.fixture(scope="module")
def loaded(trained_run):
    return load_run(trained_run.run_dir)


def ids_of(loaded, prompt="the river", *, eos_id=NO_TOKEN, **options):
    prompt_ids = [loaded.tokenizer.bos_id, *loaded.tokenizer.encode(prompt)]
    config = GenerateConfig(**{"n_tokens": 24} | options)
    return list(sample_ids(loaded.model, prompt_ids, config, eos_id=eos_id))


def state_bytes_while_sampling(loaded, monkeypatch, **options):
    """Note the bytes of the state after each call of predict."""
    noted, predict = [], loaded.model.predict

    def noting(tokens, state):
        logits, state = predict(tokens, state)
        noted.append(sum(x.nbytes for layer in state for x in layer))
        return logits, state

    with monkeypatch.context() as patch:
        patch.setattr(loaded.model, "predict", noting)
        ids_of(loaded, **options)
    return noted


def test_a_seed_fixes_the_text_and_another_changes_it(loaded):
    first = ids_of(loaded, temperature=1.0, seed=3)
    assert ids_of(loaded, temperature=1.0, seed=3) == first
    assert ids_of(loaded, temperature=1.0, seed=4) != first


def test_global_seed_plays_no_part(loaded):
    first = ids_of(loaded, temperature=1.0)
    torch.manual_seed(99)
    assert ids_of(loaded, temperature=1.0) == first


def test_temperature_zero_takes_the_likeliest_as_predicted_from_scratch(loaded):
    prompt = "über die"
    ids = [loaded.tokenizer.bos_id, *loaded.tokenizer.encode(prompt)]
    n_prompt = len(ids)
    with torch.no_grad():
        for _ in range(24):
            logits, _ = loaded.model.predict(torch.tensor([ids]))
            ids.append(int(logits.argmax()))
    assert ids_of(loaded, prompt, temperature=0) == ids[n_prompt:]


@given(
    logits=st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=30),
    temperature=st.floats(1e-300, 1e300) | st.sampled_from([5e-324, 0.1, 1.0]),
    top_p=st.floats(0, 1, exclude_min=True),
    seed=st.integers(0, 5),
)
def test_draw_stays_in_the_nucleus(logits, temperature, top_p, seed):
    options = GenerateConfig(temperature=temperature, top_p=top_p)
    generator = torch.Generator().manual_seed(seed)
    token = draw(torch.tensor(logits), options, generator)
    scaled = (torch.tensor(logits, dtype=torch.float64) - max(logits)) / temperature
    shares = scaled.softmax(0)
    likelier = shares[shares > shares[token]].sum()
    assert shares[token] > 0
    assert likelier < top_p + 1e-9


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=11, unique=True))
def test_small_nucleus_holds_the_likeliest_alone(logits):
    likeliest = torch.tensor(logits, dtype=torch.float64).softmax(0).max()
    options = GenerateConfig(temperature=1.0, top_p=float(likeliest) * 0.999)
    generator = torch.Generator().manual_seed(0)
    drawn = {draw(torch.tensor(logits, dtype=torch.float32), options, generator) for _ in range(9)}
    assert drawn == {logits.index(max(logits))}


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.95, 0.999, 1.0])
def test_draws_of_a_large_vocabulary_are_those_of_the_row_alone_and_of_its_nucleus(top_p):
    generator = torch.Generator().manual_seed(0)
    spreads = torch.tensor([0.0, 0.1, 1.0, 4.0, 30.0])[:, None]
    logits = torch.randn(5, 20_000, generator=generator) * spreads
    options = GenerateConfig(temperature=0.7, top_p=top_p)
    shares = (logits.double() / 0.7).softmax(dim=-1)
    for seed in range(20):
        own = [torch.Generator().manual_seed(seed + row) for row in range(5)]
        tokens = draw_tokens(logits, options, own)
        for row, token in enumerate(tokens):
            assert shares[row][shares[row] > shares[row, token]].sum() < top_p
            assert token == draw(logits[row], options, torch.Generator().manual_seed(seed + row))


def test_a_nucleus_is_drawn_from_by_the_shares_in_it():
    logits = torch.tensor([0.05, 0.4, 0.1, 0.3, 0.15]).log()
    generator = torch.Generator().manual_seed(0)
    options = GenerateConfig(temperature=1.0, top_p=0.6)
    counts = torch.bincount(torch.tensor([draw(logits, options, generator) for _ in range(4000)]))
    assert (counts / 4000).tolist() == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=0.03)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_no_number_takes_the_place_of_the_first_one_that_is_none(temperature):
    logits = torch.tensor([[0.0, 1.0, torch.nan, torch.nan], [0.0, 90.0, 0.0, 0.0]])
    generators = [torch.Generator().manual_seed(0) for _ in logits]
    assert draw_tokens(logits, GenerateConfig(temperature=temperature), generators) == [2, 1]


def test_draws_follow_the_shares():
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    generator = torch.Generator().manual_seed(0)
    options = GenerateConfig(temperature=1.0, top_p=1.0)
    counts = torch.bincount(torch.tensor([draw(logits, options, generator) for _ in range(3000)]))
    assert (counts / 3000).tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.04)


def test_sampling_stops_before_the_end_of_the_document(loaded):
    whole = ids_of(loaded, temperature=1.0, top_p=1.0)
    end = whole[10]
    assert ids_of(loaded, temperature=1.0, top_p=1.0, eos_id=end) == whole[: whole.index(end)]


def test_sampling_ends_after_as_many_tokens_as_asked_for(loaded):
    whole = ids_of(loaded, n_tokens=24)
    assert len(whole) == 24
    assert ids_of(loaded, n_tokens=1) == whole[:1]


@pytest.mark.parametrize("prompt", ["", "the river", "Brücke über Öl", "🧬\n🧬", "a\x00b"])
def test_streamed_pieces_are_the_decoded_ids(loaded, prompt):
    tokenizer = loaded.tokenizer
    options = GenerateConfig(prompt=prompt, temperature=1.0, top_p=1.0, n_tokens=40)
    pieces = list(generate_text(loaded, options))
    ids = ids_of(loaded, prompt, temperature=1.0, top_p=1.0, n_tokens=40, eos_id=tokenizer.eos_id)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert all(pieces)


@pytest.mark.parametrize("piece_tokens", [1, 7, 64])
def test_long_prompt_read_in_pieces_gives_the_same(loaded, monkeypatch, piece_tokens):
    prompt = "the river flows slowly over the green fields and the bridge " * 3
    whole = ids_of(loaded, prompt, temperature=0)
    monkeypatch.setattr(sampling, "PREFILL_TOKENS", piece_tokens)
    assert ids_of(loaded, prompt, temperature=0) == whole


def test_memory_grows_neither_with_the_prompt_nor_with_the_text(loaded, monkeypatch):
    monkeypatch.setattr(sampling, "PREFILL_TOKENS", 16)
    noted = state_bytes_while_sampling(loaded, monkeypatch, prompt="river " * 30, n_tokens=60)
    assert len(noted) > 60
    assert len(set(noted)) == 1


def test_sampling_keeps_no_gradients(loaded):
    prompt_ids = [loaded.tokenizer.bos_id]
    ids = sample_ids(loaded.model, prompt_ids, GenerateConfig(n_tokens=3), eos_id=NO_TOKEN)
    next(ids)
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in loaded.model.parameters())


def test_loaded_weights_are_those_of_the_newest_checkpoint(loaded, trained_run):
    from helix.training import checkpoint

    path = checkpoint.newest(trained_run.run_dir)
    assert path.name == "step-00000020"
    reader = checkpoint.TensorReader(path)
    for name, parameter in loaded.model.named_parameters():
        assert torch.equal(parameter, reader.read(name, parameter.shape))


def test_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no run \(no config.yaml\); train one there"):
        load_run(tmp_path)


def test_run_without_a_checkpoint_is_refused(trained_run, tmp_path):
    shutil.copy(Path(trained_run.run_dir) / "config.yaml", tmp_path)
    with pytest.raises(ConfigError, match="has no checkpoint yet; train it first"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature=-0.1: give 0 or more"),
        ({"temperature": float("nan")}, "temperature=nan: give 0 or more"),
        ({"top_p": 0.0}, r"top_p=0.0: give a value in \(0, 1]"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"n_tokens": 0}, "n_tokens=0: give at least 1"),
        ({"seed": 10**20}, f"seed={10**20}: give a number from 0"),
    ],
)
def test_option_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GenerateConfig(**options)


@pytest.mark.parametrize("prompt", ["Die Brücke: ${was} #1", "🧬", ""])
def test_command_prints_the_prompt_and_its_continuation(trained_run, loaded, capsys, prompt):
    words = [f"run_dir={trained_run.run_dir}", f"prompt={prompt}", "n_tokens=12", "seed=5"]
    assert main(["generate", *words]) == 0
    options = GenerateConfig(prompt=prompt, n_tokens=12, seed=5)
    continuation = "".join(generate_text(loaded, options))
    assert capsys.readouterr().out == f"{prompt}{continuation}\n"


def test_prompt_that_is_not_utf_8_is_refused_as_such(trained_run, capsys):
    prompt = b"ab\xff".decode(errors="surrogateescape")  # as Python reads a command line
    assert main(["generate", f"run_dir={trained_run.run_dir}", f"prompt={prompt}"]) == 2
    assert "character 2 of the text, U+DCFF, " in (told := capsys.readouterr().err)
    assert "a byte that is not UTF-8" in told


def test_run_of_a_backend_that_is_not_here_is_sampled_and_exported(
    trained_run, tmp_path, monkeypatch, capsys
):
    rows = {"fla": "helix.kernels.no_such:f", "reference": "helix.kernels.gla:gla_chunked"}
    monkeypatch.setitem(kernels.BACKENDS, "gla", rows)
    run_dir = shutil.copytree(trained_run.run_dir, tmp_path / "run")
    model = replace(trained_run.model, gla=replace(trained_run.model.gla, backend="fla"))
    save(replace(trained_run, model=model), run_dir / "config.yaml")
    words = ["generate", f"run_dir={run_dir}", "n_tokens=3"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("helix: model.gla.backend=fla: not available here (No module named")
    assert told.count("\n") == 1
    assert main([*words, "backends=reference"]) == 0
    assert main(["export", "consolidated", f"run_dir={run_dir}", f"out={tmp_path / 'out'}"]) == 0


def test_command_tells_in_one_line_what_to_mend(tmp_path, capsys):
    assert main(["generate", f"run_dir={tmp_path}"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"helix: run_dir={tmp_path}: holds no run")
    assert printed.err.count("\n") == 1
