"""Decoding: reading a prompt piece by piece, then one token at a time from its state."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from evals.throughput.bench import Bench, Case, Row, Section
from helix.decoding import Decoder
from helix.models.base import LanguageModel, ModelState

GPU_CONTEXTS = [1024, 32_768, 131_072]
N_DECODED = 16


@dataclass
class Reader:
    """A model that reads a prompt and goes on by itself.

    Attributes:
        n_at_once: Tokens read at a time, with the state handed over; 0 reads all in one piece.
    """

    model: LanguageModel
    prompt: Tensor
    n_at_once: int

    def read(self) -> tuple[Tensor, ModelState]:
        """Read the prompt; give the next token's logits and the state."""
        first, *rest = self.prompt.split(self.n_at_once or self.prompt.shape[1], dim=1)
        logits, state = self.model.predict(first)
        for piece in rest:
            logits, state = self.model.predict(piece, state)
        return logits, state

    def write(self, decoder: Decoder, logits: Tensor) -> None:
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
    reader = Reader(model, prompt, bench.options.prefill_tokens)
    read = bench.timing(reader.read)
    logits, state = reader.read()
    decoder = Decoder(model, state)
    write = bench.timing(partial(reader.write, decoder, logits))
    return {
        "pieces": -(-n_context // (reader.n_at_once or n_context)),
        "prefill_tokens_per_s": 1e3 * n_context / read.ms,
        "prefill_peak_gib": read.peak_gib,
        "decode_tokens_per_s": 1e3 * N_DECODED / write.ms,
        "ms_per_token": write.ms / N_DECODED,
        "state_bytes": sum(x.nbytes for layer in state for x in layer),
    }


DECODE = Section(
    decode_cases,
    note="one sequence; prompts are read in pieces of prefill_tokens, the state handed over",
)
