"""Configuration: do the settings load, agree with each other and suit the run folder?"""

import hashlib
import json
from pathlib import Path

from helix import config as configs
from helix.config import ConfigError, load, to_dict
from helix.preflight.context import Context
from helix.preflight.findings import Facts, Seen
from helix.presets import PRESETS
from helix.tokenizer import load_tokenizer
from helix.training.checkpoint import newest
from helix.training.ds_settings import compose_ds_config
from helix.training.trainer import refuse_other_vocabulary


def look_at_settings(context: Context) -> dict[str, str]:
    """Compose the run, and hash what it says."""
    context.run = load(context.words, PRESETS)
    text = json.dumps(to_dict(context.run), sort_keys=True, default=str)
    return {
        "says": f"{context.run.preset}, {context.run.training.n_steps:,} steps",
        "hash": hashlib.sha256(text.encode()).hexdigest(),
    }


def judge_settings(facts: Facts) -> Seen:
    """Hold every rank's settings to rank 0's."""
    advice = "give all ranks the same words and a run_dir that all of them see"
    return alike(facts, odd="other settings", advice=advice)


def alike(facts: Facts, *, odd: str, advice: str) -> Seen:
    """Hold the hash of what every rank has to rank 0's."""
    ours = facts.by_rank[0]
    others = [rank for rank, theirs in facts.by_rank.items() if theirs["hash"] != ours["hash"]]
    if others:
        return Seen(f"{facts.name(others)}: {odd} than rank 0", "FAILED", advice)
    return Seen(ours["says"])


def look_at_batch(context: Context) -> Seen:
    """Hold what DeepSpeed is told to the run's own numbers."""
    run, n_ranks = context.of_run, context.world_size
    settings = compose_ds_config(run, n_ranks)
    micro, n_times, rows = (
        int(settings[key])
        for key in (
            "train_micro_batch_size_per_gpu",
            "gradient_accumulation_steps",
            "train_batch_size",
        )
    )
    if micro * n_times * n_ranks != rows or rows != run.training.batch_rows:
        return Seen(
            f"DeepSpeed is told {rows} rows a step, and {n_ranks} ranks x {n_times} x {micro}",
            "FAILED",
            "set training.batch_rows to a multiple of training.micro_batch_rows x ranks",
        )
    stage = settings.get("zero_optimization", {}).get("stage", 0)
    product = f"{n_ranks} ranks x {n_times} accumulations x {micro} rows"
    return Seen(f"{rows} rows a step = {product}, ZeRO-{stage}, {run.training.precision}")


def look_at_vocabulary(context: Context) -> dict[str, str]:
    """Load the tokenizer and hold the embedding to it."""
    run = context.of_run
    tokenizer = load_tokenizer(run.tokenizer)
    refuse_other_vocabulary(run.model.n_vocab, tokenizer)
    says = f"{tokenizer.n_vocab:,} entries in an embedding of {run.model.n_vocab:,}"
    return {"says": says, "hash": tokenizer.fingerprint}


def judge_vocabulary(facts: Facts) -> Seen:
    """Hold every rank's tokenizer to rank 0's."""
    advice = "copy one file to all nodes, or name one that all of them see"
    return alike(facts, odd="another tokenizer", advice=advice)


def look_at_run_folder(context: Context) -> Seen:
    """Refuse a folder that holds another run; tell where this one would go on."""
    run = context.of_run
    if not run.run_dir:
        raise ConfigError("run_dir=: not given; say where the run keeps its files")
    saved = configs.saved_path(run.run_dir)
    if not saved.exists():
        return Seen("a new run")
    difference = configs.first_difference(run, configs.load_file(saved, run))
    if difference:
        return Seen(
            f"{Path(run.run_dir)} holds another run: {difference}",
            "FAILED",
            "drop that setting to go on with it, or give a new run_dir",
        )
    checkpoint = newest(run.run_dir) if context.rank == 0 else None
    return Seen(f"goes on from {checkpoint.name}" if checkpoint else "goes on from its start")
