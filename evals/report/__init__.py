"""The evidence sheet of a run: one HTML file that needs no network, and its figures as PNG."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from helix.config import ConfigError, load_options

PACKAGES = ("jinja2", "matplotlib")


def run(words: Sequence[str]) -> None:
    """Write the sheet of a run, or of several beside each other: compare RUN_A RUN_B ... [out=].

    Raises:
        ConfigError: A word, a run or a result does not fit, or a package is missing.
    """
    for package in PACKAGES:
        if find_spec(package) is None:
            raise ConfigError(f"report: needs {package}: pip install 'helix-pretraining[report]'")
    page, *pictures = write_comparison(words[1:]) if words[:1] == ["compare"] else write(words)
    print(page)
    if pictures:
        print(f"{len(pictures)} pictures in {pictures[0].parent}")


def write(words: Sequence[str]) -> list[Path]:
    """Write the sheet of one run."""
    from evals.report.options import ReportOptions
    from evals.report.sheet import report

    return report(load_options(ReportOptions, words))


def write_comparison(words: Sequence[str]) -> list[Path]:
    """Write the comparison of several runs: words without a "=" are their folders."""
    from evals.report.compare import compare
    from evals.report.options import CompareOptions

    run_dirs = [word for word in words if "=" not in word or Path(word).is_dir()]
    rest = [word for word in words if word not in run_dirs]
    return compare(run_dirs, load_options(CompareOptions, rest))
