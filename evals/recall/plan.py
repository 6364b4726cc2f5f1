"""Plan: what is asked for, which lengths are measured, and why others are not."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from evals.examinee import Examinee
from evals.options import Options
from evals.recall.symbols import MOST
from helix.config import ConfigError, suggestion

TASKS = ("associative_recall", "needle", "copying")
Filler = Literal["held_out", "neutral"]
SHORTEST = 512
LEAST = 12
BEYOND = 4  # times the context of training
# What the default reads at most: some minutes on two cores, less than one on a GPU.
DEFAULT_FLOPS = {"cpu": 2e13, "cuda": 2e15}
DEFAULT_TOKENS = {"cpu": 1_000_000, "cuda": 50_000_000}  # a small model is not as fast as it counts
ALL_ROWS_TOKENS = 4096  # of longer rows there are fewer, so that all are not too much to read
LEAST_ROWS = 2
BYTES_PER_VALUE = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True, kw_only=True)
class RecallOptions(Options):
    """Options of `helix evaluate recall`.

    Attributes:
        tasks: Of associative_recall, needle and copying, with commas between them.
        lengths: Tokens that the model reads, with commas between them; where not given, powers of
            two from 512, or from half the context of training, to 4 times that context.
        n_items: Rows of each task and length up to 4096 tokens; of longer ones there are fewer, as
            many as hold that many tokens, at least 2. No verdict is built on fewer than 8 rows.
        n_symbols: Of the vocabulary that keys, values and sequences are made of, at most.
        filler: What hides needles: held-out text, or the same few sentences again and again, for a
            model without any.
        max_tokens: To read in all: lengths beyond are left out, and named. Where not given, some
            minutes' worth by the model's parameters and the device.
        max_state_gib: What the state of one row may take; lengths beyond are left out, and named.
        seed: Of the items.
    """

    tasks: str = ",".join(TASKS)
    lengths: str = ""
    n_items: int = 8
    n_symbols: int = MOST
    filler: Filler = "held_out"
    max_tokens: int | None = None
    max_state_gib: float = 16.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for task in self.task_names:
            if task not in TASKS:
                raise ConfigError(f"tasks={task}: no such task{suggestion(task, TASKS)}")
        if self.filler not in get_args(Filler):
            raise ConfigError(f"filler={self.filler}: give held_out or neutral")
        for name, least in (("n_items", 1), ("n_symbols", 4), ("max_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name}={value}: give at least {least}")
        if not self.max_state_gib > 0:
            raise ConfigError(f"max_state_gib={self.max_state_gib}: give more than 0")
        self.given_lengths()

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks, each once."""
        return tuple(dict.fromkeys(self.tasks.split(",")))

    def n_rows(self, length: int) -> int:
        """Count the rows of a length."""
        fewer = self.n_items * ALL_ROWS_TOKENS // length
        return min(self.n_items, max(fewer, LEAST_ROWS))

    def given_lengths(self) -> list[int]:
        """Read the lengths that were given, the shortest first."""
        words = [word for word in self.lengths.split(",") if word]
        for word in words:
            if not word.isdecimal() or int(word) < LEAST:
                raise ConfigError(
                    f"lengths={self.lengths}: {word!r} is not a number of tokens of at least "
                    f"{LEAST}; write them as in lengths=512,2048,8192"
                )
        return sorted({int(word) for word in words})


@dataclass
class Plan:
    """What is measured.

    Attributes:
        lengths: Of each task, the shortest first.
        left_out: What is not measured: task, length, and why.
        max_tokens: What may be read in all.
    """

    lengths: dict[str, list[int]]
    max_tokens: int
    left_out: list[dict[str, str | int]] = field(default_factory=list)

    def leave_out(self, task: str, length: int, why: str) -> None:
        """Note what is not measured."""
        self.left_out.append({"task": task, "length": length, "why": why})


def make_plan(examinee: Examinee, options: RecallOptions) -> Plan:
    """Choose the lengths of each task; depends on the model's shape and the options alone."""
    wanted = options.given_lengths() or default_lengths(examinee.n_context)
    max_tokens = options.max_tokens or default_tokens(examinee)
    plan = Plan(lengths={task: [] for task in options.task_names}, max_tokens=max_tokens)
    n_planned = 0
    for length in wanted:
        state_gib = state_gib_of(examinee, length)
        for task in plan.lengths:
            n_tokens = options.n_rows(length) * length
            if state_gib > options.max_state_gib:
                why = f"its state takes {state_gib:.1f} GiB, max_state_gib={options.max_state_gib}"
                plan.leave_out(task, length, why)
            elif n_planned + n_tokens > max_tokens:
                why = f"{n_planned + n_tokens:,} tokens to read with it, max_tokens={max_tokens}"
                plan.leave_out(task, length, why)
            else:
                plan.lengths[task].append(length)
                n_planned += n_tokens
    return plan


def default_lengths(n_context: int) -> list[int]:
    """List powers of two: the shortest that says something to 4 times the context of training."""
    shortest = SHORTEST
    while shortest > max(n_context // 2, 64):
        shortest //= 2
    lengths = [shortest]
    while lengths[-1] * 2 <= BEYOND * n_context:
        lengths.append(lengths[-1] * 2)
    return lengths


def default_tokens(examinee: Examinee) -> int:
    """Count the tokens whose reading takes some minutes; the embedding is but looked up."""
    kind = examinee.device.type
    n_embedding = 0
    if examinee.config is not None:
        n_embedding = examinee.config.model.parameters_by_part().get("embedding", 0)
    flops_per_token = 2 * max(examinee.subject.n_parameters - n_embedding, 1)
    return min(int(DEFAULT_FLOPS[kind] / flops_per_token), DEFAULT_TOKENS[kind])


def state_gib_of(examinee: Examinee, length: int) -> float:
    """Size the state of one row after a length; 0 where the model does not tell."""
    if examinee.config is None:
        return 0.0
    width = BYTES_PER_VALUE[examinee.subject.precision]
    return examinee.config.model.state_bytes(length, bytes_per_value=width) / 2**30


def show_left_out(left_out: Sequence[dict[str, str | int]]) -> list[str]:
    """Write what is not measured in one line a task."""
    by_task: dict[str, list[str]] = {}
    for entry in left_out:
        by_task.setdefault(str(entry["task"]), []).append(f"{entry['length']} ({entry['why']})")
    return [f"{task}: not measured at {'; '.join(own)}" for task, own in by_task.items()]
