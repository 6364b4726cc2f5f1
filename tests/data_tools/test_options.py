from dataclasses import dataclass
from typing import Literal

import pytest

from data_tools import train_tokenizer
from data_tools.options import VERBS, main, read_options, run_program


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a verb.

    Attributes:
        out: Where to.
    """

    inputs: tuple[str, ...]
    out: str
    n: int = 3
    share: float = 0.5
    kind: Literal["a", "b"] = "a"
    replace: bool = False
    limit: int | None = 7


def test_values_get_the_types_of_their_fields():
    arguments = ["x.txt", "out=o", "n=4", "share=1e-3", "kind=b", "replace=true", "limit=null", "y"]
    assert read_options(Options, arguments) == Options(
        inputs=("x.txt", "y"), out="o", n=4, share=1e-3, kind="b", replace=True, limit=None
    )
    assert read_options(Options, ["x", "out=a=b", "limit=2"]).out == "a=b"


def test_a_path_may_hold_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lang=de").mkdir()
    words = ["lang=de", "parts/lang=de/a.jsonl", "parts/lang=*/*.txt", "out=parts/lang=en"]
    options = read_options(Options, words)
    assert options.inputs == tuple(words[:3])
    assert options.out == "parts/lang=en"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out=o"], "inputs: missing; give inputs="),
        (["x"], "out: missing; give out="),
        (["x", "out=o", "n=four"], "n: Value 'four'"),
        (["x", "out=o", "kind=c"], "kind: "),
        (["x", "out=o", "replace=7.5"], "replace: "),
        (["x", "out=o", "repalce=true"], "repalce: no such setting; did you mean replace"),
        (["x", "out=o", "zzz=1"], "zzz: no such setting; allowed: inputs"),
        (["x", "inputs=y", "out=o"], "inputs: given twice"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        read_options(Options, arguments)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_its_options(verb, capsys):
    main([verb, "--help"])
    assert "=(required)" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_verb_the_verbs_are_listed(arguments, capsys):
    main(arguments)
    listed = "fetch, clean, value, deduplicate, decontaminate, tokenizer, shard"
    assert listed in capsys.readouterr().out


def test_a_verb_that_does_not_exist_is_refused_by_name():
    with pytest.raises(ValueError, match="data shards: no such verb; did you mean shard"):
        main(["shards"])


def test_a_bad_input_ends_in_one_message_and_status_2(tmp_path, capsys):
    arguments = [str(tmp_path / "no.txt"), f"out={tmp_path}/a.model"]
    with pytest.raises(SystemExit) as ended:
        run_program(train_tokenizer.run, train_tokenizer.TrainTokenizerOptions, arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error == f"helix: {tmp_path}/no.txt: no such file\n"
