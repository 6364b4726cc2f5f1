from dataclasses import replace

import pytest
import torch

from helix.presets import PRESETS
from helix.training.warmup import block_of_kind, head, warm_up
from tests.training.runs import with_words
from tests.training.test_engine import steps_of


@pytest.mark.parametrize("kind", ["mamba2", "gla", "sparse", "attention", "head"])
def test_each_part_runs_forward_and_backward_at_the_shapes_of_the_run(kind):
    run = PRESETS["hybrid_tiny"]()
    hidden = torch.randn(2, run.data.n_context, run.model.d_model, requires_grad=True)
    result = (head if kind == "head" else block_of_kind(kind))(run, hidden)
    result.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()
    assert hidden.grad.abs().sum() > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_steps_after_warming_up_compile_nothing(tiny_run, monkeypatch):
    triton = pytest.importorskip("triton")
    run = with_words(tiny_run("training.precision=bf16"), micro_batch_rows=4)
    run = replace(run, data=replace(run.data, n_context=256))
    warm_up(run)
    compiled = []
    monkeypatch.setattr(
        triton.knobs.runtime,
        "jit_post_compile_hook",
        lambda *_, **event: compiled.append(event["repr"]),
    )
    steps_of(run, n_steps=2)
    assert compiled == []
