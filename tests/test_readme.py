import json
import re
import statistics
import tomllib
from pathlib import Path

import pytest

from helix.cli import COMMANDS
from helix.presets import PRESETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """The lines of README that a person would type."""
    return [line.strip() for line in README.splitlines() if line.startswith("    ")]


def test_readme_begins_with_the_two_commands_that_set_up_everything():
    assert commands()[:2] == ["pip install -e . && helix demo", "pip install -e '.[dev]' && pytest"]


def test_ci_runs_the_second_of_them_in_a_new_environment():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert commands()[1] in script
    assert 'venv "$venv"' in script


@pytest.mark.parametrize("name", sorted(set(re.findall(r"^ {4}helix (\w+)", README, re.M))))
def test_every_command_in_readme_exists(name):
    assert name in COMMANDS


def test_every_command_is_in_readme():
    assert all(f"helix {name}" in README for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"preset=([a-z]\w+)", README))))
def test_every_preset_in_readme_exists(name):
    assert name in PRESETS


def test_every_file_in_readme_exists():
    named = re.findall(r"`((?:evals|tests|helix|ds_configs|slurm|data_tools)/[\w./-]+)`", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_map_names_every_folder_of_the_library():
    folders = [p.name for p in (ROOT / "helix").iterdir() if (p / "__init__.py").exists()]
    assert all(f"{name}/" in README for name in folders)


def test_every_extra_in_readme_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(re.findall(r"'\.\[(\w+)\]'", README))
    assert extras <= set(project["optional-dependencies"])


def test_performance_table_is_what_was_measured():
    file = ROOT / "evals" / "results" / "hybrid_0_9b_h200.json"
    latest, larger, *others = json.loads(file.read_text(encoding="utf-8"))["runs"]
    ours, *_ = latest["sections"]["library"]
    best = [
        max(run["sections"]["library"][1:], key=lambda row: row["tokens_per_s"])
        for run in (latest, larger)
    ]
    engines = [run["sections"]["engine"][1] for run in (latest, larger)]
    assert all(row["loop"] == "engine" for row in engines)
    tables = [row for run in others for row in run["sections"].get("recompute", [])]
    assert tables
    for row in (*best, ours, *engines, *tables):
        assert cells_of(row, row["tokens_per_s"]) in README


def test_table_of_two_gpus_is_what_was_measured():
    file = ROOT / "evals" / "results" / "hybrid_two_h200.json"
    zero, _, *trained = json.loads(file.read_text(encoding="utf-8"))["runs"]
    for row in zero["sections"]["zero"][1:]:
        cells = f"{cells_of(row, row['tokens_per_s_a_rank'])} {row['of_one_rank']:.2f} |"
        assert f"ZeRO-{row['stage']}, 8 rows | {cells}" in README
    for run in trained[:2]:
        steps = run["sections"]["steps"][1:]
        row = {name: statistics.median(step[name] for step in steps) for name in ("step_ms", "mfu")}
        row["peak_gib"] = steps[-1]["peak_gib"]
        assert f"| {cells_of(row, 8 * 4096 / row['step_ms'] * 1e3 / 2)} |" in README


def cells_of(row, tokens_per_s):
    speed, share = round(tokens_per_s, -2), row["mfu"]
    return f"{speed:,.0f} | {row['step_ms']:.1f} | {share:.1%} | {row['peak_gib']:.1f} |"
