"""What is installed, which backend each kernel would take here, and why not the faster one."""

import json
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from helix import __version__, kernels
from helix.kernels import tuned

PACKAGES = {
    "torch": "",
    "deepspeed": "",
    "sentencepiece": "",
    "webdataset": "",
    "omegaconf": "",
    "safetensors": "",
    "triton": "gpu",
    "flash-linear-attention": "gpu",
    "mamba-ssm": "",
    "wandb": "wandb",
    "submitit": "slurm",
    "peft": "adapters",
    "transformers": "eval",
}


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Options of `helix doctor`."""

    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the doctor found.

    Attributes:
        packages: Version of each package, None where it is not installed.
        tuned: The file whose launch constants our kernels take, or that they take their own.
        kernels: For each kernel, each backend in order of preference, with whether it can be
            taken here and why or why not. The first that can be taken is.
    """

    helix: str
    python: str
    device: str
    n_threads: int
    free_disk_gib: float
    packages: dict[str, str | None]
    tuned: str
    kernels: dict[str, list[kernels.Candidate]]


def examine() -> Findings:
    """Look at this machine; nothing is changed."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return Findings(
        helix=__version__,
        python=platform.python_version(),
        device=("GPU " if torch.cuda.is_available() else "CPU ") + device,
        n_threads=torch.get_num_threads(),
        free_disk_gib=shutil.disk_usage(Path.cwd()).free / 2**30,
        packages={name: version_of(name) for name in PACKAGES},
        tuned=tuned.describe(),
        kernels={name: kernels.candidates(name) for name in kernels.BACKENDS},
    )


def version_of(package: str) -> str | None:
    """Give the installed version of a package, None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def print_findings(options: DoctorConfig) -> None:
    """Print the findings as tables, or as JSON."""
    found = examine()
    if options.json:
        json.dump(asdict(found), sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    console = Console()
    console.print(
        f"helix {found.helix}, Python {found.python}, {found.device}, {found.n_threads} threads, "
        f"{found.free_disk_gib:.0f} GiB free here"
    )
    packages = Table("package", "version")
    for name, version in found.packages.items():
        extra = PACKAGES[name]
        how = f"not installed: pip install -e '.\\[{extra}]'" if extra else "not installed"
        packages.add_row(name, version or how)
    console.print(packages)
    table = Table("kernel", "backend", "taken", "why")
    for name, rows in found.kernels.items():
        chosen = next((backend for backend, available, _ in rows if available), None)
        for backend, _, reason in rows:
            table.add_row(name, backend, "yes" if backend == chosen else "", reason)
    console.print(table)
    console.print(f"launch constants of our Triton kernels: {found.tuned}", soft_wrap=True)
