"""Options of a verb: `key=value` words, and files as they are."""

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Container, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from helix.config import ConfigError, load_options, suggestion

Options = TypeVar("Options")
VERBS = {
    "fetch": "data_tools.fetch:FetchOptions",
    "clean": "data_tools.clean:CleanOptions",
    "value": "data_tools.value:ValueOptions",
    "deduplicate": "data_tools.deduplicate:DeduplicateOptions",
    "decontaminate": "data_tools.decontaminate:DecontaminateOptions",
    "tokenizer": "data_tools.train_tokenizer:TrainTokenizerOptions",
    "shard": "data_tools.make_shards:MakeShardsOptions",
    "inspect": "data_tools.inspect_run:InspectOptions",
    "stats": "data_tools.stats:StatsOptions",
    "facts": "data_tools.facts:FactsOptions",
    "verify": "data_tools.verify:VerifyOptions",
}


def read_options(kind: type[Options], arguments: Sequence[str]) -> Options:
    """Read a verb's options; words without "=" are its inputs, and so are paths that hold one.

    Raises:
        ConfigError: A word names no option, has a wrong value, or an option is missing.
    """
    names = {field.name for field in fields(kind)}  # pyright: ignore[reportArgumentType]
    inputs = [word for word in arguments if is_input(word, names)]
    words = [word for word in arguments if not is_input(word, names)]
    return load_options(kind, [f"inputs={json.dumps(inputs)}", *words] if inputs else words)


def is_input(word: str, names: Container[str]) -> bool:
    """Tell a file, such as parts/lang=de/a.jsonl, from a setting of one of the names."""
    key, has_value, _ = word.partition("=")
    if not has_value:
        return True
    return key.partition(".")[0] not in names and ("/" in key or Path(word).exists())


def describe(kind: type) -> str:
    """Tell what the options of a verb are, with their defaults."""
    docs = [inspect.getdoc(part) or "" for part in kind.__mro__ if is_dataclass(part)]
    lines = ["\n\n".join(docs), "", "Write them as key=value; files as they are."]
    for field in fields(kind):
        lines.append(
            f"  {field.name}={'(required)' if field.default is MISSING else field.default}"
        )
    return "\n".join(lines)


def run_verb(run: Callable[[Any], object], kind: type, arguments: Sequence[str]) -> None:
    """Run a verb, or tell its options."""
    if {"-h", "--help"} & set(arguments):
        print(describe(kind))
        return
    run(read_options(kind, arguments))


def run_program(run: Callable[[Any], object], kind: type, arguments: Sequence[str]) -> None:
    """Run a verb as a program: a bad input ends it with one message and exit status 2."""
    try:
        run_verb(run, kind, arguments)
    except (ValueError, OSError) as error:
        print(f"helix: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def find(verb: str) -> tuple[Callable[[Any], object], type]:
    """Import a verb: what runs it, and its options."""
    if verb not in VERBS:
        raise ConfigError(f"data {verb}: no such verb{suggestion(verb, VERBS)}")
    module_name, options_name = VERBS[verb].split(":")
    module = importlib.import_module(module_name)
    return module.run, getattr(module, options_name)


def read(arguments: Sequence[str]) -> Callable[[], object]:
    """Read the words of a verb, and open no file; give what runs it. See `read_options` for errors.

    Args:
        arguments: The verb, and its words.
    """
    verb, *words = arguments or [""]
    run, kind = find(verb)
    return partial(run, read_options(kind, words))


def main(arguments: Sequence[str]) -> None:
    """Run the verb that the first argument names; `helix.cli` tells a person what went wrong."""
    verb, *words = arguments or ["--help"]
    if verb in ("-h", "--help"):
        print(f"give one of: {', '.join(VERBS)}")
        return
    run_verb(*find(verb), words)
