"""Decoding: reading a prompt piece by piece, then one token at a time from its state."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from evals.throughput.bench import Bench, Case, Row, Section
from helix.decoding import Decoder
from helix.generate import read_on
from helix.models.base import LanguageModel

GPU_CONTEXTS = [1024, 32_768, 131_072]
N_DECODED = 16


def write(decoder: Decoder, logits: Tensor) -> None:
    """Go on by some tokens, each the likeliest."""
    for _ in range(N_DECODED):
        logits = decoder.read(logits.argmax(dim=-1, keepdim=True))


def decode_cases(bench: Bench) -> Iterator[Case]:
    """Time each length of prompt."""
    model = bench.model(bench.run.model).eval()
    for n_context in bench.contexts(on_gpu=GPU_CONTEXTS):
        yield Case({"n_context": n_context}, partial(decode_row, bench, model, n_context))


@torch.no_grad()
def decode_row(bench: Bench, model: LanguageModel, n_context: int) -> Row:
    """Time reading one prompt and writing after it."""
    prompt = bench.batch(1, n_context).tokens
    piece_tokens = bench.options.prefill_tokens or n_context
    reading = partial(read_on, model, prompt, piece_tokens=piece_tokens)
    read = bench.timing(reading)
    logits, state = reading()
    written = bench.timing(partial(write, Decoder(model, state), logits))
    return {
        "pieces": -(-n_context // piece_tokens),
        "prefill_tokens_per_s": 1e3 * n_context / read.ms,
        "prefill_peak_gib": read.peak_gib,
        "decode_tokens_per_s": 1e3 * N_DECODED / written.ms,
        "ms_per_token": written.ms / N_DECODED,
        "state_bytes": sum(x.nbytes for layer in state for x in layer),
    }


DECODE = Section(
    decode_cases,
    note="one sequence; prompts are read in pieces of prefill_tokens, the state handed over",
)
