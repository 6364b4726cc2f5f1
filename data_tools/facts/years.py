"""Facts of history that end in a year."""

from collections.abc import Iterator

from data_tools.facts.choose import numbers_around
from data_tools.facts.fact import Fact, Wording
from data_tools.facts.tables import LICENCE, SOURCE, read_table

# how many years from the right one the wrong ones lie
STEPS = {"hard": (1, 4), "medium": (8, 20), "easy": (50, 150)}
LAST_YEAR = 2020


def year_facts() -> Iterator[Fact]:
    """Yield the facts of years.tsv; their wrong years are made here."""
    for row in read_table("years", ("id", "year", "de", "en")):
        id = f"year/{row['id']}"
        yield Fact(
            id=id,
            category="history",
            relation="year",
            prompt=Wording(row["de"], row["en"]),
            answer=Wording(row["year"], row["year"]),
            distractors={
                hardness: [Wording(year, year) for year in wrong_years(id, row["year"], hardness)]
                for hardness in STEPS
            },
            source=SOURCE,
            licence=LICENCE,
        )


def wrong_years(id: str, year: str, hardness: str) -> list[str]:
    """Choose years before and after, with as many digits."""
    low, high = STEPS[hardness]
    least = 10 ** (len(year) - 1)
    most = min(10 * least - 1, LAST_YEAR)
    years = numbers_around(id, int(year), low=low, high=high, least=least, most=most)
    return [str(wrong) for wrong in years]
