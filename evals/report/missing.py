"""What was not measured: all that a section could not show, and what nothing here measures."""

from collections.abc import Sequence

from evals import EVALUATIONS
from evals.contract import Result
from evals.report.abilities import KNOWN, context_of
from evals.report.blocks import Column, Missing, Prose, Section, Table
from evals.report.evidence import Evidence
from evals.report.gather import Run
from evals.report.held_out import evaluate_command
from evals.report.places import read_points
from evals.report.words import NOTHING, command, one_line

ANCHOR = "not-measured"
SHOWN_BY_SECTION = KNOWN  # whose sections tell themselves that they are missing

Row = tuple[str, str, str]


def missing_section(run: Run, evidence: Evidence, sections: Sequence[Section]) -> Section:
    """List what is missing on the page, and then what no evaluation takes."""
    rows = [
        (block.title, block.why, block.command or NOTHING)
        for section in sections
        for block in section.blocks
        if isinstance(block, Missing)
    ]
    rows += missing_evaluations(run, evidence) + missing_parts(run, evidence) + never_measured(run)
    told = (
        "An evidence sheet is as good as what it leaves out. Each line is a figure that this page "
        "has not, and the command that takes it."
    )
    table = Table(
        caption="Figures that are not there",
        columns=(Column("figure"), Column("why"), Column("command")),
        rows=rows,
    )
    return Section(anchor=ANCHOR, title="What was not measured", blocks=[Prose(told), table])


def missing_evaluations(run: Run, evidence: Evidence) -> list[Row]:
    """List evaluations without a result that no section tells of."""
    return [
        (name, "It was not evaluated.", evaluate_command(run, name))
        for name in EVALUATIONS
        if name not in evidence.own and name not in SHOWN_BY_SECTION
    ]


def missing_parts(run: Run, evidence: Evidence) -> list[Row]:
    """List parts of evaluations that were made and lack something."""
    rows = [
        (name.capitalize(), f"It cannot be read: {why}.", NOTHING)
        for name, why in run.problems.items()
        if name == "checkpoint"  # config and dataset are told of in their sections
    ]
    if evidence.own and not evidence.others:
        name = ", ".join(evidence.own)
        rows.append(
            (
                f"A line that nobody here trained ({name})",
                "No result of another model was given: nothing tells how hard the sets are.",
                "helix evaluate model=FOLDER_OF_A_HUGGING_FACE_MODEL "
                + command(f"text_of={run.run_dir}", f"out={run.run_dir}/evaluations/peer.json"),
            )
        )
    result = evidence.own.get("recall")
    if result is not None:
        rows += missing_lengths(run, result)
    rows += [
        (
            f"Newest checkpoint: {one_line(own.evaluation)}",
            stale(run, own),
            again,
        )
        for own in evidence.own.values()
        if run.checkpoint and own.subject.checkpoint != run.checkpoint.digest
        for again in [evaluate_command(run, own.evaluation)]
    ]
    return rows


def missing_lengths(run: Run, result: Result) -> list[Row]:
    """List the lengths at which recall was not measured."""
    n_context = context_of(run, result)
    lengths = [point.length or 0 for point in read_points(result)]
    again = evaluate_command(run, "recall")
    rows = [
        (
            f"Recall: {one_line(entry.get('task'))} at {one_line(entry.get('length'))} tokens",
            one_line(entry.get("why"), most=160),
            again,
        )
        for entry in result.figures.get("left_out", [])
    ]
    if n_context and max(lengths, default=0) <= n_context:
        why = "No length is beyond the context of training."
        rows.append(("Recall beyond the context of training", why, again))
    return rows


def stale(run: Run, result: Result) -> str:
    """Say that a result is not of the newest checkpoint."""
    step = run.checkpoints.get(result.subject.checkpoint)
    told = f"step {step:,}" if step is not None else "a checkpoint that is there no longer"
    newest = run.checkpoint.step if run.checkpoint else 0
    return f"The result is of {told}, the newest checkpoint of step {newest:,}."


def never_measured(run: Run) -> list[Row]:
    """List what one run cannot tell."""
    seed = run.config.seed + 1 if run.config else 1
    again = command("helix", "train", f"config={run.run_dir}/config.yaml")
    return [
        (
            "How far another seed moves the figures",
            "This is one run. Intervals are over documents and items, not over seeds.",
            f"{again} run_dir=ANOTHER_FOLDER seed={seed}",
        ),
        (
            "Whether a text leaked into the training data",
            "A plausible number of bits per byte is no proof.",
            "helix data decontaminate ...",
        ),
    ]
