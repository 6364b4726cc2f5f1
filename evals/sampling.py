"""Continuations of many prompts at once, greedy or drawn."""

import math
from collections.abc import Sequence

import torch

from evals.examinee import Examinee
from evals.ranks import spread
from helix import distributed
from helix.decoding import Decoder
from helix.generate import GenerateConfig, draw_tokens, read_on
from helix.scoring import PIECE_TOKENS
from helix.tokenizer import Tokenizer

BATCH_ROWS = {"cpu": 32, "cuda": 256}


class Continuation:
    """A prompt, and what is drawn after it.

    Args:
        n_characters: Of text, after which nothing more is wanted.

    Attributes:
        ids: What was drawn, without the end of the document.
        is_done: Whether the document has ended or is long enough.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        options: GenerateConfig,
        *,
        tokenizer: Tokenizer,
        seed: int,
        n_characters: int | None = None,
    ) -> None:
        self.prompt = prompt
        self.options = options
        self.tokenizer = tokenizer
        self.n_left = math.inf if n_characters is None else n_characters
        self.generator = torch.Generator().manual_seed(seed)
        self.ids: list[int] = []
        self.is_done = False

    def is_drawn(self, place: int) -> bool:
        """Tell whether the token at a place is drawn."""
        return place >= len(self.prompt) and not self.is_done

    def token_at(self, place: int) -> int:
        """Give the token at a place where none is drawn: the prompt's own, or the end."""
        return self.prompt[place] if place < len(self.prompt) else self.tokenizer.eos_id

    def note(self, token: int) -> None:
        """Take in what was drawn."""
        has_ended = token == self.tokenizer.eos_id
        if not has_ended:
            self.ids.append(token)
            self.n_left -= count_characters(self.tokenizer.token_bytes(token))
        self.is_done = has_ended or self.n_left <= 0 or len(self.ids) == self.options.n_tokens


def count_characters(utf8: bytes) -> int:
    """Count the characters that begin in a piece of text; no more than a decoder makes of it."""
    return sum(byte & 0xC0 != 0x80 for byte in utf8)


@torch.no_grad()
def continue_rows(
    examinee: Examinee,
    prompts: Sequence[Sequence[int]],
    *,
    n_tokens: int,
    n_characters: int | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    title: str = "continue",
) -> list[list[int]]:
    """Go on from each prompt; all ranks call it and get all continuations, in order.

    Prompts of like length are read together. Each has its own generator, so that what is drawn
    for it does not depend on the others.

    Args:
        prompts: Ids that begin with that of a document's start.
        n_tokens: Drawn at most; a document may end sooner.
        n_characters: After which a text is long enough.
        temperature: 0 takes the likeliest token.

    Returns:
        Ids after each prompt, without the end of the document.
    """
    by_length = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    n_rows = BATCH_ROWS[examinee.device.type]
    batches = [by_length[start : start + n_rows] for start in range(0, len(by_length), n_rows)]
    options = GenerateConfig(temperature=temperature, top_p=top_p, seed=seed, n_tokens=n_tokens)

    def work(batch: Sequence[int]) -> dict[int, list[int]]:
        rows = [
            Continuation(
                prompts[number],
                options,
                tokenizer=examinee.tokenizer,
                n_characters=n_characters,
                seed=distributed.derive_seed(seed, "continue", number),
            )
            for number in batch
        ]
        continue_batch(examinee, rows)
        return {number: row.ids for number, row in zip(batch, rows, strict=True)}

    return spread(work, batches, title=title)


def continue_batch(examinee: Examinee, rows: Sequence[Continuation]) -> None:
    """Go on from prompts until all documents have ended.

    As many tokens as all prompts have are read at once. After them each step reads one token of a
    row: of its prompt while that lasts, then what was drawn.
    """
    n_read = min(len(row.prompt) for row in rows)
    tokens = torch.tensor([list(row.prompt[:n_read]) for row in rows], device=examinee.device)
    logits, state = read_on(examinee.model, tokens, piece_tokens=PIECE_TOKENS)
    decoder = Decoder(examinee.model, state)
    while True:
        following = [row.token_at(n_read) for row in rows]
        open_rows = [number for number, row in enumerate(rows) if row.is_drawn(n_read)]
        generators = [rows[number].generator for number in open_rows]
        drawn = draw_tokens(logits[open_rows], rows[0].options, generators)
        for number, token in zip(open_rows, drawn, strict=True):
            rows[number].note(token)
            following[number] = token
        if all(row.is_done for row in rows):
            return
        logits = decoder.read(torch.tensor(following, device=examinee.device)[:, None])
        n_read += 1
