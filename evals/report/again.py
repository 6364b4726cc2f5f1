"""The sections on what the model writes and on how to make the run again."""

import platform
from typing import Any

import helix
from evals.contract import Result
from evals.report.blocks import Code, Column, Facts, Missing, Prose, Sample, Section, Table
from evals.report.evidence import Evidence, name_of
from evals.report.gather import Run
from evals.report.held_out import evaluate_command
from evals.report.series import number
from evals.report.words import NOTHING, command, count, digest, one_line, plain
from helix.training.attempts import version_of

SAMPLES = "samples-of-text"
AGAIN = "again"
PACKAGES = ("torch", "deepspeed", "numpy", "sentencepiece", "matplotlib")
N_SAMPLES = 18  # three texts of two languages, greedy, drawn, and by their author
SAMPLE_CHARACTERS = 1500


def samples_section(run: Run, evidence: Evidence) -> Section:
    """Show text that the model wrote."""
    found = find_samples(evidence) + samples_of_summary(run)
    blocks: list[object] = list(found[:N_SAMPLES])
    if not found:
        blocks = [
            Missing(
                anchor=SAMPLES,
                title="Samples of text",
                why="No result holds text that the model wrote.",
                command=evaluate_command(run, "decoding"),
            )
        ]
    else:
        told = "As they were drawn, none chosen by eye."
        blocks.insert(
            0, Prose(told if len(found) <= N_SAMPLES else f"The first {N_SAMPLES}. {told}")
        )
    return Section(anchor=SAMPLES if found else "samples", title="Samples of text", blocks=blocks)


def find_samples(evidence: Evidence) -> list[Sample]:
    """Find the texts in the results' figures, wherever an evaluation keeps a list of samples."""
    found = []
    for name, result in evidence.own.items():
        if name == "facts":  # whose texts stand beside the right answers
            continue
        for path, entry in walk(result.figures):
            if isinstance(entry, dict) and is_sample(entry):
                found.append(read_sample(result, path, entry))
    return found


def walk(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    """List all that is nested in dicts and lists, with where it is."""
    if isinstance(tree, dict):
        below = [(f"{path}/{key}".strip("/"), value) for key, value in tree.items()]
    elif isinstance(tree, list):
        below = [(path, value) for value in tree]
    else:
        return []
    return [item for where, value in below for item in [(where, value), *walk(value, where)]]


def is_sample(entry: dict[str, Any]) -> bool:
    """Tell a sample from other figures: a prompt and what was written after it."""
    return isinstance(entry.get("prompt"), str) and isinstance(written(entry), str)


def written(entry: dict[str, Any]) -> Any:
    """Give what was written, by the names that evaluations have for it."""
    return next((entry[name] for name in ("continuation", "text", "output") if name in entry), None)


def read_sample(result: Result, path: str, entry: dict[str, Any]) -> Sample:
    """Read one sample."""
    how = [str(entry[name]) for name in ("how", "language") if name in entry]
    drawn = [f"{name} {entry[name]}" for name in ("temperature", "top_p") if name in entry]
    origin = "; ".join([", ".join(how) or path, *drawn, name_of(result)])
    return Sample(
        origin=one_line(origin, most=160),
        prompt=plain(entry["prompt"])[:SAMPLE_CHARACTERS],
        text=plain(written(entry))[:SAMPLE_CHARACTERS],
        language=one_line(entry.get("language", ""), most=12),
    )


def samples_of_summary(run: Run) -> list[Sample]:
    """Read the samples that `helix demo` drew at the end of its run."""
    samples = run.summary.get("samples", {})
    if not isinstance(samples, dict):
        return []
    return [
        Sample(
            origin=f"{one_line(source)}, as helix demo drew it after the last step",
            prompt="",
            text=plain(text)[:SAMPLE_CHARACTERS],
        )
        for source, text in samples.items()
    ]


def again_section(run: Run, evidence: Evidence) -> Section:
    """Give all that it takes to make the run and its figures again."""
    blocks: list[object] = [Facts(pairs=list_pairs(run))]
    if run.config_text:
        blocks.append(Code(title="config.yaml", text=plain(run.config_text)))
    else:
        blocks.append(no_file("config.yaml", run.problems.get("config", "")))
    if run.engine_text:
        blocks.append(Code(title="deepspeed.json", text=plain(run.engine_text)))
    else:
        blocks.append(no_file("deepspeed.json", "the folder holds none"))
    if evidence.own or evidence.others:
        blocks.append(results_table(evidence))
    return Section(anchor=AGAIN, title="To make it again", blocks=blocks)


def list_pairs(run: Run) -> list[tuple[str, str]]:
    """Name seeds, versions and the commands."""
    versions = ", ".join(f"{name} {version_of(name) or 'is not installed'}" for name in PACKAGES)
    train = command("helix", "train", f"config={run.run_dir}/config.yaml", "run_dir=ANOTHER_FOLDER")
    pairs = [
        ("seed", str(run.config.seed) if run.config else NOTHING),
        ("train it again", train),
        ("made with", tell_attempts(run)),
        (
            "versions that made this page",
            f"helix {helix.__version__}, Python {platform.python_version()}, {versions}",
        ),
        ("make this page again", command("helix", "report", f"run_dir={run.run_dir}")),
    ]
    if run.checkpoint:
        pairs.insert(1, ("checkpoint, SHA-256 of its manifest", run.checkpoint.digest))
    return pairs


def tell_attempts(run: Run) -> str:
    """Say on what, and with which software, a run was trained; each combination once."""
    told: dict[str, None] = {}
    for entry in run.attempts:
        versions = ", ".join(f"{plain(k)} {plain(v)}" for k, v in entry["versions"].items())
        n_ranks = count(number(entry, "n_ranks"))
        told[f"{n_ranks} x {one_line(entry.get('device', NOTHING))}: {versions}"] = None
    return "; then ".join(told) or "not recorded in the run's folder"


def no_file(name: str, why: str) -> Missing:
    """Say that a file is not there."""
    return Missing(anchor=f"no-{name.split('.')[0]}", title=name, why=f"It cannot be read: {why}.")


def results_table(evidence: Evidence) -> Table:
    """List the results that this page is made of, with what they depend on."""
    results = [*evidence.own.values(), *evidence.older, *evidence.others]
    names = ("evaluation", "of", "checkpoint", "tokenizer", "arithmetic", "device", "helix", "use")
    own, older = list(evidence.own.values()), evidence.older
    return Table(
        caption="Results that this page is made of",
        columns=tuple(Column(name) for name in names),
        rows=[
            (
                result.evaluation,
                name_of(result),
                digest(result.subject.checkpoint),
                digest(result.subject.tokenizer),
                arithmetic_of(result),
                one_line(result.subject.device),
                result.helix_version,
                "shown" if result in own else "not shown" if result in older else "control",
            )
            for result in results
        ],
        is_folded=True,
    )


def arithmetic_of(result: Result) -> str:
    """Name precision and kernels."""
    backends = sorted(set(result.subject.backends.values()))
    return ", ".join([result.subject.precision, *backends])
