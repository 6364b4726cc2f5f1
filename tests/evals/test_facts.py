import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from evals.contract import Subject, refuse_other_sets, to_json
from evals.evaluation import evaluate
from evals.examinee import Examinee, open_examinee
from evals.facts import (
    EVALUATION,
    FactsOptions,
    begins_with,
    choose_parts,
    find_warnings,
    measure,
)
from evals.items import SHIPPED, Item, read_items, write_items
from helix.batch import IGNORED
from helix.config import ConfigError
from helix.data import DataError
from helix.models.base import LanguageModel, TokenScores
from helix.tokenizer import ByteTokenizer

SUBJECT = Subject(
    name="bigram",
    checkpoint="x",
    step=0,
    tokenizer=ByteTokenizer.fingerprint,
    precision="fp64",
    backends={},
    device="cpu",
    n_parameters=1,
)


class Bigram(LanguageModel):
    """Logits that a table gives for each token: what anything costs can be added up by hand."""

    def __init__(self, table):
        super().__init__()
        self.table = torch.nn.Parameter(table)

    def loss(self, batch):
        raise NotImplementedError

    def tie_weights(self):
        pass

    def score(self, piece):
        logits = self.table[piece.tokens]
        targets = piece.targets.clamp(min=0)[..., None]
        right = logits.gather(-1, targets)
        is_charged = piece.targets != IGNORED
        nats = (logits.logsumexp(-1) - right[..., 0]) * is_charged
        return TokenScores(nats, (logits > right).sum(-1) * is_charged), ()

    def predict(self, tokens, state=None):
        return self.table[tokens[:, -1]].float(), ()


def random_table():
    return torch.randn(258, 258, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def examinee_of(table):
    return Examinee(Bigram(table), ByteTokenizer(), SUBJECT, 64, None)


def item_of(number=0, **fields):
    given = {
        "id": f"x/{number}",
        "language": "de",
        "category": "science",
        "relation": "x",
        "prompt": f"Frage {number} ist",
        "answer": "Gold",
        "distractors": {"hard": ["Blei", "Eisenerz"], "medium": ["Zinn", "Jade"], "easy": ["Öl"]},
        "source": "x",
        "licence": "CC0-1.0",
    }
    return Item(**given | fields)


def ask(tmp_path, items, table=None, name="items", **options):
    folder = tmp_path / name
    write_items(items, folder)
    table = random_table() if table is None else table
    return measure(examinee_of(table), FactsOptions(run_dir="x", items=str(folder), **options))


def nats_by_hand(table, prompt, answer):
    """Cost of " answer" after the prompt, byte by byte, in Python floats."""
    given, rest = prompt.encode(), f" {answer}".encode()
    previous, total = given[-1], 0.0
    for byte in rest:
        row = table[previous].tolist()
        total += math.log(sum(math.exp(logit) for logit in row)) - row[byte]
        previous = byte
    return total, len(rest)


def test_margins_and_wins_are_those_added_up_by_hand(tmp_path):
    table = random_table()
    items = [item_of(n, answer=word) for n, word in enumerate(("Gold", "Kupfer", "Gas", "Uran"))]
    result = ask(tmp_path, items, table)
    order = choose_parts(items, FactsOptions(run_dir="x"))["science/de"]
    for hardness in ("hard", "medium", "easy"):
        summed, per_token, wins, wins_summed = [], [], [], []
        for item in order:
            right = nats_by_hand(table, item.prompt, item.answer)
            wrong = [nats_by_hand(table, item.prompt, w) for w in item.distractors[hardness]]
            summed.append(np.mean([w[0] - right[0] for w in wrong]))
            per_token.append(np.mean([w[0] / w[1] - right[0] / right[1] for w in wrong]))
            wins.append(all(w[0] / w[1] > right[0] / right[1] for w in wrong))
            wins_summed.append(all(w[0] > right[0] for w in wrong))
        own = {
            name.removeprefix("science/de/"): m.numerators for name, m in result.measures.items()
        }
        assert own[f"margin_{hardness}_nats"] == pytest.approx(summed, rel=1e-9)
        assert own[f"margin_{hardness}_nats_per_token"] == pytest.approx(per_token, rel=1e-9)
        assert own[f"knows_{hardness}"] == wins
        assert own[f"knows_{hardness}_summed"] == wins_summed
    assert result.figures["parts"]["science/de"]["chance"] == pytest.approx(
        {"hard": 1 / 3, "medium": 1 / 3, "easy": 1 / 2}
    )


def test_the_rank_is_that_of_the_answers_first_letter_and_not_of_the_space_before_it(tmp_path):
    table = random_table()
    result = ask(tmp_path, [item_of()], table)
    row = table[ord(" ")].tolist()
    rank = sorted(row, reverse=True).index(row[ord("G")])
    assert result.figures["parts"]["science/de"]["median_first_rank"] == rank
    table[ord(" "), ord("G")] = 9.0
    measures = ask(tmp_path, [item_of()], table).measures
    assert measures["science/de/first_token_top_1"].value == 1
    table[ord(" "), :3] = 10.0
    measures = ask(tmp_path, [item_of()], table).measures
    assert measures["science/de/first_token_top_1"].value == 0
    assert measures["science/de/first_token_top_10"].value == 1


def test_the_prompt_is_not_charged(tmp_path):
    """Whatever a prompt costs, margins depend on nothing but what follows it."""
    table = random_table()
    cheap, dear = (table.clone() for _ in range(2))
    item = item_of(prompt="QXWV")  # none of these letters is in an answer
    for before, after in zip(b"QXW", b"XWV", strict=True):
        dear[before, after] -= 50
    results = [ask(tmp_path, [item], t, n_greedy_items=0) for t in (cheap, dear)]
    margins = [r.measures["science/de/margin_hard_nats"].value for r in results]
    assert margins[0] == pytest.approx(margins[1], abs=1e-9)


def chain(*texts):
    """A table that says these texts: after each byte the next, at the end the document's."""
    table = torch.zeros(258, 258, dtype=torch.float64)
    for text in texts:
        for before, after in zip(text.encode(), [*text.encode()[1:], 257], strict=True):
            table[before, after] = 9
    return table


def test_greedy_text_that_begins_with_the_answer_is_right(tmp_path):
    result = ask(tmp_path, [item_of(prompt="X", answer="Gold")], chain("X Gold."))
    assert result.measures["science/de/greedy_begins_right"].value == 1
    assert result.figures["samples"]["science/de"][0]["text"] == " Gold."
    result = ask(tmp_path, [item_of(prompt="X", answer="Gold")], chain("X Goldig"), n_tokens=1)
    assert result.measures["science/de/greedy_begins_right"].value == 0
    assert result.figures["samples"]["science/de"][0]["text"] == " Goldi"
    silent = ask(tmp_path, [item_of()], n_greedy_items=0)
    assert not any("greedy" in name for name in silent.measures)
    assert silent.figures["samples"]["science/de"] == []


@pytest.mark.parametrize(
    ("text", "answer", "is_right"),
    [
        (" Paris.", "Paris", True),
        ("\n paris, die", "Paris", True),
        (" „Paris“ ist", "Paris", True),
        (" Pariser", "Paris", False),
        (" die Stadt Paris", "Paris", False),
        (" 17890", "1789", False),
        (" New  York City", "New York", True),
        (" Heinrich VIII., der", "Heinrich VIII.", True),
        (" Reykjavi\u0301k", "Reykjavík", True),
        ("", "Paris", False),
    ],
)
def test_an_answer_counts_as_whole_words_whatever_its_case(text, answer, is_right):
    assert begins_with(text, answer) is is_right


def test_neither_the_order_of_distractors_nor_that_of_items_changes_anything(tmp_path):
    items = [item_of(n, answer=word) for n, word in enumerate(("Gold", "Kupfer", "Gas"))]
    turned = [
        dataclasses.replace(i, distractors={h: t[::-1] for h, t in i.distractors.items()})
        for i in items[::-1]
    ]
    one, other = ask(tmp_path, items), ask(tmp_path, turned)
    assert one.sets == other.sets
    for name, own in one.measures.items():
        assert own.numerators == pytest.approx(other.measures[name].numerators, abs=1e-12)


def test_other_items_are_another_set(tmp_path):
    one = ask(tmp_path, [item_of(0), item_of(1)])
    for other in ([item_of(0)], [item_of(0), item_of(1, answer="Erz")]):
        with pytest.raises(ConfigError, match=r"science/de: the sets differ"):
            refuse_other_sets(one, ask(tmp_path, other))


def test_a_tie_is_no_win(tmp_path):
    result = ask(tmp_path, [item_of(answer="Gold")], torch.zeros(258, 258, dtype=torch.float64))
    assert result.measures["science/de/knows_medium_summed"].value == 0
    assert result.measures["science/de/margin_medium_nats"].value == pytest.approx(0, abs=1e-12)


def test_warnings_name_small_parts_uneven_lengths_and_chance(tmp_path):
    long = {"hard": ["Eisenerzvorkommen", "Bleierzvorkommen"]}
    result = ask(tmp_path, [item_of(n, distractors=long) for n in range(3)], chain("X"))
    assert "science/de: 3 items say little" in result.warnings
    assert any("science/de hard (100%)" in warning for warning in result.warnings)
    assert any("not told from chance in science/de" in warning for warning in result.warnings)
    assert set(result.figures["parts"]["science/de"]["chance"]) == {"hard"}
    assert find_warnings({}, {}) == []


def test_what_is_asked_can_be_narrowed_and_twins_stay_together():
    items = read_items(SHIPPED)
    chosen = choose_parts(items, FactsOptions(run_dir="x", categories="history", n_items=20))
    assert list(chosen) == ["history/de", "history/en"]
    assert [i.id for i in chosen["history/de"]] == [i.id for i in chosen["history/en"]]
    assert len({i.relation for i in chosen["history/de"]}) > 2
    parts = choose_parts(items, FactsOptions(run_dir="x", languages="en"))
    assert [name.partition("/")[0] for name in parts] == [
        "geography",
        "history",
        "science",
        "language",
    ]
    with pytest.raises(ConfigError, match=r"languages=fr: no item is of fr"):
        choose_parts(items, FactsOptions(run_dir="x", languages="fr"))
    with pytest.raises(ConfigError, match="n_items=0: give at least 1"):
        FactsOptions(run_dir="x", n_items=0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: no item"),
        ('{"id": "x"}', "line 1: no item"),
        (json.dumps(dataclasses.asdict(item_of(answer=""))), "a field is empty"),
        (json.dumps(dataclasses.asdict(item_of(distractors={"hard": []}))), "give distractors"),
        (json.dumps(dataclasses.asdict(item_of(distractors={"odd": ["x"]}))), "hardnesses are"),
        (json.dumps(dataclasses.asdict(item_of(answer="Blei"))), "is the answer, or is given"),
        (json.dumps(dataclasses.asdict(item_of(distractors={"hard": ["x", "x"]}))), "given twice"),
        ("\n".join(2 * [item_of().to_line()]), "id x/0 is there 2 times in de"),
        ("", "no items; give"),
    ],
)
def test_lines_that_are_no_items_are_named(tmp_path, line, message):
    path = tmp_path / "mine.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        read_items(path)


def test_a_separator_of_unicode_s_ends_no_line(tmp_path):
    item = item_of(prompt="Zeile\u2028zwei ist")
    write_items([item], tmp_path)
    assert read_items(tmp_path) == [item]


def test_a_trained_run_is_asked_and_twice_gives_the_same_text(trained_run, capsys):
    options = FactsOptions(
        run_dir=trained_run.run_dir, n_items=4, n_greedy_items=2, n_tokens=4, json=True
    )
    torch.manual_seed(5)
    state = torch.get_rng_state()
    result = evaluate(EVALUATION, options)
    assert torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr().out == to_json([result])
    assert to_json([measure(open_examinee(options), options)]) == to_json([result])
    assert set(result.sets) == {
        f"{category}/{language}"
        for category in ("geography", "history", "science", "language")
        for language in ("de", "en")
    }
    for column in ("knows_hard", "first_token_top_10", "greedy_begins_right"):
        assert f"history/de/{column}" in result.measures
    evaluate(EVALUATION, dataclasses.replace(options, json=False))
    shown = capsys.readouterr().out
    assert "chance" in shown
    assert "greedy" in shown
