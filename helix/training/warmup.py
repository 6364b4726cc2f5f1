"""Compiles the kernels of a run before its ranks meet.

A kernel is compiled when it is first launched, which can take seconds, and ranks do not finish
alike. Inside a step the others would wait in a collective that knows nothing of it and has a time
limit; before the process group is made nobody waits. One block of each kind and the head run once,
forward and backward, at the run's own shapes, in a thread each: the compilers work side by side.
"""

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from helix.batch import IGNORED
from helix.config import RunConfig
from helix.distributed import local_device
from helix.models import HybridConfig
from helix.models.head import TiedHead
from helix.models.stack import Stack


def warm_up(run: RunConfig) -> None:
    """Compile what the first step of a run needs; a CPU has nothing to compile."""
    device = local_device()
    if device.type != "cuda":
        return
    torch.cuda.set_device(device)
    importlib.import_module("torch._dynamo")  # imported lazily, which threads cannot do together
    jobs = [*map(block_of_kind, dict.fromkeys(run.model.kinds())), head]
    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(run_once, job, run, device) for job in jobs]:
            done.result()
    torch.cuda.empty_cache()


Module = TypeVar("Module", bound=nn.Module)
Job = Callable[[RunConfig, Tensor], Tensor]  # hidden states to what is differentiated


def run_once(job: Job, run: RunConfig, device: torch.device) -> None:
    """Run a part of the model forward and backward on random hidden states."""
    dtype = torch.bfloat16 if run.training.precision == "bf16" else torch.float32
    shape = run.training.micro_batch_rows, run.data.n_context, run.model.d_model
    with torch.cuda.device(device):
        hidden = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
        result = job(run, hidden)
        result.backward(torch.zeros_like(result))
        torch.cuda.synchronize()


def block_of_kind(kind: str) -> Job:
    """Run a stack of one block of a kind."""

    def job(run: RunConfig, hidden: Tensor) -> Tensor:
        assert isinstance(run.model, HybridConfig)
        config = replace(
            run.model, pattern=kind, recompute="none", recompute_every=1, recompute_kinds=""
        )
        stack = drawn(Stack(config), hidden)
        documents = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
        return stack(hidden, documents)[0]

    return job


def head(run: RunConfig, hidden: Tensor) -> Tensor:
    """Run the loss of the tied head."""
    with torch.device("meta"):
        embedding = nn.Embedding(run.model.n_vocab, run.model.d_model)
    embedding = drawn(embedding, hidden)
    model = run.model
    layer = TiedHead(
        embedding,
        chunk_rows=model.loss_chunk_rows,
        backend=model.loss_backend,
        is_fp8="head" in model.fp8.split(),
    )
    targets = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
    targets[:, -1] = IGNORED
    return layer(hidden, targets)


def drawn(module: Module, like: Tensor) -> Module:
    """Put a module on a tensor's device and dtype with small random weights."""
    module = module.to_empty(device=like.device).to(like.dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.02)
    return module
