"""A plan as tables, or as JSON."""

import json
import sys
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from helix.config import RunConfig
from helix.plan import Plan, PlanConfig, plan
from helix.plan.fitting import USABLE
from helix.plan.scaling import MACHINERY_S


def print_plan(config: RunConfig, options: PlanConfig) -> None:
    """Print a plan as tables, or as JSON."""
    result = plan(config, options)
    if options.json:
        json.dump(asdict(result), sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    console = Console()
    console.print(f"[bold]{result.preset}[/] {result.pattern}: {result.n_parameters:,} parameters")
    table = Table("part", "parameters", "share", "forward FLOPs/token")
    flops = result.forward_flops_per_token_by_part
    for part in dict.fromkeys([*result.parameters_by_part, *flops]):
        n = result.parameters_by_part.get(part, 0)
        table.add_row(part, f"{n:,}", f"{n / result.n_parameters:.1%}", f"{flops.get(part, 0):,}")
    console.print(table)
    memory = Table("memory a GPU", "GiB")
    for part, gib in result.memory_gib_by_part.items():
        memory.add_row(part, f"{gib:.2f}")
    memory.add_row("total", f"{result.memory_gib:.2f}", style="bold")
    console.print(memory)
    console.print(
        f"{result.n_gpus} GPUs, ZeRO-{result.zero_stage}, {result.precision}, "
        f"{result.micro_batch_rows} x {result.n_context} tokens a GPU at a time; "
        f"{result.training_flops_per_token:.3g} FLOPs a token to train; decoding state "
        f"{result.decoding_state_bytes / 2**20:.1f} MiB a sequence.\n"
        f"At {result.utilisation:.0%} of {result.peak_tflops:.0f} TFLOP/s a GPU: "
        f"{result.tokens_per_s:,.0f} tokens/s, {result.tokens_per_day / 1e9:.2f}B tokens a day. "
        "Memory is an estimate; fragmentation and communication buffers come on top.",
        soft_wrap=True,
    )
    print_fits(console, result, options, batch_rows=config.training.batch_rows)
    print_scaling(console, result, options)


def print_fits(console: Console, result: Plan, options: PlanConfig, *, batch_rows: int) -> None:
    """Print what fits into a GPU."""
    if batch_rows % result.n_gpus:
        console.print(
            f"training.batch_rows={batch_rows} does not divide over {result.n_gpus} GPUs: what "
            "would fit is not told",
            style="bold",
            soft_wrap=True,
        )
        return
    if not result.fits:
        console.print(
            f"Nothing fits into {options.gpu_gib:g} GiB a GPU: try more GPUs, or "
            "training.deepspeed=zero3_offload",
            style="bold",
            soft_wrap=True,
        )
        return
    table = Table("ZeRO", "recompute", "micro_batch_rows", "GiB a GPU", "k tokens/s")
    for fit in result.fits:
        table.add_row(
            str(fit.zero_stage),
            fit.recompute,
            str(fit.micro_batch_rows),
            f"{fit.memory_gib:.1f}",
            f"{fit.tokens_per_s / 1e3:,.1f}",
        )
    console.print(table)
    best = result.fits[0]
    console.print(
        f"The fastest that fits into {USABLE:.0%} of {options.gpu_gib:g} GiB: training.deepspeed="
        f"zero{best.zero_stage} model.recompute={best.recompute} "
        f"training.micro_batch_rows={best.micro_batch_rows}. That fewer rows fill a GPU less is "
        "left out: it was not measured below 8 rows of 4096.",
        soft_wrap=True,
    )


def print_scaling(console: Console, result: Plan, options: PlanConfig) -> None:
    """Print how the step's time grows with the GPUs, and what is assumed."""
    table = Table("GPUs", "rows", "micro", "step s", "sending", "efficiency", "k tokens/s", "B/day")
    for steps in (result.fixed_batch, result.growing_batch):
        for step in steps:
            table.add_row(
                f"{step.n_gpus:,}",
                f"{step.rows_a_step:,}",
                f"{step.micro_batch_rows} x {step.n_accumulations}",
                f"{step.step_s:.3f}",
                f"{step.sending_s / step.step_s:.1%}",
                f"{step.efficiency:.1%}",
                f"{step.tokens_per_s / 1e3:,.1f}",
                f"{step.tokens_per_day / 1e9:,.2f}",
                end_section=step is steps[-1],
            )
    console.print(table)
    console.print(
        f"Above the line the preset's batch, below it one micro-batch on each GPU; B/day is 10^9 "
        f"tokens a day. Assumed: "
        f"{options.node_gb_per_s:g} GB/s a GPU within a node of {options.gpus_per_node}, "
        f"{options.network_gb_per_s:g} GB/s of network a node, {options.latency_us:g} us a hop, "
        f"{options.overlap:.0%} of the sending hidden, and at ZeRO-{result.zero_stage} "
        f"{1e3 * MACHINERY_S[result.zero_stage]:g} ms a block and micro-batch for what DeepSpeed "
        "does beside it, which was found on two H200. Nothing beyond two GPUs has been measured.",
        soft_wrap=True,
    )
