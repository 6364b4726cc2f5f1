"""Versions: do all ranks run the same code on the same software?"""

import hashlib
import os
import platform
from collections import Counter
from pathlib import Path

import torch
from torch.cuda import nccl

import ds_configs
import helix
from helix.doctor import PACKAGES, version_of
from helix.preflight.context import Context
from helix.preflight.findings import Facts, Seen

VARIABLES = ("NCCL_", "HELIX_TUNED", "TRITON_INTERPRET", "CUDA_LAUNCH_BLOCKING", "TORCH_NCCL_")
N_NAMED = 4
TOLD = ("helix", "code", "python", "torch", "CUDA", "triton")
NOT_COMPARED = ("NCCL_SOCKET_IFNAME", "NCCL_IB_HCA")  # interfaces are called otherwise elsewhere


def look_at_versions(context: Context) -> dict[str, dict[str, str]]:
    """Name the version of everything that computes, and the variables that change how."""
    versions = {
        "helix": helix.__version__,
        "code": fingerprint(),
        "python": platform.python_version(),
        **{name: version_of(name) or "none" for name in PACKAGES},
        "torch": torch.__version__,
        "CUDA": str(torch.version.cuda or "none"),
    }
    if torch.cuda.is_available():
        versions["NCCL"] = ".".join(map(str, nccl.version()))
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(VARIABLES) and name not in NOT_COMPARED
    }
    return {"versions": versions, "variables": variables}


def fingerprint() -> str:
    """Hash our own source and the files of ds_configs."""
    digest = hashlib.sha256()
    for package in (helix, ds_configs):
        root = Path(next(iter(package.__path__)))
        for file in sorted([*root.rglob("*.py"), *root.rglob("*.json")]):
            digest.update(f"{file.relative_to(root)}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def judge_versions(facts: Facts) -> Seen:
    """Name what is not the same everywhere, and on which ranks."""
    if different := differences(facts, "versions"):
        advice = "install the same on all nodes, or take one environment that they share"
        return Seen(listed(different), "FAILED", advice)
    if different := differences(facts, "variables"):
        return Seen(listed(different), "warning", "set them alike on all nodes")
    ours = facts.by_rank[0]["versions"]
    return Seen(", ".join(f"{name} {ours[name]}" for name in TOLD))


def listed(different: list[str]) -> str:
    """Name the first of what is different, and count the others."""
    n_more = len(different) - N_NAMED
    return "; ".join(different[:N_NAMED]) + (f"; and {n_more} more" if n_more > 0 else "")


def differences(facts: Facts, kind: str) -> list[str]:
    """Describe each name whose value is not the same on all ranks."""
    tables = {rank: told[kind] for rank, told in facts.by_rank.items()}
    described = []
    for name in dict.fromkeys(name for table in tables.values() for name in table):
        values = {rank: table.get(name, "not set") for rank, table in tables.items()}
        usual = Counter(values.values()).most_common(1)[0][0]
        others = [rank for rank, value in values.items() if value != usual]
        if others:
            odd = values[others[0]]
            described.append(f"{name} {odd} on {facts.name(others)}, {usual} elsewhere")
    return described
