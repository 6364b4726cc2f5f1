"""The five ways in which the first of these systems deceived its makers, each tried on purpose."""

import json
import random

import numpy as np
import pytest
import torch

from data_tools.documents import Document
from data_tools.make_shards import make_shards
from helix.cli import main
from helix.config import ConfigError
from helix.data import DataConfig, build_validation
from helix.tokenizer import ByteTokenizer
from helix.training.trainer import train


def evaluate(run_dir, out, *words):
    command = ["evaluate", "bits_per_byte", f"run_dir={run_dir}", f"out={out}", "json=true"]
    return main([*command, *words])


def test_a_learning_rate_carried_over(tiny_run, trained_run):
    """Weights that had come down to a small rate were trained on with the first one."""
    origin = f"training.warm_start={trained_run.run_dir}"
    with pytest.raises(ConfigError, match=r"optimizer.learning_rate=0.004: .* times the .* give"):
        train(tiny_run(origin, "optimizer.learning_rate=4e-3"))


def test_two_validation_sets_compared(trained_run, tmp_path, capsys):
    """A figure on one set was held against a figure on another."""
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    assert evaluate(trained_run.run_dir, one) == 0
    assert evaluate(trained_run.run_dir, other, "max_bytes=200") == 0
    capsys.readouterr()
    assert main(["evaluate", "compare", str(one), str(other)]) == 2
    assert "figures of different text cannot be compared" in capsys.readouterr().err


def test_a_wrong_constant_of_tokens_per_byte(trained_run, tmp_path, capsys):
    """Nats per token were turned into bits per byte by a constant of other text."""
    assert evaluate(trained_run.run_dir, tmp_path / "a.json", "tokens_per_byte=0.2") == 2
    assert "tokens_per_byte" in capsys.readouterr().err
    assert evaluate(trained_run.run_dir, tmp_path / "a.json") == 0
    (result,) = json.loads((tmp_path / "a.json").read_text())["results"]
    sources = build_validation(trained_run.data, ByteTokenizer())
    for source in sources:
        counted = result["measures"][f"source/{source.name}/bits_per_byte"]["denominators"]
        assert counted == [len(text.encode()) for text in source.texts()]


def test_an_evaluation_without_a_seed(trained_run, tmp_path):
    """Two evaluations of one checkpoint differed, and one of them was told."""
    texts = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        assert evaluate(trained_run.run_dir, tmp_path / f"{seed}.json") == 0
        texts.append((tmp_path / f"{seed}.json").read_text())
    assert texts[0] == texts[1]


def test_a_tail_of_one_source_as_validation(tmp_path):
    """The end of the concatenated files was held out: all of it one source."""
    documents = [
        Document(
            id=str(number),
            text=f"{source} {number} " + "text " * (number % 7),
            source=source,
            language="de",
            licence="CC0-1.0",
        )
        for source in ("wiki", "manual", "letters")
        for number in range(200)
    ]
    chosen = []
    for order in (documents, documents[::-1]):
        path = tmp_path / f"data{len(chosen)}"
        make_shards(order, ByteTokenizer(), path, validation_fraction=0.1)
        sources = build_validation(
            DataConfig(path=str(path), validation_bytes=300), ByteTokenizer()
        )
        chosen.append({source.name: set(source.texts()) for source in sources})
        assert all(0 < source.n_bytes <= 300 for source in sources)
    assert chosen[0].keys() == {"wiki", "manual", "letters"}
    assert chosen[0] == chosen[1]
