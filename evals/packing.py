"""Short rows, scored side by side as the documents of a few long ones, as training reads them.

A row of nine ids leaves a state of megabytes and is padded to the width of others. Packed, a
thousand of them leave nine states, and every place holds an id that counts.
"""

from collections.abc import Sequence

import numpy as np
import torch

from evals.examinee import Examinee
from evals.options import Options
from evals.ranks import spread
from helix.batch import IGNORED
from helix.models.base import Piece
from helix.scoring import PIECE_TOKENS, Row, RowScores

Pack = list[int]  # numbers of the rows that lie side by side


def score_packed(
    examinee: Examinee, rows: Sequence[Row], options: Options, *, title: str
) -> list[RowScores]:
    """Score rows of at most PIECE_TOKENS ids that are read, by a model of ours.

    The same figures as of helix.scoring.score_rows, but for rounding. All ranks call it and get
    all scores, in the order of the rows.
    """
    packs = plan_packs([len(row.ids) - 1 for row in rows])
    n_packs = max(options.tokens_at_once(examinee.device.type) // PIECE_TOKENS, 1)
    batches = [packs[start : start + n_packs] for start in range(0, len(packs), n_packs)]
    return spread(lambda batch: score_packs(examinee, batch, rows), batches, title=title)


def plan_packs(lengths: Sequence[int]) -> list[Pack]:
    """Fill packs with rows, the shortest first; it depends on the lengths alone.

    Args:
        lengths: At most PIECE_TOKENS each.
    """
    packs: list[Pack] = []
    room = 0
    for row in np.argsort(lengths, kind="stable").tolist():
        if lengths[row] > room:
            packs.append([])
            room = PIECE_TOKENS
        packs[-1].append(row)
        room -= lengths[row]
    return packs


@torch.no_grad()
def score_packs(
    examinee: Examinee, packs: Sequence[Pack], rows: Sequence[Row]
) -> dict[int, RowScores]:
    """Score the rows of some packs together."""
    shape = len(packs), PIECE_TOKENS
    tokens, targets = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
    documents = np.full(shape, len(rows), np.int64)  # padding is a document of its own
    charged: dict[int, tuple[int, slice]] = {}
    for place, pack in enumerate(packs):
        start = 0
        for number in pack:
            row = rows[number]
            stop = start + len(row.ids) - 1
            tokens[place, start:stop] = row.ids[:-1]
            documents[place, start:stop] = number
            charged[number] = place, slice(start + row.n_given - 1, stop)
            targets[charged[number]] = row.ids[row.n_given :]
            start = stop
    scores, _ = examinee.model.score(
        Piece(
            tokens=torch.from_numpy(tokens).to(examinee.device),
            targets=torch.from_numpy(targets).to(examinee.device),
            document_ids=torch.from_numpy(documents).to(examinee.device),
        )
    )
    nats, ranks = scores.nats.double().cpu().numpy(), scores.ranks.cpu().numpy()
    return {number: RowScores(nats[at], ranks[at]) for number, at in charged.items()}
