"""Options: `key=value` arguments to a verb's options dataclass."""

import dataclasses
import difflib
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

Options = TypeVar("Options")
VERBS = {
    "fetch": "data_tools.fetch:FetchOptions",
    "train-tokenizer": "data_tools.train_tokenizer:TrainTokenizerOptions",
    "make-shards": "data_tools.make_shards:MakeShardsOptions",
}


def parse_options(options: type[Options], arguments: Sequence[str]) -> Options:
    """Read `key=value` arguments; those without "=" are the field `inputs`.

    Raises:
        ValueError: An argument names no field, has a wrong value, or a field is missing.
    """
    hints = typing.get_type_hints(options)
    values: dict[str, Any] = {}
    inputs = tuple(argument for argument in arguments if "=" not in argument)
    if inputs:
        if "inputs" not in hints:
            raise ValueError(f"{inputs[0]}: write options as key=value ({', '.join(hints)})")
        values["inputs"] = inputs
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if equals:
            if key not in hints or key == "inputs":
                near = difflib.get_close_matches(key, hints, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(hints)}"
                raise ValueError(f"{key}: no such option; {hint}")
            values[key] = parse_value(key, text, hints[key])
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        if field.name not in values and field.default is dataclasses.MISSING:
            what = "name the files" if field.name == "inputs" else f"give {field.name}=..."
            raise ValueError(f"{field.name}: missing; {what}")
    return options(**values)


def parse_value(key: str, text: str, hint: Any) -> Any:
    """Read one value as the type of its field."""
    if isinstance(hint, types.UnionType):
        if text in ("null", "none", "None"):
            return None
        hint = next(kind for kind in typing.get_args(hint) if kind is not types.NoneType)
    if typing.get_origin(hint) is Literal:
        if text not in typing.get_args(hint):
            raise ValueError(f"{key}={text}: give one of {', '.join(typing.get_args(hint))}")
        return text
    if hint is bool:
        if text not in ("true", "false"):
            raise ValueError(f"{key}={text}: give true or false")
        return text == "true"
    try:
        return hint(text)
    except ValueError:
        raise ValueError(f"{key}={text}: give a value of type {hint.__name__}") from None


def describe(options: type) -> str:
    """Tell what the options of a verb are, with their defaults."""
    lines = [inspect.getdoc(options) or "", "", "Write them as key=value; files as they are."]
    for field in dataclasses.fields(options):
        has_default = field.default is not dataclasses.MISSING
        lines.append(f"  {field.name}={field.default if has_default else '(required)'}")
    return "\n".join(lines)


def run_verb(run: Callable[[Any], object], options: type, arguments: Sequence[str]) -> None:
    """Run a verb as a program: a bad input ends it with one message and exit status 2."""
    if {"-h", "--help"} & set(arguments):
        print(describe(options))
        return
    try:
        run(parse_options(options, arguments))
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
