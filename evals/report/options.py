"""Options of `helix report`."""

from dataclasses import dataclass

from helix.config import ConfigError

PAGE = "report.html"


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of `helix report`.

    Attributes:
        run_dir: Folder of a run.
        results: File or folder of what `helix evaluate` wrote; the run's evaluations/ where it is
            not given. Results of other models in it stand beside the run's own.
        out: HTML file to write, pictures beside it; the run's report/report.html where it is not
            given.
    """

    run_dir: str
    results: str = ""
    out: str = ""

    def __post_init__(self) -> None:
        refuse_other_endings(self.out)


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Options of `helix report compare RUN_A RUN_B ...`.

    Attributes:
        out: HTML file to write, pictures beside it.
    """

    out: str = "comparison.html"

    def __post_init__(self) -> None:
        refuse_other_endings(self.out)


def refuse_other_endings(out: str) -> None:
    """Refuse a file that a browser would not take for a page."""
    if out and not out.endswith((".html", ".htm")):
        raise ConfigError(f"out={out}: give a file that ends in .html")
