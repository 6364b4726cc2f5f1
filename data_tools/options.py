"""Options of a verb: `key=value` words, and files as they are."""

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from helix.config import load_options

Options = TypeVar("Options")
VERBS = {
    "fetch": "data_tools.fetch:FetchOptions",
    "train-tokenizer": "data_tools.train_tokenizer:TrainTokenizerOptions",
    "make-shards": "data_tools.make_shards:MakeShardsOptions",
}


def read_options(kind: type[Options], arguments: Sequence[str]) -> Options:
    """Read a verb's options; words without "=" are its inputs.

    Raises:
        ConfigError: A word names no option, has a wrong value, or an option is missing.
    """
    inputs = [word for word in arguments if "=" not in word]
    words = [word for word in arguments if "=" in word]
    return load_options(kind, [f"inputs={json.dumps(inputs)}", *words] if inputs else words)


def describe(kind: type) -> str:
    """Tell what the options of a verb are, with their defaults."""
    lines = [inspect.getdoc(kind) or "", "", "Write them as key=value; files as they are."]
    for field in fields(kind):
        lines.append(
            f"  {field.name}={'(required)' if field.default is MISSING else field.default}"
        )
    return "\n".join(lines)


def run_verb(run: Callable[[Any], object], kind: type, arguments: Sequence[str]) -> None:
    """Run a verb as a program: a bad input ends it with one message and exit status 2."""
    if {"-h", "--help"} & set(arguments):
        print(describe(kind))
        return
    try:
        run(read_options(kind, arguments))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def main(arguments: Sequence[str]) -> None:
    """Run the verb that the first argument names."""
    verb = arguments[0] if arguments else "--help"
    if verb not in VERBS:
        print(f"give one of: {', '.join(VERBS)}", file=sys.stderr)
        raise SystemExit(0 if verb in ("-h", "--help") else 2)
    module_name, options_name = VERBS[verb].split(":")
    module = importlib.import_module(module_name)
    run_verb(module.run, getattr(module, options_name), arguments[1:])
