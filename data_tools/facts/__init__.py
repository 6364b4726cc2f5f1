"""Facts: build the items that the evaluation of facts asks. `helix data facts out=FOLDER`.

pinned packages and tables written by hand -> facts in two languages -> checked items
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class FactsOptions:
    """Options of `facts`.

    Writes facts.de.jsonl and facts.en.jsonl. The shipped set is in evals/items; whoever changes it
    changes the set that all results are compared on.

    Attributes:
        out: Folder to write.
        cache: Folder of downloaded packages; by default the user's cache folder.
    """

    out: str
    cache: str = ""


def run(options: FactsOptions) -> None:
    """Build the items and print how many there are of what."""
    from data_tools.facts.build import build_facts, describe
    from data_tools.fetch import default_cache

    cache = Path(options.cache).expanduser() if options.cache else default_cache()
    print(describe(build_facts(Path(options.out), cache)))
