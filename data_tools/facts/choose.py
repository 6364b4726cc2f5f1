"""Which wrong answers an item gets: near ones, of like length, the same at every run."""

import hashlib
import unicodedata
from collections.abc import Collection, Iterable, Sequence

from data_tools.facts.fact import Candidate, Wording
from evals.items import HARDNESSES
from helix.data import DataError

N_DISTRACTORS = 3
LEAST_DISTRACTORS = 2
# a word of the prompt that has so many letters, and one of the answer, may not begin alike
GIVING_WORD = 4
GIVEN_AWAY = 3


def choose_by_group(
    id: str,
    answer: Candidate,
    pool: Iterable[Candidate],
    *,
    hardnesses: Collection[str] = HARDNESSES,
    also_true: Collection[str] = (),
) -> dict[str, list[Wording]]:
    """Choose distractors: hard from the answer's own group, medium from the wider, easy elsewhere.

    Args:
        hardnesses: Which to choose; a level that is left out gives its candidates to no other.
        also_true: English wordings that would be right, too.

    Raises:
        DataError: A level has fewer than two candidates.
    """
    by_hardness: dict[str, dict[Wording, None]] = {hardness: {} for hardness in HARDNESSES}
    for candidate in pool:
        by_hardness[hardness_of(candidate.group, answer.group)][candidate.wording] = None
    taken = {answer.wording.de, answer.wording.en, *also_true}
    chosen: dict[str, list[Wording]] = {}
    for hardness in HARDNESSES:
        free = [w for w in by_hardness[hardness] if w.de not in taken and w.en not in taken]
        taken |= {text for wording in free for text in (wording.de, wording.en)}
        if hardness in hardnesses:
            chosen[hardness] = choose_alike(id, answer.wording, free, where=hardness)
    return chosen


def hardness_of(group: str, other: str) -> str:
    """Tell how hard a candidate of one group is where the answer is of the other."""
    if group == other:
        return "hard"
    return "medium" if group.partition("/")[0] == other.partition("/")[0] else "easy"


def choose_alike(
    id: str, answer: Wording, candidates: Sequence[Wording], *, where: str
) -> list[Wording]:
    """Choose the candidates whose lengths are nearest the answer's; a hash breaks ties.

    Raises:
        DataError: There are fewer than two.
    """
    if len(candidates) < LEAST_DISTRACTORS:
        raise DataError(f"{id}: {len(candidates)} {where} distractors; write more rows near it")
    ranked = sorted(candidates, key=lambda w: (length_gap(w, answer), scatter(id, w.en)))
    return ranked[:N_DISTRACTORS]


def numbers_around(
    id: str, answer: int, *, low: int, high: int, least: int, most: int
) -> list[int]:
    """Choose wrong numbers, so many of them below that the right one may stand at any place.

    Args:
        low: How far from the answer they lie at least.
        high: At most.
        least: The lowest number that there is.
        most: The highest.
    """
    below = [n for n in range(answer - high, answer - low + 1) if n >= least]
    above = [n for n in range(answer + low, answer + high + 1) if n <= most]
    for side in (below, above):
        side.sort(key=lambda number: scatter(id, str(number)))
    n_below = scatter(id, f"{low}-{high}")[0] % (N_DISTRACTORS + 1)
    n_below = max(min(n_below, len(below)), N_DISTRACTORS - len(above))
    return [*below[:n_below], *above[: N_DISTRACTORS - n_below]]


def length_gap(one: Wording, other: Wording) -> int:
    """Count by how many characters two wordings differ in length, over both languages."""
    return abs(len(one.de) - len(other.de)) + abs(len(one.en) - len(other.en))


def scatter(id: str, text: str) -> bytes:
    """Give what orders candidates of an item as if by chance, the same at every run."""
    return hashlib.blake2b(f"{id}\n{text}".encode(), digest_size=8).digest()


def is_given_away(prompt: str, answer: str) -> bool:
    """Tell whether a word of the prompt begins like one of the answer, as Tunesien and Tunis."""
    starts = {word[:GIVEN_AWAY] for word in fold(prompt).split() if len(word) >= GIVING_WORD}
    return any(word[:GIVEN_AWAY] in starts for word in fold(answer).split())


def fold(text: str) -> str:
    """Give a text without case, accents and punctuation."""
    plain = "".join(
        character
        for character in unicodedata.normalize("NFKD", text.casefold())
        if not unicodedata.combining(character)
    )
    return "".join(character if character.isalnum() else " " for character in plain)
