"""The engine: a model and its optimizer under DeepSpeed, which no other file runs anything of."""

import contextlib
import json
import logging
import math
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from helix.batch import Batch
from helix.config import RunConfig, write_whole
from helix.distributed import local_device
from helix.models import build_model, build_shared_out
from helix.models.base import LanguageModel, ModelState, Output, Piece, TokenScores
from helix.training.ds_settings import compose_ds_config, told_to_deepspeed
from helix.training.optimizer import build_optimizer, is_time_scale
from helix.training.pace import ForwardTimer
from helix.training.sending import GROUP_SIZE, sums_of
from helix.training.veto import Accept, Veto, accept_finite, drop_plain_step

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's own names

# Where each stage keeps its flat fp32 partitions: private names of the deepspeed that is pinned.
PARTITIONS = (
    "fp32_partitioned_groups_flat",  # stage 3
    "single_partition_of_fp32_groups",  # stages 1 and 2
    "fp32_groups_flat_partition",  # stage 1 in bf16 with fp32 accumulation
)

# Told which phase of a step begins: "forward", "backward".
Enter = Callable[[str], None]


def ignore_phase(phase: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, kw_only=True)
class ParameterState:
    """One parameter whole, whatever the sharding: fp32 weight and both moments, on the CPU.

    The moments are None before the first step.
    """

    weight: Tensor
    exp_avg: Tensor | None = None
    exp_avg_sq: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What an optimizer step did: the gradient norm before clipping, and whether it was taken."""

    gradient_norm: float
    is_applied: bool


def join_ranks() -> None:
    """Make the process group, also in a plain `python` process that no launcher started.

    The backend is NCCL where there is a GPU, gloo elsewhere. Nothing is compiled and mpi4py is
    not asked for: DeepSpeed would build its shared-memory op for inference here, and look for MPI
    where the environment does not name the ranks.
    """
    if dist.is_initialized():
        return
    if not torch.cuda.is_available():
        os.environ.setdefault(
            "DS_ACCELERATOR", "cpu"
        )  # or DeepSpeed warns that it looked for a GPU
    import deepspeed

    if "RANK" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        os.environ |= {
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    # An empty table: or each op would be probed with a compiler, and one of them built.
    setattr(deepspeed.ops, "__compatible_ops__", {})  # noqa: B010  (pyright knows no such name)
    if torch.cuda.is_available():
        torch.cuda.set_device(local_device())
    deepspeed.init_distributed(
        dist_backend="nccl" if torch.cuda.is_available() else "gloo",
        auto_mpi_discovery=False,
        verbose=False,
    )


def time_scales(model: LanguageModel) -> list[Tensor]:
    """List the parameters that stay in fp32 in bf16 runs."""
    return [parameter for name, parameter in model.named_parameters() if is_time_scale(name)]


def is_not_of_dropped_step(record: logging.LogRecord) -> bool:
    """Tell DeepSpeed's word of a dropped step, which we tell with its reason, from all others."""
    return "Skipping step" not in record.getMessage()


@contextlib.contextmanager
def uncast(kept: Sequence[Tensor]) -> Iterator[None]:
    """Let DeepSpeed cast all parameters but some; its setting for that covers buffers alone.

    They must be a group of the optimizer by themselves: a group is one flat tensor of one dtype.
    """
    import deepspeed.runtime.engine

    kind: Any = deepspeed.runtime.engine.DeepSpeedEngine
    cast = kind._cast_module_mixed_precision

    def cast_others(engine: Any, *arguments: Any) -> None:
        values = [parameter.data for parameter in kept]
        cast(engine, *arguments)
        for parameter, value in zip(kept, values, strict=True):
            parameter.data = value

    kind._cast_module_mixed_precision = cast_others
    try:
        yield
    finally:
        kind._cast_module_mixed_precision = cast


@contextlib.contextmanager
def without_memory_reports() -> Iterator[None]:
    """Keep DeepSpeed from collecting garbage and printing for each group, in bf16 at stage 1."""
    import deepspeed.runtime.bf16_optimizer as module

    report = module.see_memory_usage
    module.see_memory_usage = lambda *_, **__: None
    try:
        yield
    finally:
        module.see_memory_usage = report


class ShareOut:
    """Shares parameters out over the ranks as stage 3 does, with the values that rank 0 has."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.first: Any = None

    def __call__(self, parameter: nn.Parameter) -> None:
        """Leave this rank its share of a parameter; a collective call."""
        from deepspeed.runtime.zero.partition_parameters import Init

        with contextlib.redirect_stdout(sys.stderr):
            if self.first is None:
                Init(
                    module=nn.ParameterList([parameter]),
                    config_dict_or_path=self.settings,
                    dtype=parameter.dtype,
                )
                self.first = parameter
            else:  # as the first one was: it brought its way along
                self.first.convert_to_zero_parameters(param_list=[parameter])


class Engine:
    """A model that takes optimizer steps, and gives and takes its state parameter by parameter."""

    def __init__(self, model: LanguageModel, config: RunConfig) -> None:
        import deepspeed

        warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        logging.getLogger("DeepSpeed").addFilter(is_not_of_dropped_step)
        self.settings = compose_ds_config(config, dist.get_world_size())
        zero = self.settings.get("zero_optimization", {})
        self.stage: int = zero.get("stage", 0)
        self.n_accumulations: int = self.settings["gradient_accumulation_steps"]
        self.clip_norm = config.training.clip_norm
        self.device = local_device()
        sums = sums_of(self.settings) if self.world_size > 1 else None
        group_size = zero.get("reduce_bucket_size", GROUP_SIZE) if sums else math.inf
        # Stage 3 keeps all weights in one buffer, which has one dtype.
        kept = () if self.stage == 3 else time_scales(model)
        # What it prints is its memory on the way.
        with contextlib.redirect_stdout(sys.stderr), uncast(kept), without_memory_reports():
            engine, *_ = deepspeed.initialize(
                model=model,
                optimizer=build_optimizer(
                    model,
                    config.optimizer,
                    is_fused=self.device.type == "cuda",
                    n_elements_per_group=group_size,
                ),
                config=told_to_deepspeed(self.settings),
                dist_init_required=False,
            )
        self.engine: Any = engine  # its own types know no one class of its optimizer
        self.veto = Veto(engine.optimizer, stage=self.stage)
        self.enter: Enter = ignore_phase
        self.forward_timer = ForwardTimer(self.device)
        self.model = model  # DeepSpeed takes it as it is
        self.parameters = dict(self.engine.module.named_parameters())
        self.sending = sums and sums(engine.optimizer, [*self.parameters.values()])

    @classmethod
    def build(cls, config: RunConfig) -> "Engine":
        """Make a run's model as its seed initialises it, and its engine; a collective call.

        At stage 3 no rank ever holds the model: a few weights are made at a time and shared out.
        """
        settings = compose_ds_config(config, dist.get_world_size())
        if settings.get("zero_optimization", {}).get("stage", 0) < 3:
            return cls(build_model(config.model, seed=config.seed, device="cpu"), config)
        is_bf16 = settings["bf16"]["enabled"]
        model = build_shared_out(
            config.model,
            ShareOut(settings),
            seed=config.seed,
            dtype=torch.bfloat16 if is_bf16 else torch.float32,
            is_drawn=dist.get_rank() == 0,
        )
        return cls(model, config)

    @property
    def world_size(self) -> int:
        """Count the data-parallel ranks."""
        return dist.get_world_size()

    def save_settings(self, path: Path) -> None:
        """Write the configuration in effect: ours, and what DeepSpeed made of its ZeRO section."""
        zero = json.loads(self.engine._config.zero_config.model_dump_json()) | {"stage": self.stage}
        settings = {**self.settings, "zero_optimization": zero}
        write_whole(path, json.dumps(settings, indent=1) + "\n")

    def summary(self) -> str:
        """Say in one line how the run is laid out."""
        s = self.settings
        return (
            f"DeepSpeed ZeRO-{self.stage} on {self.device.type}: "
            f"{s['train_batch_size']} rows a step = "
            f"{self.world_size} ranks x {self.n_accumulations} accumulations x "
            f"{s['train_micro_batch_size_per_gpu']} rows, "
            f"{'bf16' if s['bf16']['enabled'] else 'fp32'}, clip {s['gradient_clipping']}"
        )

    def accumulate(self, batch: Batch, *, n_targets: int) -> Tensor:
        """Run one micro-batch forward and backward; after the last of a step comes `apply`.

        Args:
            n_targets: Targets of the whole optimizer step, over all ranks and micro-batches.

        Returns:
            The sum of losses in nats over this micro-batch, detached.
        """
        self.enter("forward")
        self.forward_timer.start()
        output: Output = self.engine(batch)
        self.forward_timer.stop()
        self.enter("backward")
        # DeepSpeed averages over accumulation and, where we do not reduce ourselves, over ranks;
        # both are undone, so that the gradient is that of the mean over all targets of the step
        # and never a mean of means.
        n_averaged = self.n_accumulations * (1 if self.veto.sums_ranks else self.world_size)
        scale = n_averaged / n_targets
        is_last = self.engine.is_gradient_accumulation_boundary()
        if self.sending is not None:
            self.sending.begin(is_last=is_last)
        self.engine.backward(output.loss * scale)
        if self.sending is not None:
            self.sending.end()
        if not is_last:
            self.engine.step()  # only counts the micro-batch
        return output.loss.detach()

    def apply(self, learning_rate: float, accept: Accept = accept_finite) -> Applied:
        """Take the optimizer step over the micro-batches accumulated, or drop their gradients.

        Args:
            accept: Told the norm of the gradient before a weight changes, says whether the step is
                taken; it must say the same on all ranks. One that is dropped leaves weights,
                moments and AdamW's count as they are. Not asked where DeepSpeed sees before the
                norm that a gradient is not finite, and drops the step.
        """
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self.veto.accept, self.veto.norm = accept, math.inf
        if self.stage == 0 and not self.veto.allows(self._plain_gradient_norm()):
            drop_plain_step(self.engine)
        else:
            self.engine.step()
        is_applied = bool(self.engine.was_step_applied())
        if not is_applied:
            self.veto.forget_dropped()
        return Applied(gradient_norm=self.veto.norm, is_applied=is_applied)

    @torch.no_grad()
    def score(self, piece: Piece) -> tuple[TokenScores, ModelState]:
        """Score each target of a piece by itself, without gradients; a collective call."""
        self.engine.eval()
        scored = self.engine(piece)
        self.engine.train()
        return scored

    def write_parameter(self, name: str, state: ParameterState) -> None:
        """Set one parameter and its moments on every rank; a collective call.

        `make_moments` comes first where there are moments to set.
        """
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        parameter = self.parameters[name]
        moments = {"exp_avg": state.exp_avg, "exp_avg_sq": state.exp_avg_sq}
        if self.stage == 0:
            parameter.data.copy_(state.weight)
            for key, value in moments.items():
                if value is not None:
                    self.engine.optimizer.state[parameter][key].copy_(value)
            return
        weight = state.weight.to(self.device)
        safe_set_full_fp32_param(parameter, weight)
        for key, value in moments.items():
            if value is not None:
                safe_set_full_optimizer_state(parameter, value.to(self.device), key)
        if self.stage == 3:
            with GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
                parameter.data.copy_(weight)
        else:
            parameter.data.copy_(weight)

    def make_moments(self, n_updates: int) -> None:
        """Create AdamW's state before its first step, as after `n_updates`, with zero moments."""
        held = list(self.parameters.values()) if self.stage == 0 else self._partitions()
        for weights in held:
            self._adamw.state[weights] = {
                "step": torch.tensor(float(n_updates), device=weights.device),
                **{key: torch.zeros_like(weights) for key in MOMENTS},
            }
        self.link_moments()

    @property
    def n_updates(self) -> int:
        """Count the steps that changed the weights, which AdamW's bias correction needs."""
        steps = {int(state["step"]) for state in self._adamw.state.values()}
        assert len(steps) <= 1, f"AdamW counts differ between partitions: {steps}"
        return steps.pop() if steps else 0

    def forget_moments(self) -> None:
        """Drop AdamW's state, as before its first step; then a used engine can be written to."""
        self._adamw.state.clear()
        if hasattr(self.engine.optimizer, "_hp_optimizer_states_linked"):
            self.engine.optimizer._hp_optimizer_states_linked = False

    def link_moments(self) -> None:
        """Let DeepSpeed's mapping of fragments know the moments; stages 1 and 2 have one."""
        # DeepSpeed does it once, after the step of the first of several groups, when those of the
        # later groups are not there yet; so they are linked again.
        if hasattr(self.engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
            self.engine.optimizer._hp_optimizer_states_linked = False
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def release(self) -> None:
        """Let go of all tensors: DeepSpeed's hooks keep its optimizer and the weights alive."""
        self.engine.destroy()
        self._adamw.state.clear()
        self._adamw.param_groups.clear()
        self.sending = None
        for parameter in self.parameters.values():
            vars(parameter).clear()
            parameter.grad = None
            parameter.data = parameter.data.new_empty(0)
        vars(self.engine.optimizer).clear()

    @property
    def _adamw(self) -> Any:
        return self.engine.optimizer if self.stage == 0 else self.engine.optimizer.optimizer

    def _partitions(self) -> list[Tensor]:
        for name in PARTITIONS:
            if hasattr(self.engine.optimizer, name):
                return list(getattr(self.engine.optimizer, name))
        raise AssertionError(f"deepspeed's layout changed: none of {PARTITIONS}")

    def _plain_gradient_norm(self) -> float:
        # At stage 0 DeepSpeed clips but does not tell the norm. Gradients are averaged already.
        squares = [
            p.grad.float().square().sum() for p in self.parameters.values() if p.grad is not None
        ]
        return float(torch.stack(squares).sum().sqrt())
