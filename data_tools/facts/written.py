"""Facts that were written by hand, and translations; wrong answers come from the same table."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from data_tools.facts.choose import choose_by_group
from data_tools.facts.fact import Candidate, Fact, Wording
from data_tools.facts.tables import LICENCE, SOURCE, read_table, split_list
from evals.items import HARDNESSES

Row = Mapping[str, str]
PLAIN = ("geography", "history", "science")  # tables whose rows hold whole prompts
# without quotation marks: after a quoted word a model would quote its answer, too
WORD_PROMPTS = {
    "plural": Wording("Erst war es {}, jetzt sind es zwei", "First it was one {}, now it is two"),
    "past": Wording("Heute {} ich, gestern", "Today I {}, yesterday I"),
    "opposite": Wording("Das Gegenteil von {} ist", "The opposite of {} is"),
}
TRANSLATION = Wording("Das englische Wort für {} lautet", "The German word for {} is")


def written_facts() -> Iterator[Fact]:
    """Yield the facts of geography.tsv, history.tsv, science.tsv and language.tsv."""
    for category in PLAIN:
        columns = ("relation", "group", "prompt_de", "answer_de", "prompt_en", "answer_en")
        rows = read_table(category, columns)
        yield from facts_of_rows(category, rows, prompt_of_row)
    columns = ("relation", "group", "word_de", "answer_de", "word_en", "answer_en", "also_true")
    yield from facts_of_rows("language", read_table("language", columns), prompt_of_word)


def facts_of_rows(
    category: str, rows: Sequence[Row], prompt_of: Callable[[Row], Wording]
) -> Iterator[Fact]:
    """Yield a fact for each row with a prompt; those of one relation share their candidates."""
    pools: dict[str, list[Candidate]] = defaultdict(list)
    for row in rows:
        pools[row["relation"]].append(candidate_of(row))
    for row in rows:
        prompt = prompt_of(row)
        if prompt.en:
            id = f"{row['relation']}/{slug(row, prompt)}"
            yield Fact(
                id=id,
                category=category,
                relation=row["relation"],
                prompt=prompt,
                answer=candidate_of(row).wording,
                distractors=distractors_of(id, row, pools[row["relation"]]),
                source=SOURCE,
                licence=LICENCE,
            )


def prompt_of_row(row: Row) -> Wording:
    """Give the prompt that a row holds."""
    return Wording(row["prompt_de"], row["prompt_en"])


def prompt_of_word(row: Row) -> Wording:
    """Put the word of a row into the prompt of its relation."""
    prompt = WORD_PROMPTS[row["relation"]]
    return Wording(prompt.de.format(row["word_de"]), prompt.en.format(row["word_en"]))


def candidate_of(row: Row) -> Candidate:
    """Give the answer of a row."""
    return Candidate(Wording(row["answer_de"], row["answer_en"]), row["group"])


def slug(row: Row, prompt: Wording) -> str:
    """Name a fact within its relation: by its word, else by its English prompt."""
    text = row.get("word_en") or prompt.en
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    return "-".join(words)


def distractors_of(id: str, row: Row, pool: Sequence[Candidate]) -> dict[str, list[Wording]]:
    """Take the ladder of the answer, or the hard ones from the row and the rest from the pool."""
    if ladder := read_ladders(row["relation"]).get(row["answer_en"]):
        return ladder
    answer = candidate_of(row)
    also_true = split_list(row.get("also_true", ""))
    pairs = zip(split_list(row.get("hard_de", "")), split_list(row.get("hard_en", "")), strict=True)
    hard = [Wording(*pair) for pair in pairs]
    wanted = [level for level in HARDNESSES if level != "hard" or not hard]
    if hard:  # whatever else is in the answer's group is one step easier than those
        also_true += [text for wording in hard for text in (wording.de, wording.en)]
        pool = [Candidate(c.wording, widen(c.group)) for c in pool]
        answer = Candidate(answer.wording, f"{widen(row['group'])}/own")
    chosen = choose_by_group(id, answer, pool, hardnesses=wanted, also_true=also_true)
    return ({"hard": hard} if hard else {}) | chosen


def widen(group: str) -> str:
    """Give the wide part of a group."""
    return group.partition("/")[0]


def read_ladders(relation: str) -> dict[str, dict[str, list[Wording]]]:
    """Read the wrong answers by hardness of relations with few possible answers."""
    rows = read_table("ladders", ("relation", "en", "de", *HARDNESSES))
    own = [row for row in rows if row["relation"] == relation]
    names = {row["en"]: Wording(row["de"], row["en"]) for row in own}
    return {
        row["en"]: {level: [names[name] for name in split_list(row[level])] for level in HARDNESSES}
        for row in own
        if row["hard"]
    }


def translation_facts() -> Iterator[Fact]:
    """Yield the facts of translations.tsv: each item's answer is in the other language."""
    rows = read_table("translations", ("group", "de", "en"))
    pool = [Candidate(Wording(row["en"], row["de"]), row["group"]) for row in rows]
    for row, answer in zip(rows, pool, strict=True):
        id = f"translation/{row['en']}"
        yield Fact(
            id=id,
            category="language",
            relation="translation",
            prompt=Wording(TRANSLATION.de.format(row["de"]), TRANSLATION.en.format(row["en"])),
            answer=answer.wording,
            distractors=choose_by_group(id, answer, pool),
            source=SOURCE,
            licence=LICENCE,
        )
