"""Devices: who is there, on what, is each GPU one rank's own, and is it well?"""

import os
import platform
import subprocess
from collections import Counter
from typing import Any

import torch

from helix.distributed import local_device
from helix.preflight.context import Context
from helix.preflight.findings import Facts, Seen

# What nvidia-smi is asked for: the name it has there, and ours.
HEALTH = {
    "temperature.gpu": "temperature_c",
    "clocks_throttle_reasons.hw_thermal_slowdown": "is_hot",
    "clocks_throttle_reasons.hw_power_brake_slowdown": "is_braked",
    "ecc.errors.uncorrected.volatile.total": "n_uncorrected",
    "remapped_rows.failure": "has_bad_rows",
}
HOT_C = 90
ASK_S = 30.0


def look_at_ranks(context: Context) -> dict[str, Any]:
    """Say who this rank is."""
    backend = str(torch.distributed.get_backend())
    return {"host": context.host, "world_size": context.world_size, "backend": backend}


def judge_ranks(facts: Facts) -> Seen:
    """Count the ranks of each node."""
    counts = Counter(told["host"] for told in facts.by_rank.values())
    backend = facts.by_rank[0]["backend"]
    nodes = f"{len(counts)} nodes: " if len(counts) > 1 else ""
    found = f"{len(facts.by_rank)}, over {backend}, on {nodes}{', '.join(counts)}"
    if len(set(counts.values())) > 1:
        uneven = ", ".join(f"{host} {number}" for host, number in counts.items())
        return Seen(found, "warning", f"ranks are shared out unevenly: {uneven}")
    return Seen(found)


def look_at_device(context: Context) -> dict[str, Any]:
    """Describe this rank's device."""
    if not torch.cuda.is_available():
        return {"name": f"CPU {platform.machine()}", "host": context.host, "uuid": "", "health": {}}
    properties = torch.cuda.get_device_properties(local_device())
    uuid = str(getattr(properties, "uuid", ""))
    return {
        "name": properties.name,
        "host": context.host,
        "uuid": uuid,
        "health": health_of(uuid) if uuid else {},
    }


def health_of(uuid: str) -> dict[str, str]:
    """Ask nvidia-smi how a GPU is; empty where it cannot tell."""
    name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    asked = f"--query-gpu={','.join(HEALTH)}"
    command = ["nvidia-smi", f"--id={name}", asked, "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(
            command, capture_output=True, text=True, timeout=ASK_S, env=dict(os.environ)
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    fields = [field.strip() for field in told.stdout.strip().split(",")]
    if told.returncode or len(fields) != len(HEALTH):
        return {}
    return dict(zip(HEALTH.values(), fields, strict=True))


def judge_device(facts: Facts) -> Seen:
    """Refuse different or shared devices; warn of ill ones."""
    names = Counter(told["name"] for told in facts.by_rank.values())
    usual = names.most_common(1)[0][0]
    others = [rank for rank, told in facts.by_rank.items() if told["name"] != usual]
    if others:
        odd = facts.by_rank[others[0]]["name"]
        found = f"{facts.name(others)}: {odd}, where the others have {usual}"
        return Seen(found, "FAILED", "run on nodes of one kind: each step waits for the slowest")
    owners: dict[tuple[str, str], list[int]] = {}
    for rank, told in facts.by_rank.items():
        owners.setdefault((told["host"], told["uuid"]), []).append(rank)
    shared = [ranks for (_, uuid), ranks in owners.items() if uuid and len(ranks) > 1]
    if shared:
        found = f"{facts.name(shared[0])} share one GPU"
        return Seen(found, "FAILED", "start as many ranks on a node as it has GPUs")
    ill = {
        rank: symptoms
        for rank, told in facts.by_rank.items()
        if (symptoms := symptoms_of(told["health"]))
    }
    if ill:
        told = "; ".join(f"{facts.name([rank])}: {symptoms}" for rank, symptoms in ill.items())
        return Seen(told, "warning", "leave that node out, or have its GPU looked at")
    return Seen(f"{len(facts.by_rank)} x {usual}{hottest(facts)}")


def symptoms_of(health: dict[str, str]) -> str:
    """Say what is wrong with a GPU."""
    ill = []
    temperature = health.get("temperature_c", "")
    if temperature.isdecimal() and int(temperature) >= HOT_C:
        ill.append(f"{temperature} degrees Celsius")
    if health.get("is_hot") == "Active":
        ill.append("slowed down by heat")
    if health.get("is_braked") == "Active":
        ill.append("slowed down by its power supply")
    if health.get("n_uncorrected", "0") not in ("0", "[N/A]", "N/A"):
        ill.append(f"{health['n_uncorrected']} uncorrected memory errors")
    if health.get("has_bad_rows", "0") not in ("0", "No", "[N/A]", "N/A"):
        ill.append("memory rows that could not be remapped")
    return ", ".join(ill)


def hottest(facts: Facts) -> str:
    """Tell the highest temperature, where one is known."""
    told = [facts_of["health"].get("temperature_c", "") for facts_of in facts.by_rank.values()]
    known = [int(value) for value in told if value.isdecimal()]
    return f", at most {max(known)} degrees Celsius" if known else ""
