import math
from dataclasses import replace

import pytest
import torch

from helix.presets import PRESETS
from helix.training.flops import (
    block_flops,
    peak_tflops,
    recomputed_flops_per_token,
    training_flops_per_token,
    utilisation,
)

MODEL = PRESETS["hybrid_0_9b"]().model
N_CONTEXT = 4096


def test_blocks_and_head_make_up_the_model():
    blocks = sum(block_flops(MODEL, kind, N_CONTEXT)["block"] for kind in MODEL.kinds())
    head = MODEL.flops_by_part(N_CONTEXT)["head"]
    assert training_flops_per_token(MODEL, N_CONTEXT) == 3 * (blocks + head)


def test_full_recomputation_runs_every_block_once_more_but_not_the_head():
    full = replace(MODEL, recompute="full")
    parts = MODEL.flops_by_part(N_CONTEXT)
    assert recomputed_flops_per_token(full, N_CONTEXT) == sum(parts.values()) - parts["head"]
    for how in ("none", "selective"):
        assert recomputed_flops_per_token(replace(MODEL, recompute=how), N_CONTEXT) == 0


def test_recomputing_each_kind_alone_adds_up_to_recomputing_all():
    full = replace(MODEL, recompute="full")
    kinds = dict.fromkeys(MODEL.kinds())
    alone = [
        recomputed_flops_per_token(replace(full, recompute_kinds=kind), N_CONTEXT) for kind in kinds
    ]
    assert sum(alone) == recomputed_flops_per_token(full, N_CONTEXT)


def test_a_device_at_its_peak_is_used_wholly():
    assert utilisation(2 * 10**9, tokens_per_s=500.0, peak=1.0) == pytest.approx(1.0)


def test_without_a_known_peak_there_is_no_share():
    assert peak_tflops(torch.device("cpu")) is None
    assert math.isnan(utilisation(1, tokens_per_s=1.0, peak=None))
