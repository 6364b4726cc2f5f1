"""Spikes: a figure of a step that stands far above those of the recent good steps.

    z = (x - median) / max(1.4826 * MAD, floor * |median|)

Median and median absolute deviation are of a window of good steps, so that a spike that was found
never widens the bounds of the next one. The window is plain numbers and part of the checkpoint:
a run that goes on decides as the undisturbed run would have.

Source: Iglewicz and Hoaglin 1993, "How to Detect and Handle Outliers" (the score; 1.4826 makes the
MAD of a normal distribution its standard deviation).
"""

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

MAD_OF_NORMAL = 1.4826


class Window:
    """The figures of recent good steps, and how far a new one stands above them.

    Args:
        n_steps: How many figures are kept.
        n_least: Below so many, nothing is a spike.
        floor: The least spread that is believed, as a part of the median: figures that hardly
            change would otherwise make a spike of any change.
    """

    def __init__(
        self, figures: Iterable[float] = (), *, n_steps: int, n_least: int, floor: float
    ) -> None:
        self.figures = deque(figures, maxlen=n_steps)
        self.n_least = n_least
        self.floor = floor

    def add(self, figure: float) -> None:
        """Note the figure of a good step."""
        self.figures.append(figure)

    def score(self, figure: float) -> float:
        """Give the robust z-score of a figure; infinite where it is not finite."""
        if not math.isfinite(figure):
            return math.inf
        if len(self.figures) < self.n_least:
            return 0.0
        middle = median(self.figures)
        deviation = MAD_OF_NORMAL * median(abs(x - middle) for x in self.figures)
        spread = max(deviation, self.floor * abs(middle))
        if spread == 0:
            return 0.0 if figure <= middle else math.inf
        return (figure - middle) / spread
