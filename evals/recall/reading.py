"""Reading: items go through a model piece by piece, and each answer is judged.

Where an answer is to be chosen among candidates, the logits at its place are needed; reading stops
there and goes on from the state. A copy needs none, and is scored as any text is.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evals.examinee import Examinee
from evals.options import Options
from evals.ranks import spread
from evals.recall.items import Item
from evals.scoring import score_rows
from helix.generate import read_on
from helix.models.base import ModelState
from helix.scoring import PIECE_TOKENS, Row, RowScores


@dataclass(frozen=True)
class Judged:
    """What a model made of one answer.

    Attributes:
        right: 1 where each id of it is the likeliest of the vocabulary; where k ids are equally
            likely, 1/k.
        chosen: The same among the candidates; NaN where there are none.
        tokens_right: Ids of it that are the likeliest, each by itself.
        nats: Of all its ids.
        reciprocal_rank: 1 over the place of its first id in the vocabulary, the likeliest first.
    """

    right: float
    chosen: float
    tokens_right: float
    nats: float
    reciprocal_rank: float


@dataclass(frozen=True)
class Found:
    """What the logits at one place say of the id there.

    Attributes:
        share: 1 where it is the likeliest of the vocabulary, 1/k where k are.
        chosen: The same among candidates; NaN where there are none.
        n_above: How many of the vocabulary are likelier.
    """

    share: float
    chosen: float
    nats: float
    n_above: int


def judge_items(
    examinee: Examinee, items: Sequence[Item], options: Options, *, title: str
) -> list[list[Judged]]:
    """Judge the answers of all items; all ranks call it and get all, in order."""
    if not any(answer.candidates for item in items for answer in item.answers):
        return judge_scored(examinee, items, options, title=title)
    batches = plan_batches(items, batch_tokens=options.tokens_at_once(examinee.device.type))

    def work(batch: Sequence[int]) -> dict[int, list[Judged]]:
        judged = judge_batch(examinee, [items[number] for number in batch])
        return dict(zip(batch, judged, strict=True))

    return spread(work, batches, title=title)


def plan_batches(items: Sequence[Item], *, batch_tokens: int) -> list[list[int]]:
    """Put items together whose answers are at the same places."""
    by_places: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        by_places[item.places].append(number)
    batches = []
    for numbers in by_places.values():
        n_rows = max(batch_tokens // items[numbers[0]].length, 1)
        batches += [numbers[start : start + n_rows] for start in range(0, len(numbers), n_rows)]
    return batches


@torch.no_grad()
def judge_batch(examinee: Examinee, items: Sequence[Item]) -> list[list[Judged]]:
    """Read items whose answers are at the same places; judge each answer."""
    ids = torch.from_numpy(np.stack([item.ids for item in items])).to(examinee.device)
    state: ModelState | None = None
    found: dict[int, list[Found]] = {}
    read = 0
    for place in items[0].places:
        logits, state = read_on(
            examinee.model, ids[:, read:place], state, piece_tokens=PIECE_TOKENS
        )
        found[place] = find(logits, ids[:, place], [choice_at(item, place) for item in items])
        read = place
    return [
        [join([found[place][row] for place in answer.places]) for answer in item.answers]
        for row, item in enumerate(items)
    ]


def choice_at(item: Item, place: int) -> tuple[int, ...]:
    """Give what the id at a place is chosen among, if it is at all."""
    return next((answer.candidates for answer in item.answers if answer.start == place), ())


def find(logits: Tensor, targets: Tensor, choices: Sequence[tuple[int, ...]]) -> list[Found]:
    """Find the target of each row in its logits."""
    logits = logits.double()
    own = logits.gather(1, targets[:, None])
    nats = logits.logsumexp(dim=1) - own[:, 0]
    n_above = (~(logits <= own)).sum(dim=1)  # all, where the target is no number
    n_equal = (logits == own).sum(dim=1)
    columns = (column.tolist() for column in (nats, n_above, n_equal))
    return [
        Found(
            share=0.0 if above else 1 / equal,
            chosen=share_among(logits[row, list(choices[row])], own[row]),
            nats=cost,
            n_above=above,
        )
        for row, (cost, above, equal) in enumerate(zip(*columns, strict=True))
    ]


def share_among(candidates: Tensor, own: Tensor) -> float:
    """Give 1 where the right candidate is the likeliest, 1/k where k are; NaN without any."""
    if not len(candidates):
        return math.nan
    is_beaten = bool((~(candidates <= own)).any())
    return 0.0 if is_beaten else 1 / int((candidates == own).sum())


def join(places: Sequence[Found]) -> Judged:
    """Judge an answer by what was found at its places."""
    return Judged(
        right=math.prod(place.share for place in places),
        chosen=places[0].chosen,
        tokens_right=sum(place.share for place in places),
        nats=sum(place.nats for place in places),
        reciprocal_rank=1 / (1 + places[0].n_above),
    )


def judge_scored(
    examinee: Examinee, items: Sequence[Item], options: Options, *, title: str
) -> list[list[Judged]]:
    """Judge items of one answer each, by the scores of its ids."""
    rows = [Row(item.ids, n_given=item.answers[0].start) for item in items]
    return [[judge_scores(own)] for own in score_rows(examinee, rows, options, title=title)]


def judge_scores(scores: RowScores) -> Judged:
    """Judge an answer by its scores."""
    is_right = (scores.ranks == 0) & np.isfinite(scores.nats)  # NaN is above nothing: its rank is 0
    return Judged(
        right=float(is_right.all()),
        chosen=math.nan,
        tokens_right=float(is_right.sum()),
        nats=float(scores.nats.sum()),
        reciprocal_rank=1 / (1 + int(scores.ranks[0])) if np.isfinite(scores.nats[0]) else 0.0,
    )
