"""Sampling: prefill, then one token at a time from the carried state; one path for all families.

Dims: B rows (one here), V vocabulary.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from helix import kernels
from helix.config import RunConfig, read_saved
from helix.decoding import Decoder
from helix.distributed import local_device
from helix.models import build_on_meta
from helix.models.base import LanguageModel, ModelState
from helix.presets import PRESETS
from helix.tokenizer import Tokenizer, load_tokenizer, utf8
from helix.training import checkpoint

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
        backends: "reference" turns every fast kernel off.
    """

    run_dir: str = ""
    prompt: str = ""
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0
    n_tokens: int = 200
    backends: Literal["auto", "reference"] = "auto"

    def __post_init__(self) -> None:
        utf8(self.prompt)  # refused before it is printed
        if not self.temperature >= 0:  # nor is NaN
            raise ValueError(f"temperature={self.temperature}: give 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: give a value in (0, 1]")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed}: give a number from 0 to 2^63 - 1")
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
    decoder = Decoder(model, state)
    for _ in range(options.n_tokens):
        (token,) = draw_tokens(logits, options, [generator])
        if token == eos_id:
            return
        yield token
        logits = decoder.read(torch.tensor([[token]], device=device))


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


def draw_tokens(
    logits: Float[Tensor, "B V"], options: GenerateConfig, generators: Sequence[torch.Generator]
) -> list[int]:
    """Draw a token for each row from its nucleus: the likeliest tokens that make up top_p.

    Nothing of a large vocabulary is put in order. A token is drawn from all; where it lies outside
    the nucleus, one is drawn again from those that are likelier than it.

    Args:
        generators: One a row, of the CPU: what is drawn for a row does not depend on the others.

    Returns:
        Tokens; the one of the first NaN where a row has any, as without a temperature.

    Source: Holtzman et al. 2019, arXiv:1904.09751 (nucleus sampling). Tokens as likely as the last
    one of the nucleus belong to it.
    """
    likeliest = logits.argmax(dim=-1, keepdim=True)
    if options.temperature == 0:
        return likeliest[:, 0].tolist()
    highest = logits.gather(1, likeliest)
    scaled = (logits.double() - highest) / options.temperature  # at most 0: never overflows
    shares = scaled.softmax(dim=-1)
    drawn, rows = likeliest[:, 0], shares.sum(dim=-1).isfinite().nonzero()[:, 0]
    shares = shares[rows]
    while len(rows):
        places = [
            torch.rand(1, generator=generators[row], dtype=torch.float64) for row in rows.tolist()
        ]
        sums = shares.cumsum(dim=-1)
        at = torch.stack(places).to(sums.device) * sums[:, -1:]
        tokens = torch.searchsorted(sums, at, right=True).clamp(max=logits.shape[1] - 1)
        own = shares.gather(1, tokens)
        likelier = shares.where(shares > own, 0).sum(dim=-1)
        fits = (likelier < options.top_p) & (own[:, 0] > 0)
        drawn[rows[fits]] = tokens[fits, 0]
        rows, own, shares = rows[~fits], own[~fits], shares[~fits]
        shares = shares.where(shares > own, 0)
    return drawn.tolist()


def generate_text(loaded: Loaded, options: GenerateConfig) -> Iterator[str]:
    """Stream a continuation as text, each piece as soon as it is whole characters."""
    tokenizer = loaded.tokenizer
    prompt_ids = [tokenizer.bos_id, *tokenizer.encode(options.prompt)]
    ids = sample_ids(loaded.model, prompt_ids, options, eos_id=tokenizer.eos_id)
    yield from tokenizer.decode_stream(ids)


def generate(options: GenerateConfig) -> None:
    """Print the prompt and its continuation, streaming."""
    with kernels.choosing("reference" if options.backends == "reference" else None):
        loaded = load_run(options.run_dir)
    sys.stdout.write(options.prompt)
    for piece in generate_text(loaded, options):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
