"""The comparison: several runs on one page, and nothing in one row that is not of one set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import helix
from evals.compare import compare_measure, judge
from evals.contract import LEAST_ITEMS, Result
from evals.report.blocks import Column, Figure, Missing, Notes, Section, Table
from evals.report.charts import Label, Sheet, keep_few_ticks, label_ends, picture
from evals.report.evidence import Evidence, collect, read, shares_set
from evals.report.gather import LOSS, Run, gather
from evals.report.held_out import SUFFIX, validated_sources
from evals.report.options import CompareOptions
from evals.report.page import Page, make_folder, write_page
from evals.report.palette import dashes_of, of_series
from evals.report.series import Series, last_finite, series, smooth, thin
from evals.report.training import losses_of_steps_taken, steps_taken
from evals.report.words import (
    NOTHING,
    anchor_of,
    count,
    digest,
    figure,
    name_apart,
    one_line,
    scaled,
    several,
    span,
)
from helix import config as configs
from helix.config import ConfigError

KICKER = "Comparison of runs"
MOST_RUNS = 12
OTHER_SET = "not comparable: another set"
OTHER_SETTINGS = "not comparable: another setting"
PLACES = ("run_dir", "data.path", "data.cache", "tokenizer.path")  # where a run lies is no setting


@dataclass(frozen=True)
class Entry:
    """One of the runs that are compared, under a name that no other has."""

    name: str
    run: Run
    evidence: Evidence


def compare(run_dirs: Sequence[str], options: CompareOptions) -> list[Path]:
    """Write the comparison of runs; give the page and its pictures.

    Raises:
        ConfigError: There are fewer than two runs, or one of them is none.
    """
    if not 2 <= len(run_dirs) <= MOST_RUNS:
        raise ConfigError(
            f"report compare: give 2 to {MOST_RUNS} run folders, as in compare runs/a runs/b; "
            f"found {len(run_dirs)}"
        )
    runs = [gather(run_dir) for run_dir in run_dirs]
    entries = [
        Entry(name, run, collect(run, ""))
        for name, run in zip(name_apart([run.name for run in runs]), runs, strict=True)
    ]
    out = Path(options.out)
    make_folder(out)
    return write_page(build_page(entries), out)


def build_page(entries: Sequence[Entry]) -> Page:
    """Put the page together."""
    return Page(
        kicker=KICKER,
        title=one_line(", ".join(entry.name for entry in entries), most=120),
        lead=(
            "Runs beside each other. The first is what the others are held to: a figure that is "
            "not of the first one's set, with its settings, is not shown in its row."
        ),
        facts=[(entry.name, describe(entry.run)) for entry in entries],
        sections=[
            Section(anchor="runs", title="The runs", blocks=[runs_table(entries)]),
            Section(anchor="training", title="Training", blocks=[losses(entries)]),
            Section(anchor="held-out", title="Held-out text", blocks=validations(entries)),
            Section(anchor="measures", title="Evaluations", blocks=measures(entries)),
            Section(anchor="settings", title="Settings that differ", blocks=[settings(entries)]),
        ],
        colophon=(
            f"Made by helix {helix.__version__} from {several(len(entries), 'run')}. Intervals "
            "hold 95% of sets drawn anew from the same items. Better, worse and may be chance are "
            "said of the difference to the first run that has the evaluation, its items drawn in "
            f"pairs, where they are {LEAST_ITEMS} or more; two intervals that overlap may well "
            "belong to a clear difference."
        ),
    )


def describe(run: Run) -> str:
    """Say in a few words how large a run is."""
    size = f"{scaled(run.n_parameters)} parameters, " if run.n_parameters else ""
    return f"{size}{scaled(run.n_tokens) if run.steps else 'no'} tokens"


def runs_table(entries: Sequence[Entry]) -> Table:
    """Name each run by what identifies it."""
    names = ("parameters", "tokens", "steps", "last loss")
    return Table(
        caption="Runs by what identifies them",
        columns=(
            Column("run"),
            *(Column(name, is_number=True) for name in names),
            *(Column(name) for name in ("dataset", "tokenizer", "checkpoint")),
        ),
        rows=[
            (
                entry.name,
                count(entry.run.n_parameters) if entry.run.n_parameters else NOTHING,
                count(entry.run.n_tokens),
                count(entry.run.last_step),
                figure(last_finite(smooth(losses_of_steps_taken(entry.run)))),
                digest(entry.run.dataset.fingerprint if entry.run.dataset else None),
                digest(tokenizer_of(entry.run)),
                digest(entry.run.checkpoint.digest if entry.run.checkpoint else None),
            )
            for entry in entries
        ],
    )


def tokenizer_of(run: Run) -> str | None:
    """Give the fingerprint of a run's tokenizer, where its dataset is there."""
    return run.dataset.tokenizer_fingerprint if run.dataset else None


def losses(entries: Sequence[Entry]) -> Figure | Missing:
    """Draw all runs' losses over tokens, in a unit that they share."""
    tokenizers = {tokenizer_of(entry.run) for entry in entries}
    is_one = len(tokenizers) == 1 and None not in tokenizers
    name, unit = (LOSS, "nats per token") if is_one else ("train/bits_per_byte", "bits per byte")
    curves = {e.name: smooth(series(steps_taken(e.run), name, by="tokens")) for e in entries}
    why = "one tokenizer" if is_one else "tokenizers differ or are not known, so not per token"
    note = f"Running means, in {unit}: {why}. Each run reads batches of its own data."
    return overlay("loss-by-tokens", "Training loss by tokens", unit, curves, note)


def validations(entries: Sequence[Entry]) -> list[object]:
    """Draw each source's in-loop validation, of those runs that hold out the same text."""
    sources = dict.fromkeys(n for entry in entries for n in validated_sources(entry.run))
    if not sources:
        why = "No run wrote a validation."
        return [Missing(anchor="validation", title="Held-out bits per byte", why=why)]
    found = [validation(entries, source, number) for number, source in enumerate(sources)]
    refused = [told for _, told in found if told]
    blocks: list[object] = [drawn for drawn, _ in found if drawn is not None]
    if refused:
        blocks.append(Notes(title="Not comparable", lines=refused))
    return blocks


def validation(
    entries: Sequence[Entry], source: str, number: int
) -> tuple[Figure | Missing | None, str]:
    """Draw one source; say which runs are left out, and why."""
    having = [entry for entry in entries if source in validated_sources(entry.run)]
    first = held_out_set(having[0].run, source)
    shown = [e for e in having if first is not None and held_out_set(e.run, source) == first]
    left_out = [entry.name for entry in having if entry not in shown]
    title = f"Held-out bits per byte by tokens: {one_line(source)}"
    name = f"validation/{source}{SUFFIX}"
    curves = {e.name: series(e.run.validations, name, by="tokens") for e in shown}
    note = "Taken by the runs themselves, on one held-out text. Less is better."
    drawn = overlay(f"held-out-{number}", title, "bits per byte", curves, note) if shown else None
    if not left_out:
        return drawn, ""
    why = "another set than the first" if shown else "what the text was is not known"
    return drawn, f"{one_line(source)}: {', '.join(left_out)}: {why}"


def held_out_set(run: Run, source: str) -> tuple[str, int | None] | None:
    """Say what a run's validation of a source was taken on; None where that is not known."""
    held_out = run.dataset.splits["validation"] if run.dataset else {}
    if run.config is None or source not in held_out:
        return None
    return held_out[source].index_hash, run.config.data.validation_bytes


def overlay(
    anchor: str, title: str, unit: str, curves: dict[str, Series], note: str
) -> Figure | Missing:
    """Draw one line for each run."""
    drawn = {name: own for name, own in curves.items() if own}
    if not drawn:
        return Missing(anchor=anchor, title=title, why="No run has a finite figure of it.")
    told = "; ".join(f"{name} ends at {figure(last_finite(own))}" for name, own in drawn.items())

    def draw(sheet: Sheet) -> None:
        axes = sheet.figure.subplots()
        labels = []
        for number, (name, own) in enumerate(drawn.items()):
            line, colour = thin(own), of_series(number)
            mark = "o" if len(own.x) < 40 else ""
            style = {"color": colour, "linestyle": dashes_of(number), "markersize": 3.5}
            axes.plot(line.x, line.y, marker=mark, **style)
            labels.append(Label(last_finite(own), name, colour))
        axes.set_xlabel("tokens trained on")
        axes.set_title(unit[0].upper() + unit[1:])
        keep_few_ticks(axes, sheet)
        axes.xaxis.set_major_formatter(lambda value, _: scaled(value) if value else "0")
        label_ends(sheet, axes, labels)

    return Figure(
        anchor=anchor,
        title=title,
        caption=f"{note} The axis does not begin at 0.",
        picture=picture(anchor, draw, title=title, description=f"{told}.", heights=(320, 300)),
        table=overlay_table(title, drawn),
    )


def overlay_table(title: str, drawn: dict[str, Series]) -> Table:
    """Give the first, least and last figure of each line."""
    names = ("points", "first", "least", "last")
    return Table(
        caption=title,
        columns=(Column("run"), *(Column(name, is_number=True) for name in names)),
        rows=[
            (
                name,
                count(len(own.y)),
                figure(finite(own)[0]),
                figure(min(finite(own))),
                figure(finite(own)[-1]),
            )
            for name, own in drawn.items()
        ],
        is_folded=True,
    )


def finite(own: Series) -> list[float]:
    """Give the finite figures."""
    return [value for value in own.y.tolist() if math.isfinite(value)]


def measures(entries: Sequence[Entry]) -> list[object]:
    """Put the runs' evaluations side by side, one table for each."""
    names = {name: None for entry in entries for name in entry.evidence.own}
    if not names:
        why = "No run's folder holds results in evaluations/."
        command = "helix evaluate run_dir=RUN out=RUN/evaluations/suite.json"
        missing = Missing(anchor="measures-none", title="Evaluations", why=why, command=command)
        return [missing]
    return [measures_table(entries, name) for name in names]


def measures_table(entries: Sequence[Entry], evaluation: str) -> Table:
    """Put one evaluation's measures side by side; the first run that has it leads."""
    results = [entry.evidence.own.get(evaluation) for entry in entries]
    leader = next(result for result in results if result is not None)
    paths = {path: None for result in results if result for path in result.measures}
    return Table(
        anchor=f"measures-{anchor_of(evaluation)}",
        is_dense=True,
        caption=f"{one_line(evaluation)}: value and interval of 95%",
        columns=(
            Column("measure"),
            Column("unit"),
            *(Column(entry.name, is_number=True) for entry in entries),
        ),
        rows=[
            (
                one_line(path, most=80),
                unit_of(results, path),
                *(write_cell(leader, result, path) for result in results),
            )
            for path in paths
        ],
    )


def unit_of(results: Sequence[Result | None], path: str) -> str:
    """Give a measure's unit and which way is better."""
    measure = next(r.measures[path] for r in results if r is not None and path in r.measures)
    return f"{one_line(measure.unit)}\N{NO-BREAK SPACE}{'↓' if measure.is_lower_better else '↑'}"


def write_cell(leader: Result, result: Result | None, path: str) -> str:
    """Write a measure, or why it may not stand in this row."""
    if result is None or path not in result.measures:
        return "not measured"
    if result.settings != leader.settings:
        return OTHER_SETTINGS
    if not shares_set(leader, result, path):
        return OTHER_SET
    reading = read(result.measures[path])
    value = f"{reading} ({span(reading.low, reading.high)})"
    return value if result is leader else f"{value}\n{verdict(leader, result, path)}"


def verdict(leader: Result, result: Result, path: str) -> str:
    """Say whether a measure differs from the leader's by more than chance, its items in pairs."""
    if path not in leader.measures:
        return "nothing to compare with"
    ours, theirs = leader.measures[path], result.measures[path]
    try:
        with np.errstate(all="ignore"):
            return judge(compare_measure(result.evaluation, path, ours, theirs))
    except ConfigError:
        return "other items"


def settings(entries: Sequence[Entry]) -> Table | Missing:
    """List the settings in which the runs differ."""
    if any(entry.run.config is None for entry in entries):
        without = ", ".join(entry.name for entry in entries if entry.run.config is None)
        why = f"No config that this helix reads: {without}."
        return Missing(anchor="settings-none", title="Settings", why=why)
    flat = [configs.flatten(configs.to_dict(entry.run.config)) for entry in entries]
    paths = sorted({path for own in flat for path in own} - set(PLACES))
    rows = [
        (path, *(one_line(own.get(path, NOTHING), most=80) for own in flat))
        for path in paths
        if len({repr(own.get(path)) for own in flat}) > 1
    ]
    return Table(
        caption="Settings that differ" if rows else "All settings are the same",
        columns=(Column("setting"), *(Column(entry.name) for entry in entries)),
        rows=rows,
    )
