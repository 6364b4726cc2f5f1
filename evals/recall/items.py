"""Items: rows of ids of which some are answers, and what an answer is chosen among."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Answer:
    """Consecutive ids of a row that the model is to find in what it has read before.

    Attributes:
        start: Where in the row they begin.
        n_tokens: How many they are.
        candidates: What the first of them is chosen among when the choice is forced, itself
            included; empty where nothing is.
        part: What the answer is counted under beside its task, as "depth_50"; empty for nothing.
    """

    start: int
    n_tokens: int
    candidates: tuple[int, ...] = ()
    part: str = ""

    @property
    def places(self) -> range:
        """Where in the row its ids are."""
        return range(self.start, self.start + self.n_tokens)


@dataclass(frozen=True)
class Item:
    """One row: all but its last id are read, and all answers are given by then.

    Attributes:
        answers: In the order of the row.
    """

    ids: NDArray[np.int64]
    answers: tuple[Answer, ...]

    @property
    def length(self) -> int:
        """Ids that are read."""
        return len(self.ids) - 1

    @property
    def places(self) -> tuple[int, ...]:
        """Where answers are: rows with the same are read together."""
        return tuple(place for answer in self.answers for place in answer.places)


class TooShortError(ValueError):
    """A length that a task does not fit into; the message says what it needs."""
