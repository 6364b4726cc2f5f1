"""Continuations of many prompts at once, greedy or drawn."""

from collections.abc import Sequence

import torch

from evals.examinee import Examinee
from evals.ranks import spread
from helix import distributed
from helix.generate import GenerateConfig, Nucleus, find_nuclei, read_on
from helix.models.base import ModelState
from helix.scoring import PIECE_TOKENS

BATCH_ROWS = {"cpu": 32, "cuda": 256}


class Continuation:
    """A prompt, and what is drawn after it.

    Attributes:
        ids: What was drawn, without the end of the document.
        is_done: Whether the document has ended or is long enough.
    """

    def __init__(
        self, prompt: Sequence[int], options: GenerateConfig, *, eos_id: int, seed: int
    ) -> None:
        self.prompt = prompt
        self.options = options
        self.eos_id = eos_id
        self.generator = torch.Generator().manual_seed(seed)
        self.ids: list[int] = []
        self.is_done = False

    def follow(self, place: int, nucleus: Nucleus) -> int:
        """Give the token at a place: the prompt's own, or one that is drawn."""
        if place < len(self.prompt):
            return self.prompt[place]
        if self.is_done:
            return self.eos_id
        token = nucleus.draw(self.generator)
        if token != self.eos_id:
            self.ids.append(token)
        self.is_done = token == self.eos_id or len(self.ids) == self.options.n_tokens
        return token


@torch.no_grad()
def continue_rows(
    examinee: Examinee,
    prompts: Sequence[Sequence[int]],
    *,
    n_tokens: int,
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
                eos_id=examinee.tokenizer.eos_id,
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
    tokens = torch.tensor([list(row.prompt[:n_read]) for row in rows])
    state: ModelState | None = None
    while not all(row.is_done for row in rows):
        given = tokens.to(examinee.device)
        logits, state = read_on(examinee.model, given, state, piece_tokens=PIECE_TOKENS)
        nuclei = find_nuclei(logits, rows[0].options)
        tokens = torch.tensor(
            [[row.follow(n_read, nucleus)] for row, nucleus in zip(rows, nuclei, strict=True)]
        )
        n_read += 1
