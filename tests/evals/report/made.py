"""Run folders and results that are made up, to have every kind of both."""

import json
import math
from pathlib import Path

import numpy as np

from evals.contract import Measure, Result, Subject, save_results
from helix.training import incidents
from helix.training.metrics import metrics_path

TOKENIZER = "7" * 64
CATEGORIES = ("geography", "history", "language", "science")
TASKS = {"associative_recall": 1.5, "needle": 1.0, "copying": 0.4}
LENGTHS = (512, 1024, 2048, 4096, 8192)


def write_metrics(run_dir: Path, *, n_steps: int = 300, hurt: bool = True) -> None:
    """Write the figures of a run that spiked, went back and was started again."""
    run_dir.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    lines = []
    for step in range(n_steps + 1):
        if step % 50 == 0:
            lines.append(validation_line(step, n_steps))
        if step:
            lines.append(step_line(step, n_steps, draw, hurt=hurt))
    lines.append({"step": n_steps, "attempt": 1, "tokens": 2048 * n_steps} | saved())
    metrics_path(run_dir).write_text("".join(json.dumps(line) + "\n" for line in lines))
    if hurt:
        write_incidents(run_dir)


def step_line(step: int, n_steps: int, draw: np.random.Generator, *, hurt: bool) -> dict:
    loss = 2.4 + 6.6 * math.exp(-6 * step / n_steps) + 0.08 * draw.standard_normal()
    is_skipped = hurt and step in (121, 122, 180)
    loss = 14.0 if is_skipped else loss
    return {
        "step": step,
        "attempt": int(hurt and step > 200),
        "tokens": 2048 * step,
        "train/loss_nats_per_token": loss,
        "train/bits_per_byte": loss * 0.4,
        "train/learning_rate": 4e-3 * min(1, step / 30) * (1 - 0.9 * step / n_steps),
        "train/gradient_norm": 1.0,
        "train/is_step_applied": float(not is_skipped),
        "speed/tokens_per_s": 85_400 + 900 * draw.standard_normal(),
        "speed/step_ms": 383 + 6 * draw.standard_normal(),
        "speed/data_wait_ms": abs(draw.standard_normal()),
        "speed/mfu": 0.48 + 0.004 * draw.standard_normal(),
        "memory/peak_gib": 55.5 + 16 * (step > 3),
    }


def validation_line(step: int, n_steps: int) -> dict:
    fall = math.exp(-6 * step / n_steps)
    bits = {"web-de": 1.02 + 2.4 * fall, "web-en": 0.98 + 2.5 * fall, "books-de": 1.21 + 2.6 * fall}
    record = {f"validation/{name}/bits_per_byte": value for name, value in bits.items()}
    return {"step": step, "attempt": int(step > 200), "tokens": 2048 * step} | record


def saved() -> dict:
    cost = {"stall_ms": 210.0, "wait_ms": 0.0, "write_s": 6.4, "gib": 10.3}
    return {f"checkpoint/{name}": figure for name, figure in cost.items()}


def write_incidents(run_dir: Path) -> None:
    documents = [["web-de", 3, "x"], ["web-de", 9, "y"], ["web-en", 4, "z"]]
    for step in (121, 122):
        told = {"step": step, "kind": "loss_spike", "value": 14.0, "score": 41.0}
        incidents.append(run_dir, told | {"documents": documents})
    rollback = incidents.Rollback(number=1, n_in_a_row=1, step=122, to_step=100, loader={})
    incidents.append_rollback(run_dir, rollback)
    told = {"step": 180, "kind": "gradient_not_finite", "value": "inf", "score": "inf"}
    incidents.append(run_dir, told)


def subject(name: str, *, step: int | None = 300, checkpoint: str = "c" * 64) -> Subject:
    return Subject(
        name=name,
        checkpoint=checkpoint,
        step=step,
        tokenizer=TOKENIZER,
        precision="bf16",
        backends={"gla": "triton", "ssd": "triton"},
        device="NVIDIA H200",
        n_parameters=400_000_000,
    )


def shares(value: float, n_items: int, seed: int, *, is_lower_better: bool = False) -> Measure:
    """Make a share of items of about this value."""
    hits = np.random.default_rng(seed).random(n_items) < value
    return Measure.mean(hits.astype(float), unit="share", is_lower_better=is_lower_better)


def bits(value: float, n_documents: int = 80, seed: int = 0) -> Measure:
    draw = np.random.default_rng(seed)
    sizes = draw.integers(400, 4000, n_documents).astype(float)
    costs = sizes * (value + 0.12 * draw.standard_normal(n_documents))
    return Measure(
        numerators=costs.tolist(),
        denominators=sizes.tolist(),
        unit="bits/byte",
        is_lower_better=True,
    )


def bits_result(own: Subject, *, worse: float = 0.0, sets: str = "a") -> Result:
    values = {"web-de": 1.02, "web-en": 0.98, "books-de": 1.21}
    baselines = {
        name: {"n_bytes": 9, "order0": 4.6, "order1": 3.5, "gzip": 2.9, "xz": 2.6, "ppm": 1.9}
        for name in values
    }
    positions = {"0-63": 3.4, "64-127": 2.9, "128-255": 2.7, "256-511": 2.62, "512-1023": 2.6}
    sources = {
        name: {"baselines": baselines[name], "nats_per_token_by_position": positions}
        for name in values
    }
    measures = {f"source/{name}/bits_per_byte": bits(v + worse) for name, v in values.items()}
    measures["language/de/bits_per_byte"] = bits(1.09 + worse)
    measures["language/en/bits_per_byte"] = bits(0.98 + worse)
    measures["domain/web/de/bits_per_byte"] = bits(1.02 + worse)
    twin = {"n_pairs": 40, "gap_per_byte": 0.93, "gap_interval_95": [0.9, 0.97]}
    twin |= {"gap_per_document": 1.08, "byte_ratio": 1.17}
    return Result(
        evaluation="bits_per_byte",
        subject=own,
        settings={"piece_tokens": 1024},
        sets=dict.fromkeys(values, sets * 64),
        measures=measures,
        figures={"sources": sources, "twins": {"de/en": twin}},
        warnings=["en: all of one source, web-en: no figure for the language at large"],
    )


def facts_result(own: Subject) -> Result:
    parts = [f"{category}/{language}" for category in CATEGORIES for language in ("de", "en")]
    measures: dict[str, Measure] = {}
    for i, part in enumerate(parts):
        measures |= {f"{part}/{what}": m for what, m in fact_measures(i).items()}
    said = {"prompt": "The capital of Peru is", "answer": "Lima", "text": " Lima."}
    chance = {"easy": 0.33, "medium": 0.33, "hard": 0.33}
    return Result(
        evaluation="facts",
        subject=own,
        settings={"n_items": None},
        sets=dict.fromkeys(parts, "f" * 64),
        measures=measures,
        figures={
            "parts": {part: {"n_items": 100, "chance": chance} for part in parts},
            "samples": {part: [said] for part in parts},
        },
    )


def fact_measures(part: int) -> dict[str, Measure]:
    draw = np.random.default_rng(part)
    measures = {
        "first_token_top_1": shares(0.3 + 0.02 * part, 100, part),
        "first_token_top_10": shares(0.5 + 0.04 * part, 100, part),
        "greedy_begins_right": shares(0.3 + 0.02 * part, 50, part),
    }
    for k, hardness in enumerate(("easy", "medium", "hard")):
        margins = 2.2 - 0.9 * k + 0.1 * part + 1.6 * draw.standard_normal(100)
        for what, times in (("nats_per_token", 1), ("nats", 2.5)):
            measures[f"margin_{hardness}_{what}"] = Measure.mean(
                times * margins, unit=what.replace("_per_", "/"), is_lower_better=False
            )
        measures[f"knows_{hardness}"] = Measure.mean(
            (margins > 0).astype(float), unit="share", is_lower_better=False
        )
    return measures


def recall_result(own: Subject, *, loss: float = 0.13) -> Result:
    measures: dict[str, Measure] = {}
    for task, weight in TASKS.items():
        second = "whole" if task == "copying" else "among_candidates"
        for i, length in enumerate(LENGTHS):
            value = max(0.05, 1 - loss * i * weight)
            measures[f"{task}/{length}/accuracy"] = shares(value, 120, i)
            measures[f"{task}/{second}/{length}/accuracy"] = shares(0.3 + 0.7 * value, 120, i)
            if task == "needle":
                measures[f"{task}/{length}/depth_50/accuracy"] = shares(value, 60, i)
    chance = {f"{task}/{n}": None if task == "copying" else 0.25 for task in TASKS for n in LENGTHS}
    left_out = [{"task": "needle", "length": 16384, "why": "its state takes 9.0 GiB"}]
    figures = {"chance": chance, "left_out": left_out, "n_context": 1024}
    return Result(
        evaluation="recall",
        subject=own,
        settings={"n_items": 120},
        sets=dict.fromkeys(chance, "e" * 64),
        measures=measures,
        figures=figures,
    )


def decoding_result(own: Subject) -> Result:
    measures: dict[str, Measure] = {}
    for i, language in enumerate(("de", "en")):
        for way, repeated in (("author", 0.04), ("greedy", 0.5), ("sampled", 0.1)):
            at, seed = f"{way}/{language}", 3 * i
            loop = 0.3 if way == "greedy" else 0.0
            measures[f"{at}/repetition"] = shares(repeated, 60, seed, is_lower_better=True)
            measures[f"{at}/loop"] = shares(loop, 60, seed, is_lower_better=True)
            measures[f"{at}/language"] = shares(0.99, 60, 5 + i)
            measures[f"{at}/characters"] = Measure.mean(
                [400.0] * 60, unit="characters", is_lower_better=False
            )
            groups = np.full(60, 1 - repeated)
            measures[f"{at}/distinct_2"] = Measure.mean(
                groups, unit="different groups / groups", is_lower_better=False
            )
    samples = [
        {
            "how": "greedy",
            "language": "de",
            "prompt": "Der Fluss ",
            "text": "fließt durch das Tal.",
        },
        {
            "how": "sampled",
            "language": "en",
            "prompt": "The river ",
            "text": "bends.",
            "top_p": 0.9,
        },
    ]
    return Result(
        evaluation="decoding",
        subject=own,
        settings={"n_characters": 400},
        sets={"de": "d" * 64, "en": "d" * 64},
        measures=measures,
        figures={"samples": samples},
    )


def harness_result(own: Subject) -> Result:
    return Result(
        evaluation="harness",
        subject=own,
        settings={},
        sets={"hellaswag": "9" * 64},
        measures={"hellaswag/acc_norm": shares(0.41, 200, 3)},
    )


def write_evaluations(run_dir: Path, *, sets: str = "a", worse: float = 0.0) -> None:
    """Write a result of each kind, and of two controls."""
    own, peer = subject(str(run_dir)), subject("SmolLM2-135M", step=None, checkpoint="b" * 64)
    control = subject("attention_400m", step=300, checkpoint="a" * 64)
    results = [
        bits_result(own, sets=sets, worse=worse),
        facts_result(own),
        recall_result(own),
        decoding_result(own),
        harness_result(own),
    ]
    save_results(results, run_dir / "evaluations" / "suite.json")
    others = [bits_result(peer, worse=0.18, sets=sets), recall_result(control, loss=0.02)]
    save_results(others, run_dir / "evaluations" / "controls.json")
