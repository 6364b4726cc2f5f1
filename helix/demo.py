"""The whole road on one machine: text, tokenizer, shards, training, bits per byte, generated text.

Each stage leaves its result in the run folder and is passed over when that is already there, so
that the same command goes on where it was stopped.
"""

import dataclasses
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_tools.documents import Document, name_files, read_documents
from data_tools.fetch import demo_documents
from data_tools.make_shards import make_shards
from data_tools.readers.files import find_files
from data_tools.splits import split_documents
from data_tools.train_tokenizer import train_tokenizer
from evals.baselines import measure_baselines
from helix import config as configs
from helix.config import ConfigError, RunConfig
from helix.data import build_validation
from helix.data.files import hash_file
from helix.generate import GenerateConfig, generate_text, load_run
from helix.presets import PRESETS
from helix.tokenizer import load_tokenizer
from helix.training.curve import draw_curve
from helix.training.metrics import read_records
from helix.training.trainer import train

N_VOCAB = 8000
VALIDATION_FRACTION = 0.02
SPLIT_SEED = 0
VALIDATION_BYTES = 60_000  # held-out text that is scored, per source
PROMPTS = {"de": "Haus: ", "en": "The function returns "}
WELL_BELOW = 0.9  # of order-1 bits per byte: what "well below the baseline" means here


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Options of `helix demo`; anything else on the line changes the preset.

    Attributes:
        run_dir: Folder of the run. An unfinished run in it is gone on with.
        text: .txt or .jsonl files to train on, with commas between them; a file named
            like novel.de.txt is German. Empty takes German and English from installed packages.
        text_bytes: Text to take from the packages at most, per language.
    """

    run_dir: str = "runs/demo"
    text: str = ""
    text_bytes: int = 3_000_000


def demo(options: DemoConfig, overrides: Sequence[str]) -> int:
    """Run the demo; give 0, or the number of the signal that stopped it.

    Args:
        overrides: key=value words that change the preset.

    Raises:
        ConfigError: The folder holds a demo of other text, or a run of another config.
        DataError: The text cannot be used.
    """
    started = time.perf_counter()
    run_dir = Path(options.run_dir)
    refuse_own_settings(overrides)
    run_words = [f"run_dir={run_dir}", *overrides]
    configs.load(run_words, PRESETS)  # refuse a mistake before anything is written
    refuse_other_text(run_dir, options)
    prepare(run_dir, options)
    config = complete_config(run_dir, configs.load(run_words, PRESETS))
    stopped_by = train(config)
    if stopped_by:
        return stopped_by
    if not (run_dir / "summary.json").exists():  # else the run had ended before
        summary = summarise(config, wall_s=time.perf_counter() - started)
        draw_curve(run_dir, summary["baselines"])
        write_json(run_dir / "summary.json", summary)
    report(run_dir, json.loads((run_dir / "summary.json").read_text(encoding="utf-8")))
    return 0


def refuse_own_settings(overrides: Sequence[str]) -> None:
    """Refuse settings that would have no effect: the demo makes the data and the tokenizer."""
    for key in configs.parse_words(overrides):
        if key in ("model", "model.n_vocab", "data", "data.path", "data.validation_bytes") or (
            key.partition(".")[0] == "tokenizer"
        ):
            raise ConfigError(f"{key}: the demo sets it itself; use helix train to choose it")


def refuse_other_text(run_dir: Path, options: DemoConfig) -> None:
    """Refuse a folder that is made of other text, and files that are not there."""
    for file in text_paths(options):
        if not file.exists():
            raise ConfigError(f"text={file}: no such file")
    note = run_dir / "demo.json"
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) != describe_text(options):
        raise ConfigError(
            f"run_dir={run_dir}: holds a demo of other text; give the same text= and "
            "text_bytes=, or a new run_dir"
        )


def text_paths(options: DemoConfig) -> list[Path]:
    """List the files and folders that the user named."""
    return [Path(name) for name in options.text.split(",") if name]


def describe_text(options: DemoConfig) -> dict[str, Any]:
    """Name the text that a demo is made of, by the hashes of its files, those of folders too."""
    given = text_paths(options)
    files = find_files(given) if given else []
    names = name_files(files) if files else []
    return {
        "text": {name: hash_file(file.path) for name, file in zip(names, files, strict=True)},
        "text_bytes": options.text_bytes if not files else None,
    }


def prepare(run_dir: Path, options: DemoConfig) -> None:
    """Make the tokenizer and the shards, unless they are there."""
    if (run_dir / "data" / "manifest.json").exists():
        return
    documents = gather_documents(options)
    parts = split_documents(documents, fraction=VALIDATION_FRACTION, seed=SPLIT_SEED)
    run_dir.mkdir(parents=True, exist_ok=True)
    write_json(run_dir / "demo.json", describe_text(options))  # not before the text proved usable
    licences = sorted({f"{d.source}: {d.licence}" for d in documents})
    (run_dir / "LICENCES.txt").write_text("\n".join(licences) + "\n", encoding="utf-8")
    model_file = tokenizer_file(run_dir)
    model_file.parent.mkdir(parents=True, exist_ok=True)
    trained_on = [d for (split, _), part in sorted(parts.items()) if split == "train" for d in part]
    with Console(stderr=True).status("training the tokenizer"):  # SentencePiece tells no progress
        train_tokenizer(trained_on, model_file, n_vocab=N_VOCAB)
    tokenizer = load_tokenizer(configs.TokenizerConfig(path=str(model_file)))
    make_shards(
        documents,
        tokenizer,
        run_dir / "data",
        validation_fraction=VALIDATION_FRACTION,
        seed=SPLIT_SEED,
    )


def gather_documents(options: DemoConfig) -> list[Document]:
    """Read the user's text, or gather the packages' own."""
    if options.text:
        return read_documents(text_paths(options))
    return demo_documents(max_bytes=options.text_bytes)


def complete_config(run_dir: Path, config: RunConfig) -> RunConfig:
    """Point a preset at the folder's tokenizer and shards."""
    tokenizer_config = configs.TokenizerConfig(path=str(tokenizer_file(run_dir)))
    n_vocab = load_tokenizer(tokenizer_config).n_vocab
    return dataclasses.replace(
        config,
        tokenizer=tokenizer_config,
        data=dataclasses.replace(
            config.data, path=str(run_dir / "data"), validation_bytes=VALIDATION_BYTES
        ),
        model=dataclasses.replace(config.model, n_vocab=n_vocab),
    )


def summarise(config: RunConfig, *, wall_s: float) -> dict[str, Any]:
    """Gather the figures of a finished run, and a sample in each language.

    Args:
        wall_s: Of the attempt that ended the run, from its first second.
    """
    scored = [r for r in read_records(config.run_dir) if any("validation/" in k for k in r)]
    loaded = load_run(config.run_dir)
    sources = build_validation(config.data, loaded.tokenizer)
    # on the very bytes that the model was scored on
    baselines = {s.name: measure_baselines("".join(s.texts()).encode()) for s in sources}
    samples = {}
    for source in sources:
        prompt = PROMPTS.get(source.language, "")
        options = GenerateConfig(prompt=prompt, n_tokens=60, seed=config.seed)
        samples[source.name] = prompt + "".join(generate_text(loaded, options))
    return {
        "bits_per_byte": {
            source: {
                "before": scored[0][f"validation/{source}/bits_per_byte"],
                "after": scored[-1][f"validation/{source}/bits_per_byte"],
            }
            for source in baselines
        },
        "baselines": {
            source: {"order0": b.order0, "order1": b.order1, "xz": b.xz}
            for source, b in baselines.items()
        },
        "validation_bytes": {source: b.n_bytes for source, b in baselines.items()},
        "n_parameters": sum(config.model.parameters_by_part().values()),
        "n_steps": config.training.n_steps,
        "n_tokens": scored[-1]["tokens"],
        "wall_s": wall_s,
        "samples": samples,
    }


def report(run_dir: Path, summary: Mapping[str, Any]) -> None:
    """Print the table, the samples, a plain verdict, and what to try next."""
    console = Console()
    table = Table("bits per byte, held out", "before", "after", "order-0", "order-1", "xz")
    short = []
    for source, scores in summary["bits_per_byte"].items():
        b = summary["baselines"][source]
        figures = (scores["before"], scores["after"], b["order0"], b["order1"], b["xz"])
        table.add_row(escape(source), *(f"{figure:.3f}" for figure in figures))
        if scores["after"] > WELL_BELOW * b["order1"]:
            short.append(f"{source} ended at {scores['after']:.3f}, order-1 is {b['order1']:.3f}")
    console.print(table)
    for source, text in summary["samples"].items():
        console.print(f"[bold]{escape(source)}[/]  {escape(repr(text))}", highlight=False)
    if short:
        told = f"NOT well below the order-1 baseline: {'; '.join(short)}"
        console.print(told, soft_wrap=True, markup=False)
    else:
        console.print("Well below the order-1 baseline in every language.")
    console.print(
        f"\n{summary['n_parameters']:,} parameters, {summary['n_tokens']:,.0f} tokens, "
        f"{summary['wall_s']:.0f} s; see {run_dir}/curve.png and summary.json. Try next:\n"
        f'  helix generate {shlex.quote(f"run_dir={run_dir}")} prompt="Wasser: " temperature=0.7\n'
        f"  helix demo {shlex.quote(f'run_dir={run_dir}-longer')} "
        f"training.n_steps={4 * summary['n_steps']}\n"
        "  helix plan preset=hybrid_0_9b n_gpus=8",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def tokenizer_file(run_dir: Path) -> Path:
    """Say where a demo keeps its tokenizer."""
    return run_dir / "tokenizer" / "tokenizer.model"


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all."""
    configs.write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def say(message: str) -> None:
    """Tell the person at the terminal."""
    print(message, file=sys.stderr, flush=True)
