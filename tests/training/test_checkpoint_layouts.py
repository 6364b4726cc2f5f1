"""Fragments of every ZeRO stage and number of ranks, loaded under every other: bit by bit."""

import itertools

import pytest
import torch

from helix.training import checkpoint
from tests.training.runs import (
    load_and_save_again,
    save_after_a_step,
    saving_fails_on_rank,
    stage_words,
    tensors_of,
)

LAYOUTS = [*itertools.product((0, 1, 2, 3), (1, 2)), ("2_offload", 2), ("3_offload", 2)]


def name_of(layout):
    stage, n_ranks = layout
    return f"zero{stage}-ranks{n_ranks}"


def run_under(layout, two_ranks, function, config, *arguments):
    if layout[1] == 1:
        function(config, *arguments)
    else:
        two_ranks.run(function, config, *arguments)


@pytest.fixture
def config_of(tiny_run, tmp_path):
    def make(layout, *words, run_dir):
        stage, n_ranks = layout
        rows = f"training.micro_batch_rows={4 // n_ranks}"
        return tiny_run(*stage_words(stage, tmp_path), rows, *words, run_dir=run_dir)

    return make


@pytest.mark.ranks
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_layout_loads_under_every_other_bit_by_bit(config_of, two_ranks, tmp_path, precision):
    layouts = [(s, n) for s, n in LAYOUTS if s or precision == "fp32"]
    word = f"training.precision={precision}"
    paths = []
    for layout in layouts:
        config = config_of(layout, word, run_dir=name_of(layout))
        run_under(layout, two_ranks, save_after_a_step, config)
        paths.append(checkpoint.newest(config.run_dir))
    expected = {path: tensors_of(path) for path in paths}
    for layout in layouts:
        out = tmp_path / f"from-{name_of(layout)}"
        config = config_of(layout, word, run_dir=out.name)
        run_under(layout, two_ranks, load_and_save_again, config, paths, out)
        for path in paths:
            found = tensors_of(checkpoint.newest(out / path.parents[1].name))
            assert found.keys() == expected[path].keys()
            for name, value in expected[path].items():
                assert torch.equal(found[name], value), (path, layout, name)


@pytest.mark.ranks
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_each_of_two_ranks_writes_half(config_of, two_ranks, stage):
    config = config_of((stage, 2), run_dir="run")
    two_ranks.run(save_after_a_step, config)
    path = checkpoint.newest(config.run_dir)
    n_bytes = [sum(file.stat().st_size for file in path.glob(f"*-{rank:05d}-*")) for rank in (0, 1)]
    n_elements = sum(value.numel() for value in tensors_of(path).values())
    assert sum(n_bytes) == pytest.approx(4 * n_elements, rel=0.1)  # and headers
    assert n_bytes[1] == pytest.approx(n_bytes[0], rel=0.1)
    assert len(list(path.glob("weights-00001-*"))) > 3


@pytest.mark.ranks
@pytest.mark.parametrize("failing", [0, 1])
def test_disk_that_is_full_on_one_rank_is_an_error_on_both(config_of, two_ranks, failing):
    config = config_of((1, 2), run_dir="run")
    for message, names in two_ranks.run(saving_fails_on_rank, config, failing):
        assert "step-00000002: not written" in message
        assert "No space left on device; earlier checkpoints are untouched" in message
        assert names == ["latest", "step-00000001"]
    assert checkpoint.newest(config.run_dir).name == "step-00000001"
