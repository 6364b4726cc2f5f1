"""The evidence sheet: one run on one page."""

from collections.abc import Sequence
from pathlib import Path

import helix
from evals.report.abilities import (
    decoding_section,
    facts_section,
    other_sections,
    recall_section,
)
from evals.report.again import again_section, samples_section
from evals.report.blocks import Notes, Section
from evals.report.evidence import Evidence, collect, name_of
from evals.report.gather import Run, gather
from evals.report.grid import build_grid
from evals.report.held_out import held_out_section
from evals.report.missing import missing_section
from evals.report.options import PAGE, ReportOptions
from evals.report.page import Page, make_folder, write_page
from evals.report.provenance import data_section
from evals.report.speed import speed_section
from evals.report.training import training_section
from evals.report.words import NOTHING, count, digest, moment, one_line, scaled

KICKER = "Evidence sheet"


def report(options: ReportOptions) -> list[Path]:
    """Write the evidence sheet of a run; give the page and its pictures.

    Raises:
        ConfigError: There is no such run, or results cannot be read or the page not be written.
    """
    run = gather(options.run_dir)
    evidence = collect(run, options.results)
    out = Path(options.out) if options.out else Path(options.run_dir) / "report" / PAGE
    make_folder(out)
    return write_page(build_page(run, evidence), out)


def build_page(run: Run, evidence: Evidence) -> Page:
    """Put the page together."""
    sections = [
        training_section(run),
        held_out_section(run, evidence),
        facts_section(run, evidence),
        recall_section(run, evidence),
        decoding_section(run, evidence),
        *other_sections(evidence),
        speed_section(run),
        data_section(run),
        samples_section(run, evidence),
        again_section(run, evidence),
    ]
    warnings = list_warnings(evidence)
    told = [Notes(title="Beware", lines=warnings)] if warnings else []
    blocks = [build_grid(run, evidence), *told]
    grid = Section(anchor="maturity", title="What works", blocks=blocks)
    return Page(
        kicker=KICKER,
        title=run.name,
        lead=lead(run),
        facts=head_facts(run, evidence),
        sections=[grid, *sections, missing_section(run, evidence, sections)],
        colophon=colophon(run, evidence),
    )


def lead(run: Run) -> str:
    """Say in one sentence what the run is."""
    if run.config is None:
        return "A run whose config cannot be read; its figures are below."
    config = run.config
    kinds = describe_pattern(config.model)
    data = (
        ", ".join(one_line(name) for name in sorted(run.dataset.splits["train"])[:6])
        if (run.dataset)
        else "data that are not there any longer"
    )
    return (
        f"A {config.preset} of {scaled(run.n_parameters or 0)} parameters{kinds}, trained on "
        f"{data}: {count(run.last_step)} steps of {config.training.batch_rows} rows of "
        f"{config.data.n_context:,} tokens in {config.training.precision}."
    )


def describe_pattern(model: object) -> str:
    """Name the kinds of layers of a model that has a pattern of them."""
    pattern = getattr(model, "pattern", "")
    return f" ({one_line(pattern, most=80)})" if isinstance(pattern, str) and pattern else ""


def head_facts(run: Run, evidence: Evidence) -> list[tuple[str, str]]:
    """Name the figures at the head."""
    parameters = count(run.n_parameters) if run.n_parameters else NOTHING
    planned = f" of {run.n_steps_planned:,}" if run.n_steps_planned else ""
    saved = run.checkpoint
    facts = [
        ("parameters", parameters),
        ("tokens trained on", count(run.n_tokens)),
        ("steps", f"{run.last_step:,}{planned}"),
        ("checkpoint", f"step {saved.step:,} · {digest(saved.digest)}" if saved else "none"),
        ("seed", str(run.config.seed) if run.config else NOTHING),
        ("last figure written", moment(run.changed_unix_s)),
    ]
    if evidence.own:
        facts.append(("evaluations", f"{len(evidence.own)}"))
    return facts


def list_warnings(evidence: Evidence) -> list[str]:
    """Repeat what the results warn of, and say what is not on the page."""
    return [
        *(
            f"{result.evaluation}: {one_line(warning, most=300)}"
            for result in evidence.own.values()
            for warning in result.warnings
        ),
        *(
            f"{one_line(file.name)}: figures of evaluate throughput are not on this page"
            for file in evidence.passed_over
        ),
    ]


def colophon(run: Run, evidence: Evidence) -> str:
    """Say what the page was made of."""
    results: Sequence[str] = [name_of(result) for result in evidence.own.values()]
    made_of = f"{len(run.steps):,} steps in metrics.jsonl"
    if results:
        made_of += f" and {len(results)} results of evaluations"
    return (
        f"Made by helix {helix.__version__} from {made_of}. No figure here was typed in by hand; "
        "what is missing was not measured. Intervals hold 95% of sets drawn anew from the same "
        "items."
    )
