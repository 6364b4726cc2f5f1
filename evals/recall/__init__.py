"""Recall: what a model finds again in what it has read, by length, beyond its context in training.

    associative recall   the value of a key, of as many pairs as the length holds
    needle               a number that one sentence of a long text gave to a name, by depth
    copying              a random sequence, said again

All are rows of the model's own tokens, of an exact length, so that any tokenizer will do. An answer
is right where each of its tokens is the likeliest of the whole vocabulary. Beside that stands the
choice among a few candidates of the same row, for models that do not know what is asked of them;
its chance level is known.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from evals.contract import Measure, Result
from evals.evaluation import Evaluation
from evals.examinee import Examinee
from evals.recall.associative import draw_associative
from evals.recall.copying import draw_copying
from evals.recall.haystacks import Haystack, open_haystacks
from evals.recall.items import Item, TooShortError
from evals.recall.needle import draw_needles
from evals.recall.plan import Plan, RecallOptions, make_plan, show_left_out
from evals.recall.reading import Judged, judge_items
from evals.recall.symbols import Symbols, find_symbols
from evals.recall.tables import show
from helix.distributed import derive_seed

RECIPE = 1  # to be raised when the same seed gives other items


def measure(examinee: Examinee, options: RecallOptions) -> Result:
    """Have a model read the rows of each task and length that the plan allows."""
    plan = make_plan(examinee, options)
    symbols = find_symbols(examinee.tokenizer, options.n_symbols)
    haystacks = open_haystacks(examinee, options, plan.lengths.get("needle", []))
    measures: dict[str, Measure] = {}
    sets: dict[str, str] = {}
    figures: dict[str, Any] = {"chance": {}, "rows": {}, "n_context": examinee.n_context}
    for task, lengths in plan.lengths.items():
        for length in lengths:
            try:
                items = draw_items(examinee, options, task, length, symbols, haystacks)
            except TooShortError as error:
                plan.leave_out(task, length, str(error))
                continue
            judged = judge_items(examinee, items, options, title=f"{task}, {length}")
            name = f"{task}/{length}"
            measures |= measure_task(task, length, items, judged)
            sets[name] = hash_recipe(options, task, length, haystacks)
            figures["chance"][name] = chance_of(items)
            figures["rows"][name] = hash_rows(items)
    figures["left_out"] = plan.left_out
    return Result(
        evaluation=EVALUATION.name,
        subject=examinee.subject,
        settings={
            "n_items": options.n_items,
            "n_symbols": options.n_symbols,
            "filler": options.filler,
            "seed": options.seed,
        },
        sets=sets,
        measures=measures,
        figures=figures,
        warnings=[*find_warnings(plan, measures), *find_repetition(plan, haystacks, options)],
    )


def draw_items(
    examinee: Examinee,
    options: RecallOptions,
    task: str,
    length: int,
    symbols: Symbols,
    haystacks: Sequence[Haystack],
) -> list[Item]:
    """Draw the rows of a task and length, each from its own seed."""
    tokenizer = examinee.tokenizer
    items = []
    for number in range(options.n_rows(length)):
        rng = np.random.default_rng(derive_seed(options.seed, task, length, number))
        if task == "associative_recall":
            items.append(draw_associative(symbols, length, bos_id=tokenizer.bos_id, rng=rng))
        elif task == "copying":
            items.append(draw_copying(tokenizer, symbols, length, rng))
        else:
            haystack = haystacks[number % len(haystacks)]
            items.append(draw_needles(tokenizer, haystack, length, rng))
    return items


def measure_task(
    task: str, length: int, items: Sequence[Item], judged: Sequence[Sequence[Judged]]
) -> dict[str, Measure]:
    """Measure a task at a length; a row is what an interval draws anew."""
    n_answers = [float(len(row)) for row in judged]
    name = f"{task}/{length}"
    if task == "copying":
        n_tokens = [float(item.answers[0].n_tokens) for item in items]
        return {
            f"{name}/accuracy": share([[j.tokens_right for j in row] for row in judged], n_tokens),
            f"{task}/whole/{length}/accuracy": share(rights(judged), n_answers),
            **costs(f"{name}/nats_per_token", judged, n_tokens),
        }
    chosen = share([[j.chosen for j in row] for row in judged], n_answers)
    return {
        f"{name}/accuracy": share(rights(judged), n_answers),
        f"{task}/among_candidates/{length}/accuracy": chosen,
        **costs(f"{name}/nats_per_answer", judged, n_answers),
        f"{name}/reciprocal_rank": Measure(
            numerators=[sum(j.reciprocal_rank for j in row) for row in judged],
            denominators=n_answers,
            unit="1/rank",
            is_lower_better=False,
        ),
        **measure_parts(name, items, judged),
    }


def measure_parts(
    name: str, items: Sequence[Item], judged: Sequence[Sequence[Judged]]
) -> dict[str, Measure]:
    """Measure each part of a task: the depths of needles."""
    by_part: dict[str, list[float]] = {}
    for item, row in zip(items, judged, strict=True):
        for answer, own in zip(item.answers, row, strict=True):
            if answer.part:
                by_part.setdefault(answer.part, []).append(own.right)
    return {
        f"{name}/{part}/accuracy": Measure.mean(by_part[part], unit="share", is_lower_better=False)
        for part in sorted(by_part, key=lambda part: (len(part), part))  # 25 before 100
    }


def rights(judged: Sequence[Sequence[Judged]]) -> list[list[float]]:
    """Give how right each answer of each row is."""
    return [[own.right for own in row] for row in judged]


def share(values: Sequence[Sequence[float]], counts: list[float]) -> Measure:
    """Measure a share of answers or tokens."""
    return Measure(
        numerators=[sum(row) for row in values],
        denominators=counts,
        unit="share",
        is_lower_better=False,
    )


def costs(name: str, judged: Sequence[Sequence[Judged]], counts: list[float]) -> dict[str, Measure]:
    """Measure nats; nothing where one is not a number, which `find_warnings` tells."""
    nats = [sum(own.nats for own in row) for row in judged]
    if not all(map(math.isfinite, nats)):
        return {}
    return {name: Measure(numerators=nats, denominators=counts, unit="nats", is_lower_better=True)}


def chance_of(items: Sequence[Item]) -> float | None:
    """Give how often a model that knows nothing chooses right; None where nothing is chosen."""
    sizes = [len(answer.candidates) for item in items for answer in item.answers]
    return sum(1 / size for size in sizes) / len(sizes) if all(sizes) else None


def hash_recipe(
    options: RecallOptions, task: str, length: int, haystacks: Sequence[Haystack]
) -> str:
    """Hash what a set is made by.

    Rows are of a model's own tokens: two tokenizers never read the same ids, but by one recipe.
    """
    recipe: dict[str, Any] = {
        "recipe": RECIPE,
        "task": task,
        "length": length,
        "n_rows": options.n_rows(length),
        "seed": options.seed,
    }
    if task == "needle":
        recipe["haystacks"] = [haystack.fingerprint for haystack in haystacks]
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def hash_rows(items: Sequence[Item]) -> str:
    """Hash the ids of the rows: equal for two models of one tokenizer."""
    return hashlib.sha256(b"".join(item.ids.tobytes() for item in items)).hexdigest()


def find_warnings(plan: Plan, measures: dict[str, Measure]) -> list[str]:
    """Say what a reader must know before believing the figures."""
    costed = {name.rpartition("/")[0] for name in measures if "/nats_per_" in name}
    broken = [
        f"{task} at {length}: the model's scores are not numbers; such answers count as wrong"
        for task, lengths in plan.lengths.items()
        for length in lengths
        if f"{task}/{length}/accuracy" in measures and f"{task}/{length}" not in costed
    ]
    return [*show_left_out(plan.left_out), *broken]


def find_repetition(plan: Plan, haystacks: Sequence[Haystack], options: RecallOptions) -> list[str]:
    """Say where a row is longer than the text that hides its needles."""
    longest = max(plan.lengths.get("needle", []), default=0)
    return [
        f"needle: the held-out text in {haystack.language} has {len(haystack.ids):,} tokens; "
        "longer rows say it again"
        for haystack in haystacks
        if options.filler == "held_out" and len(haystack.ids) < longest
    ]


EVALUATION = Evaluation("recall", RecallOptions, measure, show)
