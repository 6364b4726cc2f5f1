import pytest
import torch

from helix.decoding import Decoder
from tests.models.cases import CASES, build, draw_tokens

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def logits_of(model, tokens, n_prompt, *, step):
    """Read a prompt, then a token of each row at a time; all but the prompt's own logits."""
    _, state = model.predict(tokens[:, :n_prompt])
    read = step(model, state)
    return [read(tokens[:, t : t + 1]).clone() for t in range(n_prompt, tokens.shape[1])], state


def plainly(model, state):
    def read(token):
        nonlocal state
        logits, state = model.predict(token, state)
        return logits

    return read


def by_decoder(model, state):
    return Decoder(model, state).read


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_decoder_reads_as_the_model_does_and_leaves_the_state_it_was_given(case):
    model, tokens = build(case), draw_tokens(20, n_rows=3)
    expected, _ = logits_of(model, tokens, 5, step=plainly)
    actual, given = logits_of(model, tokens, 5, step=by_decoder)
    _, state = model.predict(tokens[:, :5])
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
    for layer, fresh in zip(given, state, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(layer, fresh, strict=True))


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_recorded_step_is_the_step_to_the_bit(case, dtype):
    model, tokens = build(case).to("cuda", dtype), draw_tokens(300, n_rows=3).cuda()
    expected, _ = logits_of(model, tokens, 270, step=plainly)
    _, state = model.predict(tokens[:, :270])
    before = [x.clone() for layer in state for x in layer]
    decoder = Decoder(model, state)
    actual = [decoder.read(tokens[:, t : t + 1]).clone() for t in range(270, 300)]
    assert (decoder.recording is not None) == decoder.is_steady
    assert decoder.is_steady != ("attention" in CASES[case].kinds())
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
    given = [x for layer in state for x in layer]
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
