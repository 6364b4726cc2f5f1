"""The section on data: what the run was trained on, whose it is, and how much of it was read."""

import math
from dataclasses import dataclass

from evals.report.blocks import Column, Facts, Figure, Missing, Section, Table
from evals.report.charts import Axes, Sheet, picture
from evals.report.gather import Run
from evals.report.palette import light
from evals.report.words import NOTHING, command, count, digest, one_line, scaled, share
from helix.data.manifest import Manifest, Source

MIX = "data-mix"
SOURCES = "data-sources"
N_DRAWN = 24
NAMED_LICENCES = 3


@dataclass(frozen=True, kw_only=True)
class SourceUse:
    """One source: what there is of it, and what the run has read.

    Attributes:
        held: Its share of the dataset's training tokens.
        asked: Its share of the tokens that the config asks for; NaN where that is not known.
        drawn: Its share of the tokens that were read; NaN where that is not known.
        passes: Tokens read over tokens there.
    """

    name: str
    source: Source
    n_held_out: int
    held: float
    asked: float
    drawn: float
    passes: float


def data_section(run: Run) -> Section:
    """Show what the run was trained on."""
    if run.dataset is None:
        missing = Missing(
            anchor=MIX,
            title="Data mix and provenance",
            why=f"The dataset's manifest cannot be read: {run.problems.get('dataset', '')}",
            command="helix data stats path=FOLDER_OF_THE_DATASET",
        )
        return Section(anchor="data", title="Data", blocks=[missing])
    uses = list_uses(run, run.dataset)
    blocks = [mix(uses), provenance_table(uses), identity(run, run.dataset)]
    return Section(anchor="data", title="Data", blocks=blocks)


def list_uses(run: Run, dataset: Manifest) -> list[SourceUse]:
    """Say of each source what there is of it and what was read."""
    held_out, sources = dataset.splits["validation"], dataset.splits["train"]
    n_tokens = sum(source.n_tokens for source in sources.values())
    weights = (run.config.data.weights or dict.fromkeys(sources, 1.0)) if run.config else {}
    drawn = tokens_drawn(run)
    total_weight, total_drawn = sum(weights.values()), sum(drawn.values())
    uses = [
        SourceUse(
            name=name,
            source=source,
            n_held_out=held_out[name].n_tokens if name in held_out else 0,
            held=source.n_tokens / n_tokens if n_tokens else math.nan,
            asked=weights.get(name, 0.0) / total_weight if total_weight else math.nan,
            drawn=drawn.get(name, 0) / total_drawn if total_drawn else math.nan,
            passes=drawn.get(name, 0) / source.n_tokens if drawn and source.n_tokens else math.nan,
        )
        for name, source in sources.items()
    ]
    return sorted(uses, key=lambda use: (-use.held, use.name))


def tokens_drawn(run: Run) -> dict[str, int]:
    """Read from the newest checkpoint how many tokens of each source were read."""
    cursors = run.checkpoint.loader.get("cursors", {}) if run.checkpoint else {}
    return {name: int(cursor[2]) for name, cursor in cursors.items() if len(cursor) > 2}


def mix(uses: list[SourceUse]) -> Figure:
    """Draw the share of each source in the dataset and in what was read."""
    drawn_uses = uses[:N_DRAWN]
    is_drawn = any(math.isfinite(use.drawn) for use in uses)
    told = "; ".join(f"{one_line(use.name)} {share(use.held)}" for use in uses[:12])
    title = "Data mix by source"

    def draw(sheet: Sheet) -> None:
        draw_shares(sheet, sheet.figure.subplots(), drawn_uses, is_drawn=is_drawn)

    height = 80 + (34 if is_drawn else 24) * len(drawn_uses)
    read = " Pale bars: share of the tokens that the run has read." if is_drawn else ""
    return Figure(
        anchor=MIX,
        title=title,
        caption=f"Dark bars: share of the training tokens that the dataset holds.{read}",
        picture=picture(
            "data-mix",
            draw,
            title=title,
            description=f"Share of the dataset's training tokens: {told}.",
            heights=(height, height),
        ),
        table=shares_table(uses),
    )


def draw_shares(sheet: Sheet, axes: Axes, uses: list[SourceUse], *, is_drawn: bool) -> None:
    """Draw bars, with their figures at their ends."""
    thick = 0.36 if is_drawn else 0.6
    most = max([use.held for use in uses] + [use.drawn for use in uses if use.drawn == use.drawn])
    for y, use in enumerate(uses):
        own = y - thick / 2 if is_drawn else y
        bars = [(own, use.held, 1.0)]
        if math.isfinite(use.drawn):
            bars.append((y + thick / 2, use.drawn, 0.45))
        for place, value, alpha in bars:
            axes.barh(place, value, height=thick, color=light("blue"), alpha=alpha, linewidth=0)
            axes.annotate(
                share(value),
                (value, place),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9.5,
                color=light("muted"),
            )
    longest = 14 if sheet.is_narrow else 30
    names = [f"{one_line(use.name, most=longest)} ({use.source.language})" for use in uses]
    axes.set_yticks(range(len(uses)), names)
    axes.tick_params(axis="y", labelcolor=light("ink"))
    axes.set_ylim(len(uses) - 0.4, -0.6)
    axes.set_xlim(0, 1.18 * most)
    axes.xaxis.set_major_formatter(lambda value, _: share(value, 0))
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("share of tokens")


def shares_table(uses: list[SourceUse]) -> Table:
    """Give all shares."""
    names = ("tokens", "held", "asked for", "read", "passes")
    return Table(
        caption="Training tokens by source: what there is, what was asked for, what was read",
        columns=(Column("source"), *(Column(name, is_number=True) for name in names)),
        rows=[
            (
                one_line(use.name),
                count(use.source.n_tokens),
                share(use.held),
                share(use.asked),
                share(use.drawn),
                f"{use.passes:.2f}" if math.isfinite(use.passes) else NOTHING,
            )
            for use in uses
        ],
        is_folded=True,
    )


def provenance_table(uses: list[SourceUse]) -> Table:
    """Say whose each source is."""
    names = ("documents", "MB", "held out, tokens")
    return Table(
        anchor=SOURCES,
        caption="Sources and their licences",
        columns=(
            Column("source"),
            Column("language"),
            *(Column(name, is_number=True) for name in names),
            Column("licence"),
        ),
        rows=[
            (
                one_line(use.name),
                one_line(use.source.language),
                count(use.source.n_documents),
                f"{use.source.n_bytes / 1e6:,.2f}",
                count(use.n_held_out),
                licences_of(use.source),
            )
            for use in uses
        ],
    )


def licences_of(source: Source) -> str:
    """Name the first licences of a source, and how many more there are."""
    named = "; ".join(one_line(licence, most=120) for licence in source.licences[:NAMED_LICENCES])
    n_more = len(source.licences) - NAMED_LICENCES
    return named + (f"; and {n_more} more" if n_more > 0 else "") if named else "none told"


def identity(run: Run, dataset: Manifest) -> Facts:
    """Name the dataset by its hashes."""
    made = ", ".join(f"{name}={value}" for name, value in sorted(dataset.creation.items()))
    wrote = ", ".join(f"{name} {value}" for name, value in sorted(dataset.versions.items()))
    held_out = "; ".join(
        f"{one_line(name)} {digest(source.index_hash)}"
        for name, source in sorted(dataset.splits["validation"].items())
    )
    n_train = sum(source.n_tokens for source in dataset.splits["train"].values())
    return Facts(
        pairs=(
            ("training tokens in the dataset", f"{n_train:,} ({scaled(n_train)})"),
            ("dataset fingerprint", dataset.fingerprint),
            ("tokenizer fingerprint", dataset.tokenizer_fingerprint),
            ("vocabulary", f"{dataset.n_vocab:,}"),
            ("held-out text by its index", held_out or "none is held out"),
            ("made with", one_line(made, most=400) or NOTHING),
            ("written by", one_line(wrote, most=200) or "not told"),
            ("look into it", command("helix", "data", "inspect", f"run_dir={run.run_dir}")),
        )
    )
