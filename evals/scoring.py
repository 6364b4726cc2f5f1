"""Scores of rows and of continuations: what an examinee's tokens cost, prompts not charged."""

from collections.abc import Iterable, Sequence

import numpy as np

from evals.branches import group_by_beginning, score_branches
from evals.examinee import Examinee
from evals.options import Options
from evals.packing import score_packed
from helix.scoring import PIECE_TOKENS, Row, RowScores
from helix.scoring import score_rows as score_on_ranks
from helix.tokenizer import Tokenizer

# What a branch's copy of a state costs, in tokens that are read again instead: 12 against 0.9 ms of
# one core, a model of 99M with a window of 1024.
STATE_TOKENS = 16


def score_rows(
    examinee: Examinee, rows: Sequence[Row], options: Options, *, title: str
) -> list[RowScores]:
    """Score rows, each from its start; all ranks call it and get all scores, in order."""
    return score_on_ranks(
        examinee.model,
        rows,
        device=examinee.device,
        batch_tokens=options.tokens_at_once(examinee.device.type),
        title=title,
    )


def score_continuations(
    examinee: Examinee, rows: Sequence[Row], options: Options, *, title: str
) -> list[RowScores]:
    """Score rows many of which begin alike, by the way that is cheapest for each.

    The same figures as of `score_rows`, but for rounding. All ranks call it and get all scores, in
    the order of the rows.
    """
    packed: list[int] = []
    branched: list[int] = []
    for beginning, numbers in group_by_beginning(rows).items():
        fits = max(len(rows[number].ids) for number in numbers) - 1 <= PIECE_TOKENS
        is_cheap = len(beginning) * (len(numbers) - 1) <= STATE_TOKENS * len(numbers)
        is_ours = examinee.config is not None  # models of others read one document a row
        (packed if is_ours and fits and is_cheap else branched).extend(numbers)
    found: dict[int, RowScores] = {}
    for score, numbers in ((score_packed, packed), (score_branches, branched)):
        if numbers:
            scores = score(examinee, [rows[n] for n in numbers], options, title=title)
            found |= dict(zip(numbers, scores, strict=True))
    return [found[number] for number in range(len(rows))]


def document_row(tokenizer: Tokenizer, text: str) -> Row:
    """Give the row of a whole document: all its ids and its end are charged."""
    return Row(np.array([tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]))


def encode_pair(tokenizer: Tokenizer, prompt: str, continuation: str) -> Row:
    """Give the row in which a continuation follows a prompt, the prompt given.

    The two are encoded as one text, for so the model has seen text. Spaces at the prompt's end are
    the continuation's, as words in most vocabularies begin with theirs. A token that spans the
    border counts to the continuation where the prompt's own ids are fewer, as in lm-evaluation-
    harness; the last token always does.

    Source: lm-evaluation-harness, lm_eval/api/model.py, TemplateLM._encode_pair.
    """
    n_spaces = len(prompt) - len(prompt.rstrip())
    if n_spaces:
        prompt, continuation = prompt[:-n_spaces], prompt[-n_spaces:] + continuation
    whole = tokenizer.encode(prompt + continuation)
    n_given = min(len(tokenizer.encode(prompt)), max(len(whole) - 1, 0))
    return Row(np.array([tokenizer.bos_id, *whole]), n_given=1 + n_given)


def encode_pairs(tokenizer: Tokenizer, pairs: Iterable[tuple[str, str]]) -> list[Row]:
    """Give the row of each prompt and continuation."""
    return [encode_pair(tokenizer, *pair) for pair in pairs]
