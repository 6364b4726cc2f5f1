"""DeepSpeed's settings of a run: what a ds_configs file says, and what the run decides.

A file says how state is sharded, offloaded and sent; RunConfig says batch, precision, clipping and
accumulation. A key that both set is refused, so that no number lives twice.
"""

import contextlib
import importlib.resources
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helix.config import ConfigError, RunConfig, suggestion

# Which setting of RunConfig owns a key that a ds_configs file must therefore not hold.
OWNED_BY_RUN = {
    "train_batch_size": "training.batch_rows",
    "train_micro_batch_size_per_gpu": "training.micro_batch_rows",
    "gradient_accumulation_steps": "training.micro_batch_rows",
    "gradient_clipping": "training.clip_norm",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "torch_autocast": "training.precision",
    "data_types": "training.precision",
    "optimizer": "optimizer",
    "scheduler": "schedule",
}

# What a ds_configs file may hold: how state is sharded, offloaded, sent, and how that is watched.
OF_THE_FILE = (
    "zero_optimization",
    "zero_force_ds_cpu_optimizer",
    "communication_data_type",
    "aio",
    "comms_logger",
    "flops_profiler",
)


def read_ds_config(name: str) -> dict[str, Any]:
    """Read a file of ds_configs by name, or any JSON file by path.

    Raises:
        ConfigError: No such file, not JSON, a key that belongs to RunConfig, or a word of
            zero_optimization that DeepSpeed does not take.
    """
    shipped = importlib.resources.files("ds_configs")
    names = [f.name.removesuffix(".json") for f in shipped.iterdir() if f.name.endswith(".json")]
    if name not in names and not Path(name).is_file():
        raise ConfigError(
            f"training.deepspeed={name}: neither a file nor in ds_configs{suggestion(name, names)}"
        )
    source = shipped / f"{name}.json" if name in names else Path(name)
    try:
        settings = json.loads(source.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"training.deepspeed={name}: not JSON: {error}") from error
    is_named = isinstance(settings, dict)
    if not is_named or not isinstance(settings.get("zero_optimization", {}), dict):
        raise ConfigError(
            f"training.deepspeed={name}: write settings by name, as in "
            '{"zero_optimization": {"stage": 1}}'
        )
    for key in settings:
        if key in OWNED_BY_RUN:
            raise ConfigError(
                f"training.deepspeed={name}: sets {key}, which {OWNED_BY_RUN[key]} decides; "
                "take it out of the file"
            )
        if key not in OF_THE_FILE:  # DeepSpeed itself passes over a key that it does not know
            raise ConfigError(
                f"training.deepspeed={name}: {key} is not for this file"
                f"{suggestion(key, OF_THE_FILE)}"
            )
    if name not in names:
        refuse_wrong_zero(name, settings.get("zero_optimization", {}))
    return settings


def refuse_wrong_zero(name: str, zero: dict[str, Any]) -> None:
    """Have DeepSpeed read zero_optimization of a file, and tell the first word it does not take."""
    if zero.get("stage", 0) not in (0, 1, 2, 3):  # DeepSpeed takes "auto" for 0, and "2" for 2
        raise ConfigError(
            f"training.deepspeed={name}: zero_optimization.stage={zero['stage']!r}: give 0, 1, 2 "
            "or 3"
        )
    with contextlib.redirect_stdout(sys.stderr):  # where it looks for a GPU, it says so there
        from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
        from pydantic import ValidationError

    try:
        DeepSpeedZeroConfig.model_validate(zero)
    except ValidationError as error:
        wrong = error.errors()[0]
        key = ".".join(str(part) for part in ("zero_optimization", *wrong["loc"]))
        is_unknown = wrong["type"] == "extra_forbidden" and len(wrong["loc"]) == 1
        hint = suggestion(key.partition(".")[2], DeepSpeedZeroConfig.model_fields)
        raise ConfigError(
            f"training.deepspeed={name}: {key}: "
            f"{f'no such setting{hint}' if is_unknown else wrong['msg']}"
        ) from error


def compose_ds_config(config: RunConfig, world_size: int) -> dict[str, Any]:
    """Give DeepSpeed's whole configuration, with each default that it would change unasked set.

    Raises:
        ConfigError: See read_ds_config; and bf16 at stage 0, or sent where weights are fp32.
    """
    training = config.training
    settings = read_ds_config(training.deepspeed)
    stage = settings.get("zero_optimization", {}).get("stage", 0)
    is_bf16 = training.precision == "bf16"
    if is_bf16 and stage == 0:
        raise ConfigError(
            f"training.precision=bf16 with training.deepspeed={training.deepspeed} (stage 0): "
            "DeepSpeed takes a step on zero gradients before the first one there; use zero1"
        )
    if stage == 3 and "mlp" in config.model.fp8.split():
        raise ConfigError(
            f"model.fp8={config.model.fp8} with training.deepspeed={training.deepspeed} (stage 3): "
            "weights are gathered for the products of 16 bits alone; use zero2, or model.fp8=head"
        )
    sent_as = settings.get("communication_data_type", "fp32")
    if sent_as not in (("fp32", "bf16") if is_bf16 else ("fp32",)):
        raise ConfigError(
            f"training.deepspeed={training.deepspeed}: communication_data_type={sent_as}: "
            f"gradients of training.precision={training.precision} are sent as fp32"
            f"{' or bf16' if is_bf16 else ''}"
        )
    n_accumulations = training.n_accumulations(world_size)
    return {
        **settings,
        "train_batch_size": training.batch_rows,
        "train_micro_batch_size_per_gpu": training.micro_batch_rows,
        "gradient_accumulation_steps": n_accumulations,
        "gradient_clipping": training.clip_norm,
        # A step with a non-finite gradient is skipped, and `Applied.is_applied` says so.
        "bf16": {"enabled": is_bf16, "check_grad_overflow": True, "immediate_grad_update": False},
        "fp16": {"enabled": False},
        "torch_autocast": {"enabled": False},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": sent_as,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
        # It would let the GPU run empty before each forward and after each step.
        "timers": {"throughput": {"enabled": False}},
        "dump_state": False,
        "zero_allow_untested_optimizer": False,
    }


def is_flat(settings: Mapping[str, Any]) -> bool:
    """Tell whether gradients are summed in a BF16_Optimizer's flat buffers, by us."""
    zero = settings.get("zero_optimization", {})
    is_here = "offload_optimizer" not in zero  # else the optimizer is on the host
    return settings["bf16"]["enabled"] and zero.get("stage") in (1, 2) and is_here


def told_to_deepspeed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give DeepSpeed's configuration of a run: stage 2 in bf16 is stage 1 to it, with our sums."""
    if not is_flat(settings):
        return dict(settings)
    return {**settings, "zero_optimization": {**settings["zero_optimization"], "stage": 1}}
