"""Rows that begin alike, scored as branches: what they share is read once.

A question with ten answers is ten rows of which the first half is one. Its beginning is read, its
state is handed to each answer, and only the answers are read ten times.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

import torch

from evals.examinee import Examinee
from evals.options import Options
from evals.ranks import spread
from helix.batch import IGNORED
from helix.models.base import Piece, take_rows
from helix.scoring import Row, RowScores, padded, score_batch

STATE_BYTES = 2**30  # of all branches that are scored together; attention makes copies of it
WIDTH_MULTIPLE = 4  # of branches, which are short: few widths to compile for, little padding
Beginning = tuple[int, ...]


def score_branches(
    examinee: Examinee, rows: Sequence[Row], options: Options, *, title: str
) -> list[RowScores]:
    """Score rows; what is given of several rows alike is read once.

    The same figures as of helix.scoring.score_rows, but for rounding. All ranks call it and get
    all scores, in the order of the rows.
    """
    branches = group_by_beginning(rows)
    batches = plan_branches(
        branches,
        rows,
        batch_tokens=options.tokens_at_once(examinee.device.type),
        most_rows=most_rows(examinee),
    )
    return spread(
        lambda batch: score_beginnings(examinee, {begin: branches[begin] for begin in batch}, rows),
        batches,
        title=title,
    )


def group_by_beginning(rows: Sequence[Row]) -> dict[Beginning, list[int]]:
    """Give the numbers of the rows of which the same is given."""
    branches: dict[Beginning, list[int]] = {}
    for number, row in enumerate(rows):
        # The last given token belongs to the branch: its logits charge the first one that is not.
        branches.setdefault(tuple(row.ids[: row.n_given - 1].tolist()), []).append(number)
    return branches


def plan_branches(
    branches: Mapping[Beginning, Sequence[int]],
    rows: Sequence[Row],
    *,
    batch_tokens: int,
    most_rows: int,
) -> list[list[Beginning]]:
    """Put beginnings of one length together, whose branches make a batch."""
    batches: list[list[Beginning]] = []
    for _, alike in groupby(sorted(branches, key=len), key=len):
        n_tokens, n_rows = batch_tokens, 0
        for begin in sorted(alike, key=lambda begin: longest(branches[begin], rows)):
            width = padded(longest(branches[begin], rows), WIDTH_MULTIPLE)
            needed = len(begin) + len(branches[begin]) * width
            if n_tokens + needed > batch_tokens or n_rows + len(branches[begin]) > most_rows:
                batches.append([])
                n_tokens, n_rows = 0, 0
            n_rows += len(branches[begin])
            batches[-1].append(begin)
            n_tokens += needed
    return batches


def most_rows(examinee: Examinee) -> int:
    """Count the branches whose states may be held at once: each is far larger than its tokens."""
    if examinee.config is None:
        return 2**8
    model, n_context = examinee.config.model, examinee.config.data.n_context
    return max(STATE_BYTES // model.state_bytes(n_context, bytes_per_value=4), 1)


def longest(numbers: Sequence[int], rows: Sequence[Row]) -> int:
    """Count the charged tokens of the longest row."""
    return max(len(rows[number].ids) - rows[number].n_given for number in numbers)


@torch.no_grad()
def score_beginnings(
    examinee: Examinee, branches: Mapping[Beginning, Sequence[int]], rows: Sequence[Row]
) -> dict[int, RowScores]:
    """Score the branches of beginnings that are of one length."""
    numbers = [number for own in branches.values() for number in own]
    parents = [place for place, own in enumerate(branches.values()) for _ in own]
    state = None
    if len(next(iter(branches))):
        begun = torch.tensor(list(branches), device=examinee.device)
        targets = torch.full_like(begun, IGNORED)
        _, state = examinee.model.score(Piece(tokens=begun, targets=targets))
        state = take_rows(state, torch.tensor(parents, device=examinee.device))
    ends = [Row(rows[number].ids[rows[number].n_given - 1 :]) for number in numbers]
    scores = score_batch(
        examinee.model.score,
        ends,
        device=examinee.device,
        state=state,
        width_multiple=WIDTH_MULTIPLE,
    )
    return dict(zip(numbers, scores, strict=True))
