"""Pictures: the curve that a threshold is chosen on, and the knowledge profile."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from data_tools.value.curve import LOWEST, Curve, add_up
from data_tools.value.report import SourceValue
from data_tools.value.scorer import Scorer
from data_tools.value.subjects import SUBJECTS

N_NAMED = 9  # sources named in the curve, the largest; the others are grey
N_BINS = 60
ROW_INCHES = 0.22  # of a source


def draw_curve(
    curves: Mapping[str, Curve], steps: Mapping[str, int], scorer: Scorer, path: Path
) -> None:
    """Draw what is kept at each threshold, and the scores of each source below it."""
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    height = 4 + ROW_INCHES * len(curves)
    figure = Figure(figsize=(10, height), layout="constrained")
    kept, scores = cast(
        tuple[Axes, Axes],
        figure.subplots(2, 1, sharex=True, height_ratios=(3.5, 0.5 + ROW_INCHES * len(curves))),
    )
    total = add_up(list(curves.values()))
    present = np.flatnonzero(total.documents)
    first, last = int(present[0]), int(present[-1]) + 2
    x = scorer.low + (np.arange(first, last) + LOWEST) * scorer.step

    def cut(shares: Any) -> Any:
        return np.append(shares, 0.0)[first:last]

    largest = sorted(curves, key=lambda name: (-int(curves[name].bytes.sum()), name))[:N_NAMED]
    for name, curve in sorted(curves.items()):
        style: dict[str, Any] = {"label": name} if name in largest else {"color": "0.85"}
        kept.plot(x, cut(curve.kept_bytes()), linewidth=1, **style)
    kept.plot(x, cut(total.kept_bytes()), "k", linewidth=2.5, label="all, bytes")
    kept.plot(x, cut(total.kept_documents()), "k--", linewidth=1.5, label="all, documents")
    kept.set(ylabel="share kept", ylim=(0, 1.02), title="What a threshold keeps")
    kept.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
    draw_histograms(scores, curves, steps, scorer, (float(x[0]), float(x[-1])))
    if len(set(steps.values())) == 1:
        chosen = scorer.to_score(next(iter(steps.values())))
        kept.axvline(chosen, color="tab:red")
        kept.annotate(f" {chosen:.3f}", (chosen, 0.03), color="tab:red")
    figure.savefig(path, dpi=110)


def draw_histograms(
    axes: Any,
    curves: Mapping[str, Curve],
    steps: Mapping[str, int],
    scorer: Scorer,
    limits: tuple[float, float],
) -> None:
    """Draw a histogram of scores as a row of each source, and its threshold in red."""
    edges = np.linspace(limits[0], np.nextafter(limits[1], np.inf), N_BINS + 1)
    for row, (name, curve) in enumerate(sorted(curves.items())):
        places = np.flatnonzero(curve.bytes)
        scores = scorer.low + (places + LOWEST) * scorer.step
        counts, _ = np.histogram(scores, bins=edges, weights=curve.bytes[places])
        heights = 0.85 * counts / max(counts.max(), 1)
        axes.bar(edges[:-1], -heights, np.diff(edges), row + 0.45, align="edge", color="tab:blue")
        threshold = scorer.to_score(steps[name])
        axes.plot([threshold, threshold], [row - 0.45, row + 0.45], color="tab:red")
    axes.set_yticks(range(len(curves)), sorted(curves), fontsize="small")
    axes.set(ylim=(len(curves) - 0.4, -0.6), xlabel="score", title="Bytes by score")


def draw_profile(sources: Mapping[str, SourceValue], path: Path) -> None:
    """Draw the share of bytes of each subject as a bar of each source."""
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.5 + ROW_INCHES * len(sources)), layout="constrained")
    axes = cast(Axes, figure.subplots())
    names = sorted(sources)
    left = np.zeros(len(names))
    wholes = np.array([max(sources[name].read.bytes, 1) for name in names])
    for subject in SUBJECTS:
        counts = [sources[name].subjects.get(subject) for name in names]
        widths = np.array([count.bytes if count else 0 for count in counts]) / wholes
        color = "0.8" if subject == "other" else None
        axes.barh(names, widths, left=left, label=subject, color=color)
        left += widths
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", labelsize="small")
    axes.set(xlim=(0, 1), xlabel="share of bytes", title="Knowledge profile")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
    figure.savefig(path, dpi=110)
