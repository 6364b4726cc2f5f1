"""Facts, in three columns that are never one: what a model knows, what it finds, what it says.

    knowledge   margin = NLL(wrong answer) - NLL(right answer), the prompt given and not charged
    recall      rank of the right answer's first token among all of the vocabulary
    decoding    whether greedy text begins with the right answer

A model can hold a fact to be likelier than its rivals and yet never say it; a sum of the three
would hide that. Margins are told per token and summed, for each flatters answers of other lengths.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from evals.contract import Measure, Result, hash_texts
from evals.evaluation import Evaluation
from evals.examinee import Examinee
from evals.items import CATEGORIES, HARDNESSES, SHIPPED, Item, read_items
from evals.options import Options
from evals.sampling import continue_rows
from evals.scoring import encode_pairs, score_continuations
from helix.config import ConfigError
from helix.scoring import Row, RowScores
from helix.tokenizer import Tokenizer

FEW_ITEMS = 30
DISAGREE = 0.1  # share of items on which the two margins may differ in sign without a warning
TOP = (1, 10)  # ranks that count as found
N_SAMPLES = 3  # of each part's greedy texts, kept to be read
SPACE = " "  # between a prompt and an answer


@dataclass(frozen=True, kw_only=True)
class FactsOptions(Options):
    """Options of `helix evaluate facts`.

    Attributes:
        items: .jsonl file, or folder of them; the shipped set where not given.
        categories: Names with commas between them; all where not given.
        languages: Codes with commas between them; all where not given.
        n_items: Of each category and language, twins together; all where not given.
        n_greedy_items: How many of those are gone on with as text; 0 leaves decoding out.
        n_tokens: Of that text; more where an answer is longer.
    """

    items: str = ""
    categories: str = ""
    languages: str = ""
    n_items: int | None = None
    n_greedy_items: int = 50
    n_tokens: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        lowest = {"n_items": 1, "n_greedy_items": 0, "n_tokens": 1}
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name}={value}: give at least {least}")


@dataclass(frozen=True, kw_only=True)
class Margin:
    """By how much a wrong answer cost more than the right one, in nats."""

    summed: float
    per_token: float


@dataclass(frozen=True, kw_only=True)
class Answered:
    """An item and what the model made of it.

    Attributes:
        margins: Of each distractor, by hardness.
        first_rank: Entries of the vocabulary that were likelier than the answer's first token.
    """

    item: Item
    margins: dict[str, list[Margin]]
    first_rank: int


@dataclass(frozen=True, kw_only=True)
class Said:
    """Greedy text after an item's prompt."""

    item: Item
    text: str

    @property
    def is_right(self) -> bool:
        """Tell whether it begins with the answer, as whole words."""
        return begins_with(self.text, self.item.answer)


def measure(examinee: Examinee, options: FactsOptions) -> Result:
    """Ask a model for facts.

    Raises:
        DataError: There are no items, or a line is none.
        ConfigError: No item is of the categories and languages that are asked for.
    """
    parts = choose_parts(read_items(options.items or SHIPPED), options)
    every = [item for part in parts.values() for item in part]
    answered = {key(found.item): found for found in answer_items(examinee, every, options)}
    said = {key(found.item): found for found in say_items(examinee, parts, options)}
    measures: dict[str, Measure] = {}
    figures: dict[str, Any] = {"parts": {}, "relations": {}, "samples": {}}
    for name, items in parts.items():
        own = [answered[key(item)] for item in items]
        spoken = [said[key(item)] for item in items if key(item) in said]
        measures |= {f"{name}/{what}": m for what, m in measure_part(own, spoken).items()}
        figures["parts"][name] = describe_part(own)
        figures["relations"] |= describe_relations(name, own)
        figures["samples"][name] = [describe_said(one) for one in spoken[:N_SAMPLES]]
    return Result(
        evaluation="facts",
        subject=examinee.subject,
        settings={
            "n_items": options.n_items,
            "n_greedy_items": options.n_greedy_items,
            "n_tokens": options.n_tokens,
        },
        sets={name: hash_items(items) for name, items in parts.items()},
        measures=measures,
        figures=figures,
        warnings=find_warnings(measures, figures["parts"]),
    )


def key(item: Item) -> tuple[str, str]:
    """Give what names an item among all languages."""
    return item.language, item.id


def choose_parts(items: Iterable[Item], options: FactsOptions) -> dict[str, list[Item]]:
    """Sort the items that are asked for by category and language; twins are chosen together.

    Returns:
        "geography/de" to its items, in an order that the file's has no part in.
    """
    by_part: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        by_part.setdefault((item.category, item.language), []).append(item)
    for name, given, there in (
        ("categories", options.categories, {category for category, _ in by_part}),
        ("languages", options.languages, {language for _, language in by_part}),
    ):
        if unknown := sorted(set(split_names(given)) - there):
            raise ConfigError(f"{name}={given}: no item is of {unknown[0]}; there are {there}")
    places = {category: place for place, category in enumerate(CATEGORIES)}
    return {
        f"{category}/{language}": sorted(own, key=scatter)[: options.n_items]
        for (category, language), own in sorted(
            by_part.items(), key=lambda part: (places.get(part[0][0], len(places)), *part[0])
        )
        if category in (split_names(options.categories) or [category])
        and language in (split_names(options.languages) or [language])
    }


def split_names(given: str) -> list[str]:
    """Split names with commas between them."""
    return [name.strip() for name in given.split(",") if name.strip()]


def scatter(item: Item) -> tuple[bytes, str]:
    """Give what orders items as if by chance, twins alike, so that a part of them is a fair one."""
    return hashlib.blake2b(item.id.encode(), digest_size=8).digest(), item.id


def hash_items(items: Sequence[Item]) -> str:
    """Hash what items ask; the order of distractors counts for nothing."""
    return hash_texts(
        json.dumps(
            [
                item.id,
                item.prompt,
                item.answer,
                {hardness: sorted(wrong) for hardness, wrong in item.distractors.items()},
            ],
            sort_keys=True,
        )
        for item in items
    )


def answer_items(
    examinee: Examinee, items: Sequence[Item], options: FactsOptions
) -> list[Answered]:
    """Score the candidates of all items, each once, in an order of their own."""
    candidates = [
        (number, text)
        for number, item in enumerate(items)
        for text in sorted({item.answer, *(t for own in item.distractors.values() for t in own)})
    ]
    pairs = ((items[number].prompt, SPACE + text) for number, text in candidates)
    rows = encode_pairs(examinee.tokenizer, pairs)
    scores = score_continuations(examinee, rows, options, title="ask facts")
    found = dict(zip(candidates, zip(rows, scores, strict=True), strict=True))
    answered = []
    for number, item in enumerate(items):
        row, right = found[number, item.answer]
        margins = {
            hardness: [margin(found[number, text][1], right) for text in wrong]
            for hardness, wrong in item.distractors.items()
        }
        rank = int(right.ranks[first_of_answer(examinee.tokenizer, row)])
        answered.append(Answered(item=item, margins=margins, first_rank=rank))
    return answered


def margin(wrong: RowScores, right: RowScores) -> Margin:
    """Tell by how much a wrong answer costs more than the right one."""
    return Margin(
        summed=float(wrong.nats.sum() - right.nats.sum()),
        per_token=float(wrong.nats.mean() - right.nats.mean()),
    )


def first_of_answer(tokenizer: Tokenizer, row: Row) -> int:
    """Find the first charged token that is more than space: a space of its own says nothing."""
    charged = row.ids[row.n_given :]
    return next(
        (
            place
            for place, token in enumerate(charged.tolist())
            if tokenizer.token_bytes(token).strip()
        ),
        0,
    )


def say_items(
    examinee: Examinee, parts: Mapping[str, Sequence[Item]], options: FactsOptions
) -> list[Said]:
    """Go on greedily from the first prompts of each part."""
    items = [item for own in parts.values() for item in own[: options.n_greedy_items]]
    if not items:
        return []
    tokenizer = examinee.tokenizer
    longest = max(len(tokenizer.encode(SPACE + item.answer)) for item in items)
    found = continue_rows(
        examinee,
        [[tokenizer.bos_id, *tokenizer.encode(item.prompt)] for item in items],
        n_tokens=max(options.n_tokens, longest + 1),  # one more shows where the answer ends
        title="let it tell facts",
    )
    return [
        Said(item=item, text=tokenizer.decode(ids)) for item, ids in zip(items, found, strict=True)
    ]


def begins_with(text: str, answer: str) -> bool:
    """Tell whether a text begins with an answer and the word ends there; case counts not."""
    plain, wanted = normalise(text), normalise(answer)
    return bool(wanted) and re.match(rf"{re.escape(wanted)}(?!\w)", plain) is not None


def normalise(text: str) -> str:
    """Give a text without case, marks before and after it, and with single spaces."""
    plain = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return re.sub(r"^\W+|\W+$", "", plain)


def measure_part(answered: Sequence[Answered], said: Sequence[Said]) -> dict[str, Measure]:
    """Measure the three columns of one category and language."""
    measures: dict[str, Measure] = {}
    hardnesses = [h for h in HARDNESSES if any(h in found.margins for found in answered)]
    for hardness in hardnesses:
        own = [found.margins[hardness] for found in answered if hardness in found.margins]
        measures[f"margin_{hardness}_nats_per_token"] = mean(
            (average(m.per_token for m in margins) for margins in own), "nats/token"
        )
        measures[f"margin_{hardness}_nats"] = mean(
            (average(m.summed for m in margins) for margins in own), "nats"
        )
    measures |= share_won("knows_{}", answered, hardnesses, wins_per_token)
    for top in TOP:
        measures[f"first_token_top_{top}"] = mean((f.first_rank < top for f in answered), "share")
    if said:
        measures["greedy_begins_right"] = mean((one.is_right for one in said), "share")
    return measures | share_won("knows_{}_summed", answered, hardnesses, wins_summed)


def share_won(
    name: str,
    answered: Sequence[Answered],
    hardnesses: Sequence[str],
    wins: Callable[[Sequence[Margin]], bool],
) -> dict[str, Measure]:
    """Measure the share of items won against all distractors of each hardness."""
    return {
        name.format(hardness): mean(
            (wins(found.margins[hardness]) for found in answered if hardness in found.margins),
            "share",
        )
        for hardness in hardnesses
    }


def wins_per_token(margins: Sequence[Margin]) -> bool:
    """Tell whether the answer beats each distractor, per token; a tie is no win."""
    return all(margin.per_token > 0 for margin in margins)


def wins_summed(margins: Sequence[Margin]) -> bool:
    """Tell whether the answer beats each distractor as a whole; a tie is no win."""
    return all(margin.summed > 0 for margin in margins)


def average(values: Iterable[float]) -> float:
    """Give the mean."""
    held = list(values)
    return sum(held) / len(held)


def mean(values: Iterable[float], unit: str) -> Measure:
    """Measure a mean over items of which more is better."""
    return Measure.mean(values, unit=unit, is_lower_better=False)


def describe_part(answered: Sequence[Answered]) -> dict[str, Any]:
    """Give what is no ratio of sums: chance, the median rank, and how often the margins differ."""
    own = {
        hardness: [found.margins[hardness] for found in answered if hardness in found.margins]
        for hardness in HARDNESSES
    }
    own = {hardness: margins for hardness, margins in own.items() if margins}
    return {
        "n_items": len(answered),
        "median_first_rank": median(found.first_rank for found in answered),
        "chance": {
            hardness: average(1 / (1 + len(margins)) for margins in held)
            for hardness, held in own.items()
        },
        "margins_disagree": {
            hardness: average(wins_per_token(m) != wins_summed(m) for m in held)
            for hardness, held in own.items()
        },
    }


def describe_relations(part: str, answered: Sequence[Answered]) -> dict[str, dict[str, Any]]:
    """Give the figures of each relation of a part, to see which carries a category."""
    by_relation: dict[str, list[Answered]] = {}
    for found in answered:
        by_relation.setdefault(found.item.relation, []).append(found)
    return {
        f"{part}/{relation}": {"n_items": len(own)}
        | {what: measure.value for what, measure in measure_part(own, []).items()}
        for relation, own in sorted(by_relation.items())
    }


def describe_said(said: Said) -> dict[str, Any]:
    """Give a greedy text to be read."""
    item = said.item
    return {
        "id": item.id,
        "prompt": item.prompt,
        "answer": item.answer,
        "text": said.text,
        "is_right": said.is_right,
    }


def find_warnings(measures: Mapping[str, Measure], parts: Mapping[str, Any]) -> list[str]:
    """Say what a reader must know before believing the figures."""
    warnings = [
        f"{name}: {own['n_items']} items say little"
        for name, own in parts.items()
        if own["n_items"] < FEW_ITEMS
    ]
    uneven = [
        f"{name} {hardness} ({share:.0%})"
        for name, own in parts.items()
        for hardness, share in own["margins_disagree"].items()
        if share > DISAGREE
    ]
    if uneven:
        warnings.append(
            "the margin per token and the summed one disagree on who wins, as candidates' lengths "
            f"in tokens are uneven: {', '.join(uneven)}"
        )
    by_chance = [
        name
        for name, own in parts.items()
        if "hard" in own["chance"]
        and measures[f"{name}/knows_hard"].interval_95[0] <= own["chance"]["hard"]
    ]
    if by_chance:
        warnings.append(f"knows_hard is not told from chance in {', '.join(by_chance)}")
    return warnings


def show(result: Result, console: Console) -> None:
    """Print what is known, found and said for a person: one line a part, the three apart."""
    subject = result.subject
    at = "" if subject.step is None else f", step {subject.step}"
    known = make_table(
        f"Facts known, {subject.name}{at}",
        ("nats/token\nhard", "nats\nhard", "knows\nhard", "chance", "medium", "easy", "items"),
    )
    told = make_table(
        "Facts found and said",
        ("first token\ntop 1", "top 10", "median\nrank", "greedy text\nbegins right"),
    )
    for part, own in result.figures["parts"].items():
        chance = own["chance"].get("hard")
        known.add_row(
            part,
            tell(result, part, "margin_hard_nats_per_token", "+.3f"),
            tell(result, part, "margin_hard_nats", "+.2f"),
            tell(result, part, "knows_hard", ".0%"),
            "" if chance is None else f"{chance:.0%}",
            *(tell(result, part, f"knows_{hardness}", ".0%") for hardness in ("medium", "easy")),
            f"{own['n_items']:,}",
        )
        told.add_row(
            part,
            *(tell(result, part, f"first_token_top_{top}", ".0%") for top in TOP),
            f"{own['median_first_rank']:,.0f}",
            tell(result, part, "greedy_begins_right", ".0%"),
        )
    console.print(known)
    console.print(told)


def make_table(title: str, columns: Sequence[str]) -> Table:
    """Make a table whose first column names a part."""
    table = Table(title=title)
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def tell(result: Result, part: str, what: str, form: str) -> str:
    """Write a figure, or nothing where it was not taken."""
    measure = result.measures.get(f"{part}/{what}")
    return "" if measure is None else format(measure.value, form)


EVALUATION = Evaluation("facts", FactsOptions, measure, show)
