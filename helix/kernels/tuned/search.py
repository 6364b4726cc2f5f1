"""The search for launch constants: one after the other, each by its fastest right value."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

FASTER = 0.98  # of the time before: what is left to noise


class Trial(NamedTuple):
    """One value of one constant: how long the work took, or why it was refused."""

    constant: str
    value: Any
    ms: float = float("nan")
    refusal: str = ""


def descend(
    start: Mapping[str, Any],
    candidates: Mapping[str, Sequence[Any]],
    *,
    check: Callable[[dict[str, Any]], str],
    time_ms: Callable[[dict[str, Any]], float],
    report: Callable[[Trial], None],
) -> dict[str, Any]:
    """Give the values to which each constant in turn was changed for the better.

    Args:
        start: Values by constant; one that has no candidates stays.
        check: Gives why the work cannot be done with some values, or is done wrong; "" if right.
        report: Is told of each trial, beginning with the value that a constant has.

    Raises:
        RuntimeError: The work is wrong from the start, so that there is nothing to compare with.
    """
    values = dict(start)
    if refusal := check(values):
        raise RuntimeError(f"the kernels are wrong before anything is changed: {refusal}")
    for name in candidates:
        trials = []
        for value in choices(values[name], candidates[name]):
            changed = {**values, name: value}
            trial = Trial(name, value, refusal=check(changed))
            trials.append(trial if trial.refusal else trial._replace(ms=time_ms(changed)))
            report(trials[-1])
        fastest = min((t for t in trials if not t.refusal), key=lambda t: t.ms, default=trials[0])
        if fastest.ms < FASTER * trials[0].ms:
            values[name] = fastest.value
    return values


def choices(value: Any, candidates: Sequence[Any]) -> list[Any]:
    """Give what is tried of a constant: the value that it has, then all others."""
    return [value, *(other for other in candidates if other != value)]
