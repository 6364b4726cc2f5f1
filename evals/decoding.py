"""Decoding: how a model goes on from held-out text, beside how its author did.

    repetition   share of groups of 4 words that stood before in the same text
    distinct n   different groups of n words over all groups, of one text
    loop         the text ends in one piece said again and again
    ended        the document ended by itself
    language     the text is in the language of its prompt

Prompts and figures are of words and characters, not of tokens, so that any tokenizers compare.
People repeat themselves, too: their line is the aim, not zero.
"""

import hashlib
import importlib.util
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from evals.contract import Measure, Result, hash_texts
from evals.evaluation import Evaluation
from evals.examinee import Examinee, held_out_text
from evals.options import Options
from evals.sampling import continue_rows
from helix.config import ConfigError
from helix.tokenizer import Tokenizer

# A word, a sign, or one character of a script that is written without spaces.
UNITS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+|[^\w\s]")
REPEATED_N = 4  # Welleck et al. 2019, arXiv:1908.04319, section 6: seq-rep-4
DISTINCT_N = (1, 2, 3)  # Li et al. 2016, arXiv:1510.03055, section 5.2
LOOP_TIMES = 3
LOOP_CHARACTERS = 24
LONGER = 1.25  # tokens that are drawn at most, over what the author's text takes
MARGIN_CHARACTERS = 16  # drawn beyond what is looked at: decoders drop a space here and there
FEW_PROMPTS = 10
N_SAMPLES = 3
AUTHOR = "author"
IDENTIFIER = "py3langid"
INSTALL = "pip install 'helix-pretraining[data]'"

SHOWN = ("repetition", "loop", "ended", "language")

Identify = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class DecodingOptions(Options):
    """Options of `helix evaluate decoding`.

    Attributes:
        n_prompts: Documents of each language, the same number of all.
        prompt_characters: Of a document's beginning that are given; cut where a word ends.
        n_characters: Of what follows that is looked at.
        temperature: Of the drawn texts; the greedy ones have none.
        top_p: Likewise.
        seed: Likewise.
        max_bytes: Held-out text to choose documents from, per source.
    """

    n_prompts: int = 32
    prompt_characters: int = 200
    n_characters: int = 400
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0
    max_bytes: int = 2_000_000

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_prompts", "prompt_characters", "n_characters", "max_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: give at least 1")
        if not self.temperature > 0:
            raise ConfigError(
                f"temperature={self.temperature}: give more than 0; greedy text is there anyway"
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p}: give a value in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The beginning of a held-out document, and how its author went on."""

    language: str
    given: str
    following: str


@dataclass(frozen=True, kw_only=True)
class Written:
    """A continuation.

    Attributes:
        has_ended: Whether it ended by itself before it was cut.
    """

    language: str
    given: str
    text: str
    has_ended: bool


@dataclass(frozen=True, kw_only=True)
class Habits:
    """What is counted of one text.

    Attributes:
        repetition: Share of its groups of 4 words that stood before; 0 where it has none.
        distinct: Different groups of 1, 2 and 3 words over all of them; 1 where it has none.
        loop_characters: Of its longest end that is one piece again and again.
    """

    repetition: float
    distinct: tuple[float, ...]
    loop_characters: int


def read_habits(text: str) -> Habits:
    """Count what a text repeats; capitals count for nothing."""
    words = UNITS.findall(text.lower())
    return Habits(
        repetition=1 - share_distinct(words, REPEATED_N),
        distinct=tuple(share_distinct(words, n) for n in DISTINCT_N),
        loop_characters=measure_loop(text),
    )


def share_distinct(words: Sequence[str], n: int) -> float:
    """Give the different groups of n words that follow each other, over all; 1 without any."""
    groups = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    return len(set(groups)) / len(groups) if groups else 1.0


def measure_loop(text: str) -> int:
    """Measure the longest end of a text that is one piece said 3 times or more; 0 for none.

    An end of less than 24 characters is none: people write "ha ha ha" and lines of dots.
    """
    codes = np.frombuffer(text.rstrip().encode("utf-32-le"), dtype=np.uint32)
    longest = 0
    for period in range(1, len(codes) // LOOP_TIMES + 1):
        differs = np.flatnonzero(codes[period:] != codes[:-period])
        last = int(differs[-1]) + 1 if len(differs) else 0
        length = len(codes) - last
        if length >= max(LOOP_TIMES * period, LOOP_CHARACTERS):
            longest = max(longest, length)
    return longest


def measure(examinee: Examinee, options: DecodingOptions) -> Result:
    """Have a model go on from held-out text, greedy and drawn."""
    chosen, warnings = choose_prompts(examinee, options)
    ways: dict[str, list[Written]] = {AUTHOR: [as_written(prompt) for prompt in chosen]}
    for way, temperature in {"greedy": 0.0, "sampled": options.temperature}.items():
        ways[way] = write(examinee, chosen, options, temperature=temperature, title=way)
    identify = load_identifier()
    if identify is None:
        warnings.append(f"language: not measured: {IDENTIFIER} is not installed; {INSTALL}")
    languages = list(dict.fromkeys(prompt.language for prompt in chosen))
    measures: dict[str, Measure] = {}
    for way, texts in ways.items():
        for language in languages:
            own = [text for text in texts if text.language == language]
            measures |= measure_texts(f"{way}/{language}", own, identify)
    return Result(
        evaluation=EVALUATION.name,
        subject=examinee.subject,
        settings={
            "prompt_characters": options.prompt_characters,
            "n_characters": options.n_characters,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "seed": options.seed,
        },
        sets={
            language: hash_texts(p.given + p.following for p in chosen if p.language == language)
            for language in languages
        },
        measures=measures,
        figures={"samples": keep_samples(ways, languages, options), "languages": languages},
        warnings=warnings,
    )


def choose_prompts(examinee: Examinee, options: DecodingOptions) -> tuple[list[Prompt], list[str]]:
    """Choose documents by the hash of their text, as many of each language; say what is missing.

    Raises:
        ConfigError: The model is not of a run and no run is named; or no document is long enough.
    """
    by_language: dict[str, list[Prompt]] = {}
    for source in held_out_text(examinee, options, max_bytes=options.max_bytes):
        found = by_language.setdefault(source.language, [])
        for text in source.texts():
            if prompt := cut_prompt(text, source.language, options):
                found.append(prompt)
    short = [language for language, found in by_language.items() if not found]
    needed = options.prompt_characters + options.n_characters
    warnings = [
        f"{language}: not measured: no document of {needed} characters" for language in short
    ]
    counts = [len(found) for found in by_language.values() if found]
    if not counts:
        raise ConfigError(
            f"n_characters={options.n_characters}: no held-out document has {needed} characters; "
            "give fewer, or a smaller prompt_characters"
        )
    n_prompts = min(options.n_prompts, *counts)
    if n_prompts < FEW_PROMPTS:
        warnings.append(f"{n_prompts} prompts of each language say little")
    chosen = [
        prompt
        for language in sorted(by_language)
        for prompt in sorted(by_language[language], key=hash_prompt)[:n_prompts]
    ]
    return chosen, warnings


def cut_prompt(text: str, language: str, options: DecodingOptions) -> Prompt | None:
    """Cut the beginning off a document, where a word ends; None where it is too short."""
    if len(text) < options.prompt_characters + options.n_characters:
        return None
    words = text[: options.prompt_characters].rsplit(maxsplit=1)
    given = text[: options.prompt_characters]
    if len(words) == 2:
        given = given[: len(given.rstrip()) - len(words[1].rstrip())].rstrip()
    following = text[len(given) :][: options.n_characters]
    return Prompt(language=language, given=given, following=following)


def hash_prompt(prompt: Prompt) -> str:
    """Hash a prompt and what follows: an order that depends on the text alone."""
    return hashlib.sha256((prompt.given + prompt.following).encode()).hexdigest()


def as_written(prompt: Prompt) -> Written:
    """Take the author's own text as a continuation."""
    return Written(
        language=prompt.language, given=prompt.given, text=prompt.following, has_ended=False
    )


def write(
    examinee: Examinee,
    prompts: Sequence[Prompt],
    options: DecodingOptions,
    *,
    temperature: float,
    title: str,
) -> list[Written]:
    """Let the model go on from each prompt, as far as is looked at."""
    tokenizer = examinee.tokenizer
    given = [[tokenizer.bos_id, *tokenizer.encode(prompt.given)] for prompt in prompts]
    n_tokens = max(count_tokens(tokenizer, prompts), 1)
    rows = continue_rows(
        examinee,
        given,
        n_tokens=n_tokens,
        n_characters=options.n_characters + MARGIN_CHARACTERS,
        temperature=temperature,
        top_p=options.top_p if temperature else 1.0,
        seed=options.seed,
        title=title,
    )
    written = []
    for prompt, ids in zip(prompts, rows, strict=True):
        text = tokenizer.decode(ids)
        has_ended = len(ids) < n_tokens and len(text) <= options.n_characters
        text = text[: options.n_characters]
        written.append(
            Written(language=prompt.language, given=prompt.given, text=text, has_ended=has_ended)
        )
    return written


def count_tokens(tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> int:
    """Count the tokens to draw: what the longest author's text takes, and a quarter more."""
    longest = max(len(tokenizer.encode(prompt.following)) for prompt in prompts)
    return math.ceil(LONGER * longest)


def measure_texts(
    name: str, texts: Sequence[Written], identify: Identify | None
) -> dict[str, Measure]:
    """Measure the texts of one language, written in one way."""
    habits = [read_habits(text.text) for text in texts]
    columns = {
        "repetition": ([own.repetition for own in habits], "share", True),
        "loop": ([own.loop_characters > 0 for own in habits], "share", True),
        "loop_characters": ([own.loop_characters for own in habits], "characters", True),
        "characters": ([len(text.text) for text in texts], "characters", False),
        "ended": ([text.has_ended for text in texts], "texts that ended / texts", True),
    }
    for column, n in enumerate(DISTINCT_N):
        values = [own.distinct[column] for own in habits]
        columns[f"distinct_{n}"] = (values, "different groups / groups", False)
    if identify is not None:
        is_kept = [bool(t.text.strip()) and identify(t.text) == t.language for t in texts]
        columns["language"] = (is_kept, "share", False)
    return {
        f"{name}/{what}": Measure.mean(values, unit=unit, is_lower_better=is_lower_better)
        for what, (values, unit, is_lower_better) in columns.items()
    }


def load_identifier() -> Identify | None:
    """Load what names the language of a text; None where it is not installed."""
    if importlib.util.find_spec(IDENTIFIER) is None:
        return None
    from data_tools.clean.language import classify

    return classify


def keep_samples(
    ways: dict[str, list[Written]], languages: Sequence[str], options: DecodingOptions
) -> list[dict[str, Any]]:
    """Keep the first texts of each language, as they came, in all ways of writing."""
    samples = []
    for language in languages:
        for way, texts in ways.items():
            own = [text for text in texts if text.language == language]
            drawn = {"temperature": options.temperature, "top_p": options.top_p}
            samples += [
                {
                    "how": way,
                    "language": language,
                    "prompt": text.given,
                    "text": text.text,
                    **(drawn if way == "sampled" else {}),
                }
                for text in own[:N_SAMPLES]
            ]
    return samples


def show(result: Result, console: Console) -> None:
    """Print a table, a line for each way of writing and language, and the first texts."""
    table = Table(title=f"Decoding, {result.subject.name}")
    columns = {what: [what] for what in SHOWN} | {
        f"distinct {'/'.join(map(str, DISTINCT_N))}": [f"distinct_{n}" for n in DISTINCT_N]
    }
    for name in ("", *columns):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for line in dict.fromkeys(name.rpartition("/")[0] for name in result.measures):
        cells = (write_figures(result, line, names) for names in columns.values())
        table.add_row(line, *cells)
    console.print(table)
    for sample in result.figures["samples"]:
        if sample["how"] != AUTHOR:
            console.print(f"{sample['how']}, {sample['language']}:", style="bold")
            console.print(repr(sample["text"]), markup=False, highlight=False, soft_wrap=True)


def write_figures(result: Result, line: str, names: Sequence[str]) -> str:
    """Write some figures of a line; nothing for one that was not measured."""
    found = (result.measures.get(f"{line}/{name}") for name in names)
    return "/".join(f"{measure.value:.2f}" for measure in found if measure)


EVALUATION = Evaluation("decoding", DecodingOptions, measure, show)
