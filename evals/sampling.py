"""Continuations of many prompts at once, greedy or drawn."""

from collections import defaultdict
from collections.abc import Sequence

import torch

from evals.examinee import Examinee
from helix import distributed
from helix.data.progress import show_progress
from helix.generate import GenerateConfig, draw
from helix.models.base import ModelState

BATCH_ROWS = 32


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

    Prompts of one length are read together. Each has its own generator, so that what is drawn for
    it does not depend on the others.

    Args:
        prompts: Ids that begin with that of a document's start.
        n_tokens: Drawn at most; a document may end sooner.
        temperature: 0 takes the likeliest token.

    Returns:
        Ids after each prompt, without the end of the document.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        by_length[len(prompt)].append(number)
    batches = [
        numbers[start : start + BATCH_ROWS]
        for _, numbers in sorted(by_length.items())
        for start in range(0, len(numbers), BATCH_ROWS)
    ]
    options = GenerateConfig(temperature=temperature, top_p=top_p, seed=seed, n_tokens=n_tokens)
    found: dict[int, list[int]] = {}
    for batch in show_progress(batches[distributed.rank() :: distributed.world_size()], title):
        generators = [
            torch.Generator().manual_seed(distributed.derive_seed(seed, "continue", number))
            for number in batch
        ]
        rows = continue_batch(examinee, [prompts[n] for n in batch], options, generators)
        found |= dict(zip(batch, rows, strict=True))
    for part in distributed.gather(found):
        found |= part
    return [found[number] for number in range(len(prompts))]


def continue_batch(
    examinee: Examinee,
    prompts: Sequence[Sequence[int]],
    options: GenerateConfig,
    generators: Sequence[torch.Generator],
) -> list[list[int]]:
    """Go on from prompts of one length until all documents have ended."""
    model, eos_id = examinee.model, examinee.tokenizer.eos_id
    state: ModelState | None = None
    tokens = torch.tensor([list(prompt) for prompt in prompts])
    ids: list[list[int]] = [[] for _ in prompts]
    is_open = [True] * len(prompts)
    for _ in range(options.n_tokens):
        logits, state = model.predict(tokens.to(examinee.device), state)
        held = logits.cpu()
        drawn = [draw(held[n], options, generator) for n, generator in enumerate(generators)]
        for number, token in enumerate(drawn):
            is_open[number] = is_open[number] and token != eos_id
            if is_open[number]:
                ids[number].append(token)
        if not any(is_open):
            break
        tokens = torch.tensor(drawn)[:, None]
    return ids
