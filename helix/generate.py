"""Sampling: prefill, then one token at a time from the carried state; one path for all families.

Dims: B rows (one here), V vocabulary.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from helix.config import RunConfig, read_saved
from helix.distributed import local_device
from helix.models import build_on_meta
from helix.models.base import LanguageModel, ModelState
from helix.presets import PRESETS
from helix.tokenizer import Tokenizer, load_tokenizer
from helix.training import checkpoint

FEW = 256  # likeliest tokens, which make up top_p where a model has learnt something
PREFILL_TOKENS = 4096  # a prompt is read in pieces of this, so that memory does not grow with it


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Options of `helix generate`.

    Attributes:
        run_dir: Folder of a run.
        prompt: Text to go on from; empty begins a document.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_p: Share of probability that may be drawn from, likeliest first.
        seed: Of the draws.
        n_tokens: Length at most; a document may end sooner.
    """

    run_dir: str = ""
    prompt: str = ""
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0
    n_tokens: int = 200

    def __post_init__(self) -> None:
        if not self.temperature >= 0:  # nor is NaN
            raise ValueError(f"temperature={self.temperature}: give 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: give a value in (0, 1]")
        if self.n_tokens < 1:
            raise ValueError(f"n_tokens={self.n_tokens}: give at least 1")


@dataclass(frozen=True)
class Loaded:
    """A trained model with its tokenizer and the config that made it."""

    model: LanguageModel
    tokenizer: Tokenizer
    config: RunConfig


def load_run(run_dir: str | Path) -> Loaded:
    """Load the newest intact checkpoint of a run for inference, in float32.

    Raises:
        ConfigError: The folder holds no run, or no checkpoint yet.
        CheckpointError: No checkpoint is intact, or it is of another model.
    """
    config = read_saved(run_dir, PRESETS)
    return load_model(config, checkpoint.find_intact(run_dir))


def load_model(config: RunConfig, path: Path) -> Loaded:
    """Load a checkpoint for inference, in float32.

    Raises:
        CheckpointError: It is of another model.
    """
    model = build_on_meta(config.model).to_empty(device=local_device())
    model.tie_weights()
    checkpoint.read_weights(path, model)
    return Loaded(model.eval(), load_tokenizer(config.tokenizer), config)


@torch.no_grad()
def sample_ids(
    model: LanguageModel, prompt_ids: list[int], options: GenerateConfig, *, eos_id: int
) -> Iterator[int]:
    """Draw token ids one at a time until the document ends or `n_tokens` are drawn.

    Args:
        prompt_ids: Ids of the prompt, beginning with that of a document's start.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(options.seed)
    logits, state = read_on(model, torch.tensor([prompt_ids], device=device))
    for _ in range(options.n_tokens):
        token = find_nuclei(logits, options)[0].draw(generator)
        if token == eos_id:
            return
        yield token
        logits, state = model.predict(torch.tensor([[token]], device=device), state)


@torch.no_grad()
def read_on(
    model: LanguageModel,
    tokens: Int64[Tensor, "B T"],
    state: ModelState | None = None,
    *,
    piece_tokens: int = PREFILL_TOKENS,
) -> tuple[Float[Tensor, "B V"], ModelState]:
    """Read tokens piece by piece; give the next token's logits and the state after them."""
    logits = None
    for piece in tokens.split(piece_tokens, dim=1):
        logits, state = model.predict(piece, state)
    assert logits is not None, "a prompt has at least the start of the document"
    assert state is not None
    return logits, state


class Nucleus(NamedTuple):
    """The tokens that one is drawn from, the likeliest first, and their shares; on the CPU."""

    tokens: Int64[Tensor, " N"]
    shares: Float64[Tensor, " N"]

    def draw(self, generator: torch.Generator) -> int:
        """Draw a token."""
        if len(self.tokens) == 1:
            return int(self.tokens)
        return int(self.tokens[torch.multinomial(self.shares, 1, generator=generator)])


def find_nuclei(logits: Float[Tensor, "B V"], options: GenerateConfig) -> list[Nucleus]:
    """Find for each row the likeliest tokens that make up top_p, after the temperature.

    Few of a large vocabulary do, so few are put in order, where the logits are.

    Source: Holtzman et al. 2019, arXiv:1904.09751 (nucleus sampling).
    """
    if options.temperature == 0:
        likeliest = logits.argmax(dim=-1, keepdim=True).cpu()
        return [Nucleus(token, torch.ones(1, dtype=torch.float64)) for token in likeliest]
    highest = logits.amax(dim=-1, keepdim=True)
    scaled = (logits.double() - highest) / options.temperature  # at most 0: never overflows
    of_all, n_ordered = scaled.softmax(dim=-1), FEW
    shares, tokens = of_all.topk(min(n_ordered, logits.shape[-1]))
    while n_ordered < logits.shape[-1] and shares.sum(dim=-1).min() < options.top_p:
        n_ordered *= 16
        shares, tokens = of_all.topk(min(n_ordered, logits.shape[-1]))
    shares, tokens = shares.cpu(), tokens.cpu()
    n_kept = (shares.cumsum(dim=-1) - shares < options.top_p).sum(dim=-1)  # one at least
    return [Nucleus(tokens[row, :n], shares[row, :n]) for row, n in enumerate(n_kept.tolist())]


def generate_text(loaded: Loaded, options: GenerateConfig) -> Iterator[str]:
    """Stream a continuation as text, each piece as soon as it is whole characters."""
    tokenizer = loaded.tokenizer
    prompt_ids = [tokenizer.bos_id, *tokenizer.encode(options.prompt)]
    ids = sample_ids(loaded.model, prompt_ids, options, eos_id=tokenizer.eos_id)
    yield from tokenizer.decode_stream(ids)


def generate(options: GenerateConfig) -> None:
    """Print the prompt and its continuation, streaming."""
    loaded = load_run(options.run_dir)
    sys.stdout.write(options.prompt)
    for piece in generate_text(loaded, options):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
