"""All items: from the packages and from what was written by hand, in one order."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_tools.facts.check import check_items
from data_tools.facts.countries import country_facts
from data_tools.facts.elements import element_facts
from data_tools.facts.fact import Fact
from data_tools.facts.packages import Packages
from data_tools.facts.written import translation_facts, written_facts
from data_tools.facts.years import year_facts
from evals.items import CATEGORIES, LANGUAGES, Item, write_items
from helix.data import DataError


def build_facts(out: Path, cache: Path) -> list[Item]:
    """Build the items and write them; the same packages give the same bytes.

    Raises:
        DataError: A package cannot be had, or an item breaks a rule; then nothing is written.
    """
    packages = Packages(cache)
    facts = [*country_facts(packages), *element_facts(packages), *handwritten_facts()]
    items = items_of(facts)
    if findings := check_items(items):
        raise DataError(f"{len(findings)} items break a rule; the first: {findings[0]}")
    write_items(items, out)
    return items


def handwritten_facts() -> list[Fact]:
    """Give the facts that need no package."""
    return [*written_facts(), *translation_facts(), *year_facts()]


def items_of(facts: Sequence[Fact]) -> list[Item]:
    """Give the items of facts, by category and id."""
    ordered = sorted(facts, key=lambda fact: (CATEGORIES.index(fact.category), fact.id))
    return [item for fact in ordered for item in fact.items()]


def describe(items: Sequence[Item]) -> str:
    """Draw how many items there are by category, relation and language."""
    row = "{:<12} {:<20} {:>6} {:>6}".format
    lines = [row("category", "relation", *LANGUAGES)]
    kinds = Counter((item.category, item.relation, item.language) for item in items)
    for category, relation in dict.fromkeys((item.category, item.relation) for item in items):
        counts = [kinds[category, relation, language] for language in LANGUAGES]
        lines.append(row(category, relation, *counts))
    totals = Counter(item.language for item in items)
    lines.append(row("all", "", *(totals[language] for language in LANGUAGES)))
    return "\n".join(lines)
