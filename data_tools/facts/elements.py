"""Facts of the chemical elements: symbol and atomic number."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data_tools.facts.choose import choose_alike, numbers_around
from data_tools.facts.fact import Fact, Wording
from data_tools.facts.packages import Packages, cite
from data_tools.facts.tables import read_table
from evals.items import HARDNESSES

# how far from the right atomic number the wrong ones lie
NUMBER_STEPS = {"hard": (1, 3), "medium": (5, 10), "easy": (20, 60)}
FAR = 20  # atomic numbers between elements that have little in common


@dataclass(frozen=True)
class NamedElement:
    """An element with its name in both languages."""

    symbol: str
    number: int
    name: Wording


def element_facts(packages: Packages) -> Iterator[Fact]:
    """Yield the facts of the elements that elements.tsv names in German."""
    names = {row["symbol"]: row for row in read_table("elements", ("symbol", "de", "en"))}
    named = [
        NamedElement(
            element.symbol,
            element.number,
            Wording(names[element.symbol]["de"], names[element.symbol]["en"] or element.name_en),
        )
        for element in packages.elements
        if element.symbol in names
    ]
    for element in named:
        yield symbol_fact(element, named)
        if element.number >= 10:  # one digit leaves no room for three hardnesses
            yield number_fact(element)


def symbol_fact(element: NamedElement, elements: Sequence[NamedElement]) -> Fact:
    """Ask for the symbol: wrong ones have its length; hard ones begin alike."""
    id = f"symbol/{element.name.en}"
    others = [
        other for other in elements if len(other.symbol) == len(element.symbol) and other != element
    ]
    if len(element.symbol) == 1:
        by_distance = sorted(others, key=lambda other: abs(other.number - element.number))
        levels = {"hard": by_distance[:3], "medium": by_distance[4:8], "easy": by_distance[9:]}
    else:
        alike = [other for other in others if set(other.symbol) & set(element.symbol)]
        hard = [other for other in alike if other.symbol[0] == element.symbol[0]]
        hard = hard if len(hard) >= 2 else alike
        rest = [other for other in others if other not in alike]
        near = [other for other in rest if abs(other.number - element.number) <= FAR]
        far = [other for other in rest if abs(other.number - element.number) > FAR]
        levels = {"hard": hard, "medium": near, "easy": far}
    source, licence = cite("mendeleev")
    answer = Wording(element.symbol, element.symbol)
    return Fact(
        id=id,
        category="science",
        relation="symbol",
        prompt=Wording(
            f"Das chemische Symbol für {element.name.de} ist",
            f"The chemical symbol for {element.name.en} is",
        ),
        answer=answer,
        distractors={
            hardness: choose_alike(
                id, answer, [Wording(o.symbol, o.symbol) for o in found], where=hardness
            )
            for hardness, found in levels.items()
        },
        source=source,
        licence=licence,
    )


def number_fact(element: NamedElement) -> Fact:
    """Ask for the atomic number: wrong ones have two digits, too."""
    id = f"atomic_number/{element.name.en}"
    distractors = {}
    for hardness in HARDNESSES:
        low, high = NUMBER_STEPS[hardness]
        numbers = numbers_around(id, element.number, low=low, high=high, least=10, most=99)
        distractors[hardness] = [Wording(str(number), str(number)) for number in numbers]
    source, licence = cite("mendeleev")
    return Fact(
        id=id,
        category="science",
        relation="atomic_number",
        prompt=Wording(
            f"Die Ordnungszahl des Elements {element.name.de} ist",
            f"The atomic number of the element {element.name.en} is",
        ),
        answer=Wording(str(element.number), str(element.number)),
        distractors=distractors,
        source=source,
        licence=licence,
    )
