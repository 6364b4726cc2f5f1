"""The house's order, read from the source: who may import whom, and where heavy packages stand."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the bottom up: a module imports only from lines above its own, and from its own folder.
FLOORS = [
    ["helix.batch", "helix.distributed", "helix.tokenizer", "helix.chat"],
    ["helix.kernels"],
    ["helix.layers"],
    ["helix.mixers"],
    ["helix.models"],
    ["helix.data"],
    ["helix.scoring", "helix.decoding"],
    ["helix.training.schedule", "helix.training.optimizer"],
    ["helix.config"],
    ["helix.presets"],
    ["helix.training"],
    [
        "helix.generate",
        "helix.plan",
        "helix.doctor",
        "helix.export",
        "helix.sync",
        "helix.tune",
        "helix.preflight",
        "helix.watch",
    ],
    ["data_tools", "evals", "slurm"],
    ["helix.demo", "helix.cli", "helix.__main__"],
]

# Each heavy package, and the only files that may import it.
HOMES = {
    "deepspeed": ["helix/training/engine.py", "helix/training/ds_settings.py"],
    "omegaconf": ["helix/config.py"],
    "peft": ["helix/adapters.py"],
    "wandb": ["helix/training/tracking.py"],
    "tensorboard": ["helix/sync.py"],
    "webdataset": ["helix/data/", "data_tools/shard_writer.py", "data_tools/read_benchmark.py"],
    "transformers": ["helix/export.py", "helix/tokenizer.py", "evals/peers/"],
    "lm_eval": ["evals/harness_"],
    "datasets": ["evals/harness_"],
    "huggingface_hub": ["evals/harness_run.py"],
    "submitit": ["slurm/launch.py"],
    "fsspec": ["helix/data/remote.py"],
    "filelock": ["helix/data/cache.py"],
    "jinja2": ["evals/report/page.py"],
    "pyppmd": ["evals/baselines.py"],
    "fla": ["helix/kernels/"],
    "mamba_ssm": ["helix/kernels/"],
}


def sources() -> list[Path]:
    folders = ("helix", "data_tools", "evals", "slurm")
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor_of(module: str) -> int | None:
    """The floor of the longest name that the module lies under."""
    found = [
        (len(name), floor)
        for floor, names in enumerate(FLOORS)
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    return max(found)[1] if found else None


@pytest.mark.parametrize("file", sources(), ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_go_one_way(file):
    module = module_of(file)
    own = floor_of(module)
    if module in ("helix", "helix.training"):
        return
    assert own is not None, f"{module} stands on no floor: add it to FLOORS and to the README's map"
    for name in imports_of(file):
        floor = floor_of(name)
        assert floor is None or floor <= own, f"{module} imports {name} from a higher floor"


@pytest.mark.parametrize("file", sources(), ids=lambda f: str(f.relative_to(ROOT)))
def test_heavy_packages_stay_at_home(file):
    path = str(file.relative_to(ROOT))
    for name in imports_of(file):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or path.startswith(tuple(homes)), f"{path} imports {name}"


def test_importing_helix_imports_no_framework():
    code = "import helix, sys; print([m for m in ('torch', 'deepspeed') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
