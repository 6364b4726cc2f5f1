"""The maturity grid: what works, what works partly and what does not, each by a stated rule.

A rule is two bounds on one figure. The page writes the rule from the same bounds that decide, so
it cannot say another. Where a figure has an interval, its worse end decides; one of too few items
for an interval was not measured.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from evals.contract import Result
from evals.report import abilities, held_out, provenance, speed, training
from evals.report.evidence import Evidence
from evals.report.gather import Run
from evals.report.places import Point, in_order, read_points
from evals.report.series import Series, median, number, quantile, series
from evals.report.words import NOTHING, count, figure, one_line, several, share

Verdict = Literal["works", "partly", "not", "not measured"]
NOT_MEASURED: Verdict = "not measured"
NEAR_A_START = 10  # steps before and after a new start whose losses are compared
AUTHOR = "author"  # whose text stands beside the model's
LEAST_STEPS = 20  # below this a run says little of stability
SUMMED_UP = (
    "An ability works where every check that was measured works, and at least half of its checks "
    "were measured; it does not where every one that was measured fails; else it works partly."
)


def ratio(value: float) -> str:
    """Write a ratio."""
    return f"{value:.3f}"


def percent(value: float) -> str:
    """Write a share in percent, whole ones without a fraction."""
    return share(value, 2).replace(".00%", "%")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the grid.

    Attributes:
        of: What is held to the bounds.
        seen: The figure that decided, in words.
        works: The bound from which on it works.
        partly: The bound from which on it works partly.
        anchor: Of the figure that says so.
    """

    what: str
    of: str
    verdict: Verdict
    seen: str
    works: str
    partly: str
    anchor: str


@dataclass(frozen=True, kw_only=True)
class Ability:
    """What a model or a run is to be able to do, and its checks."""

    name: str
    checks: Sequence[Check]

    @property
    def verdict(self) -> Verdict:
        """Sum the checks up: see `SUMMED_UP`, which the page says too."""
        verdicts = [check.verdict for check in self.checks]
        measured = [verdict for verdict in verdicts if verdict != NOT_MEASURED]
        if not measured:
            return NOT_MEASURED
        if set(measured) == {"not"}:
            return "not"
        is_enough = 2 * len(measured) >= len(verdicts)
        return "works" if is_enough and set(measured) == {"works"} else "partly"

    @property
    def n_measured(self) -> int:
        """Checks that were measured."""
        return sum(check.verdict != NOT_MEASURED for check in self.checks)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The grid, a block of the page."""

    kind: ClassVar[str] = "grid"
    abilities: Sequence[Ability]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Two bounds on one figure.

    Attributes:
        of: What is held to the bounds.
        write: Puts a figure into words.
        is_lower_better: Whether figures below the bounds are the good ones.
    """

    what: str
    of: str
    works: float
    partly: float
    anchor: str
    write: Callable[[float], str] = percent
    is_lower_better: bool = False

    def judge(self, value: float, *, what: str = "", seen: str = "") -> Check:
        """Judge a figure; NaN was not measured."""
        sign = "≤" if self.is_lower_better else "≥"
        return Check(
            what=what or self.what,
            of=self.of,
            verdict=self.verdict(value),
            seen=(seen or self.write(value)) if math.isfinite(value) else NOTHING,
            works=f"{sign} {self.write(self.works)}",
            partly=f"{sign} {self.write(self.partly)}",
            anchor=self.anchor,
        )

    def verdict(self, value: float) -> Verdict:
        """Hold a figure to the bounds."""
        if not math.isfinite(value):
            return NOT_MEASURED
        flip = -1 if self.is_lower_better else 1
        if flip * value >= flip * self.works:
            return "works"
        return "partly" if flip * value >= flip * self.partly else "not"


LANGUAGE = Rule(
    what="beats the best packer",
    of="bits per byte over those of the best of gzip, xz and ppm on the same bytes",
    works=0.8,
    partly=1.0,
    anchor=held_out.BITS,
    write=ratio,
    is_lower_better=True,
)
LEARNED = Rule(
    what="has learned",
    of="held-out bits per byte, last over first, in the worst source",
    works=0.7,
    partly=0.95,
    anchor=held_out.VALIDATION,
    write=ratio,
    is_lower_better=True,
)
FALLING = Rule(
    what="held-out loss did not turn",
    of="held-out bits per byte, last over least, in the worst source",
    works=1.01,
    partly=1.05,
    anchor=held_out.VALIDATION,
    write=ratio,
    is_lower_better=True,
)
USES_CONTEXT = Rule(
    what="uses its context",
    of="nats per token at the last positions within the context over those at the first",
    works=0.8,
    partly=0.95,
    anchor=held_out.POSITIONS,
    write=ratio,
    is_lower_better=True,
)
TWINS = Rule(
    what="languages are alike",
    of="bits of the worse over those of the better language on translated twins",
    works=1.15,
    partly=1.4,
    anchor=held_out.GAP,
    write=ratio,
    is_lower_better=True,
)
KNOWS = Rule(
    what="knows",
    of="share of the categories in which it beats all hard distractors more often than by chance",
    works=1.0,
    partly=0.5,
    anchor=abilities.PROFILE,
)
FINDS = Rule(
    what="finds",
    of="share of items, in the median category, whose answer begins with one of the ten likeliest "
    "tokens",
    works=0.5,
    partly=0.1,
    anchor=abilities.PROFILE,
)
SAYS = Rule(
    what="says",
    of="share of items, in the median category, that greedy text answers",
    works=0.5,
    partly=0.1,
    anchor=abilities.PROFILE,
)
RECALL_INSIDE = Rule(
    what="within the context of training",
    of="accuracy in the worst task and length",
    works=0.9,
    partly=0.5,
    anchor=abilities.RECALL,
)
RECALL_BEYOND = Rule(
    what="beyond the context of training",
    of="accuracy in the worst task and length",
    works=0.9,
    partly=0.5,
    anchor=abilities.RECALL,
)
REPEATS = Rule(
    what="repeats no more than people",
    of="repetition less that of the author, drawn text in the worst language",
    works=0.05,
    partly=0.25,
    anchor=abilities.DECODING,
    is_lower_better=True,
)
LOOPS = Rule(
    what="does not loop",
    of="share of greedy texts that end in a loop, in the worst language",
    works=0.05,
    partly=0.25,
    anchor=abilities.DECODING,
    is_lower_better=True,
)
KEEPS_LANGUAGE = Rule(
    what="stays in its language",
    of="share of texts in the language of their prompt, in the worst way and language",
    works=0.9,
    partly=0.7,
    anchor=abilities.DECODING,
)
SKIPPED = Rule(
    what="steps are sound",
    of="share of steps that were skipped",
    works=0.001,
    partly=0.01,
    anchor=training.ANCHOR,
    is_lower_better=True,
)
ROLLBACKS = Rule(
    what="never went back",
    of="number of rollbacks",
    works=0,
    partly=2,
    anchor=training.ANCHOR,
    write=count,
    is_lower_better=True,
)
ENDS_LOW = Rule(
    what="the loss ends low",
    of="mean loss of the last tenth of the steps over the least of any tenth",
    works=1.02,
    partly=1.1,
    anchor=training.ANCHOR,
    write=ratio,
    is_lower_better=True,
)
RESTARTS = Rule(
    what="goes on after a stop",
    of=f"median loss of the {NEAR_A_START} steps after a new start over that before",
    works=1.05,
    partly=1.15,
    anchor=training.ANCHOR,
    write=ratio,
    is_lower_better=True,
)
FINISHED = Rule(
    what="came to its end",
    of="share of the planned steps that were taken",
    works=1.0,
    partly=0.5,
    anchor=training.ANCHOR,
)
MFU = Rule(
    what="uses the device",
    of="median model FLOP utilisation",
    works=0.4,
    partly=0.2,
    anchor=speed.ANCHOR,
)
DATA_WAIT = Rule(
    what="does not wait for data",
    of="share of the time that was spent waiting for data",
    works=0.02,
    partly=0.1,
    anchor=speed.ANCHOR,
    is_lower_better=True,
)
STEADY = Rule(
    what="steps are steady",
    of="the slowest twentieth of steps over the median",
    works=1.2,
    partly=2.0,
    anchor=speed.ANCHOR,
    write=ratio,
    is_lower_better=True,
)
LICENSED = Rule(
    what="licences are told",
    of="share of the training tokens whose source tells a licence",
    works=1.0,
    partly=0.9,
    anchor=provenance.SOURCES,
)
HELD_OUT = Rule(
    what="every source is held out",
    of="share of the sources with held-out text of their own",
    works=1.0,
    partly=0.5,
    anchor=provenance.SOURCES,
)
PASSES = Rule(
    # Muennighoff et al. 2023, arXiv:2305.16264: up to 4 passes are nearly as good as new data
    what="little is read again",
    of="passes over the source that was read most",
    works=4,
    partly=16,
    anchor=provenance.MIX,
    write=lambda value: f"{value:.2g}",
    is_lower_better=True,
)
SAME_DATA = Rule(
    what="is what it was trained on",
    of="share of the fingerprints, of checkpoint and dataset, that agree",
    works=1.0,
    partly=1.0,
    anchor=provenance.SOURCES,
)


def build_grid(run: Run, evidence: Evidence) -> Grid:
    """Judge all that was measured."""
    return Grid(
        abilities=[
            Ability(name="Language modelling", checks=language_checks(run, evidence)),
            Ability(name="Facts", checks=fact_checks(evidence)),
            Ability(name="Long-range recall", checks=recall_checks(run, evidence)),
            Ability(name="Decoding", checks=decoding_checks(evidence)),
            Ability(name="Training stability", checks=stability_checks(run)),
            Ability(name="Throughput", checks=speed_checks(run)),
            Ability(name="Data", checks=data_checks(run)),
        ]
    )


def language_checks(run: Run, evidence: Evidence) -> list[Check]:
    """Judge bits per byte."""
    rows = [row for row in held_out.bits_rows(run, evidence) if row.group == "source"]
    checks = [beats_packers(row) for row in rows] or [LANGUAGE.judge(math.nan)]
    curves = [
        series(run.validations, f"validation/{name}{held_out.SUFFIX}").y
        for name in held_out.validated_sources(run)
    ]
    curves = [own for own in curves if len(own) > 1]
    checks.append(LEARNED.judge(worst([own[-1] / own[0] for own in curves])))
    checks.append(FALLING.judge(worst([own[-1] / min(own) for own in curves])))
    checks.append(USES_CONTEXT.judge(gain_by_context(run, evidence)))
    checks.append(TWINS.judge(twin_gap(evidence)))
    return checks


def beats_packers(row: held_out.Row) -> Check:
    """Hold one source to the packers on the same bytes."""
    packed = [v for name, v in row.baselines.items() if name in ("gzip", "xz", "ppm")]
    value = row.reading.worse_end / min(packed) if packed else math.nan
    seen = f"{ratio(value)} ({figure(row.reading.worse_end, 3)} bits/byte)"
    return LANGUAGE.judge(value, what=f"{one_line(row.name, most=24)}: {LANGUAGE.what}", seen=seen)


def gain_by_context(run: Run, evidence: Evidence) -> float:
    """Give the worst source's loss late in the context over that at its begin."""
    result = evidence.own.get(held_out.EVALUATION)
    if result is None or run.config is None:
        return math.nan
    gains = []
    for points in held_out.positions_of(result).values():
        inside = [y for end, y in points if end <= run.config.data.n_context]
        if len(inside) > 1:
            gains.append(inside[-1] / inside[0])
    return worst(gains)


def twin_gap(evidence: Evidence) -> float:
    """Give the widest gap per document between two languages."""
    result = evidence.own.get(held_out.EVALUATION)
    found = result.figures.get("twins", {}).values() if result else ()
    gaps = [number(own, "gap_per_document") for own in found]
    return worst([max(gap, 1 / gap) for gap in gaps if gap > 0])


def fact_checks(evidence: Evidence) -> list[Check]:
    """Judge what is known, found and said, by language."""
    result = evidence.own.get("facts")
    points = read_points(result) if result else []
    if result is None or not points:
        return [KNOWS.judge(math.nan), FINDS.judge(math.nan), SAYS.judge(math.nan)]
    checks = []
    for language in in_order(point.language for point in points):
        own = [point for point in points if point.language == language]
        checks.append(knows(result, own, language or "all"))
        for rule, what in ((FINDS, "first token top 10"), (SAYS, "greedy begins right")):
            value = median(p.reading.worse_end for p in abilities.points_of(own, what))
            checks.append(rule.judge(value, what=f"{language or 'all'}: {rule.what}"))
    return checks


def knows(result: Result, points: Sequence[Point], language: str) -> Check:
    """Count the categories in which the right answer wins clearly more often than by chance."""
    asked = [p for p in abilities.points_of(points, "knows") if p.hardness == "hard"]
    hard = [point for point in asked if math.isfinite(point.reading.worse_end)]
    chances = [chance_of(result, point.path) for point in hard]
    n_known = sum(p.reading.worse_end > chance for p, chance in zip(hard, chances, strict=True))
    value = n_known / len(hard) if hard and all(map(math.isfinite, chances)) else math.nan
    seen = f"{n_known} of {len(hard)}"
    return KNOWS.judge(value, what=f"{language}: {KNOWS.what}", seen=seen)


def chance_of(result: Result, path: str) -> float:
    """Give what guessing reaches on the hard distractors of a measure's part."""
    part = result.figures.get("parts", {}).get(path.rpartition("/")[0], {})
    return number(part.get("chance", {}), "hard")


def recall_checks(run: Run, evidence: Evidence) -> list[Check]:
    """Judge recall within and beyond the context of training."""
    result = evidence.own.get("recall")
    n_context = abilities.context_of(run, result) if result else None
    if result is None or n_context is None:
        return [RECALL_INSIDE.judge(math.nan), RECALL_BEYOND.judge(math.nan)]
    curves = abilities.read_curves(result)
    points = [point for name in abilities.whole_tasks(curves) for point in curves[name]]
    inside = [point for point in points if (point.length or 0) <= n_context]
    beyond = [point for point in points if (point.length or 0) > n_context]
    return [
        RECALL_INSIDE.judge(abilities.lowest(inside)),
        RECALL_BEYOND.judge(abilities.lowest(beyond)),
    ]


def decoding_checks(evidence: Evidence) -> list[Check]:
    """Judge what the model writes, beside what people wrote."""
    result = evidence.own.get("decoding")
    points = read_points(result) if result else []
    people = {(p.what, p.language): p.reading.value for p in points if p.where == AUTHOR}
    written = [point for point in points if point.where != AUTHOR]
    excess = [
        point.reading.worse_end - people.get((point.what, point.language), math.nan)
        for point in abilities.points_of(written, "repetition")
        if point.where == "sampled"
    ]
    loops = [p for p in abilities.points_of(written, "loop") if p.where == "greedy"]
    kept = abilities.points_of(written, "language")
    return [
        REPEATS.judge(worst(excess)),
        LOOPS.judge(worst([point.reading.worse_end for point in loops])),
        KEEPS_LANGUAGE.judge(abilities.lowest(kept)),
    ]


def stability_checks(run: Run) -> list[Check]:
    """Judge what happened while training."""
    n_steps = len(run.steps)
    is_enough = n_steps >= LEAST_STEPS
    skipped = sum(event.kind == "skipped" for event in run.events)
    rollbacks = sum(event.kind == "rolled back" for event in run.events)
    planned = run.n_steps_planned
    return [
        SKIPPED.judge(
            skipped / n_steps if is_enough else math.nan,
            seen=f"{skipped} of {several(n_steps, 'step')}",
        ),
        ROLLBACKS.judge(rollbacks if is_enough else math.nan),
        ENDS_LOW.judge(end_over_least(training.losses_of_steps_taken(run))),
        RESTARTS.judge(worst(jumps_at_starts(run))),
        FINISHED.judge(
            run.last_step / planned if planned and n_steps else math.nan,
            seen=f"{run.last_step:,} of {planned:,}" if planned else "",
        ),
    ]


def end_over_least(losses: Series) -> float:
    """Give the mean of the last tenth of a run's losses over the least mean of any tenth."""
    kept = losses.y[np.isfinite(losses.y)]
    if len(kept) < LEAST_STEPS:
        return math.nan
    n_steps = max(len(kept) // 10, NEAR_A_START)
    means = np.convolve(kept, np.full(n_steps, 1 / n_steps), mode="valid")
    return float(means[-1] / means.min())


def jumps_at_starts(run: Run) -> list[float]:
    """Give the loss after each new start over that before it."""
    losses = training.losses_of_steps_taken(run)
    jumps = []
    for event in run.events:
        if event.kind == "started again":
            is_before = losses.x < event.step
            before = median(losses.y[is_before][-NEAR_A_START:].tolist())
            after = median(losses.y[~is_before][:NEAR_A_START].tolist())
            jumps.append(after / before if before else math.nan)
    return jumps


def speed_checks(run: Run) -> list[Check]:
    """Judge the use of devices and of time."""
    step_ms = series(run.steps, "speed/step_ms").y.tolist()
    middle = median(step_ms)
    return [
        MFU.judge(median(series(run.steps, "speed/mfu").y.tolist())),
        DATA_WAIT.judge(speed.waiting_share(run)),
        STEADY.judge(quantile(step_ms, 0.95) / middle if middle > 0 else math.nan),
    ]


def data_checks(run: Run) -> list[Check]:
    """Judge what is known of the data."""
    if run.dataset is None:
        rules = (LICENSED, HELD_OUT, PASSES, SAME_DATA)  # all lead to what says why
        return [replace(rule, anchor=provenance.MIX).judge(math.nan) for rule in rules]
    uses = provenance.list_uses(run, run.dataset)
    licensed = sum(use.held for use in uses if any(use.source.licences))
    kept_apart = sum(use.n_held_out > 0 for use in uses)
    identity = run.checkpoint.loader.get("identity", {}) if run.checkpoint else {}
    known = identity.get("data.path")
    is_same = float(known == run.dataset.fingerprint) if known else math.nan
    return [
        LICENSED.judge(min(round(licensed, 9), 1.0)),
        HELD_OUT.judge(kept_apart / len(uses), seen=f"{kept_apart} of {len(uses)}"),
        PASSES.judge(worst([use.passes for use in uses])),
        SAME_DATA.judge(is_same, seen="they agree" if is_same else "they differ"),
    ]


def worst(ratios: Sequence[float]) -> float:
    """Give the highest finite ratio; NaN where there is none."""
    return max((value for value in ratios if math.isfinite(value)), default=math.nan)
