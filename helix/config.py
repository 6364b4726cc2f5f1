"""RunConfig: all that defines a run, put together as defaults <- preset <- file <- key=value.

The only file that imports omegaconf.
"""

import dataclasses
import difflib
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from helix.data import DataConfig
from helix.models import HybridConfig
from helix.tokenizer import TokenizerConfig
from helix.training.optimizer import OptimizerConfig
from helix.training.schedule import ScheduleConfig

Precision = Literal["fp32", "bf16"]
Wandb = Literal["disabled", "online", "offline"]
Options = TypeVar("Options")


class ConfigError(ValueError):
    """A setting that a person must change; the message names its path, value and the allowed."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length, batch, precision and cadence of a run.

    Attributes:
        n_steps: Optimizer steps of the whole run.
        batch_rows: Rows of context in one optimizer step, over all ranks.
        micro_batch_rows: Rows that one rank holds at a time; accumulation follows from it.
        precision: bf16 keeps fp32 weights, moments and accumulated gradients in the optimizer.
        deepspeed: Name of a file in ds_configs (zero1, zero2_offload, ...: README there) or a path.
        clip_norm: Global gradient norm above which gradients are scaled down; 0 never does.
        validate_every_steps: 0 validates before the first and after the last step only.
        validation_rows: Rows of `data.n_context` tokens that one rank scores at a time; its memory
            and speed, and no figure, follow from it.
        checkpoint_every_steps: 0 saves after the last step only.
        keep_checkpoints: How many of the newest checkpoints stay on disk.
        keep_every_steps: Checkpoints of each so many-th step stay for ever; 0 keeps none for that.
        keep_best: How many of those with the fewest bits per byte stay; a checkpoint has a score
            where its very step was validated.
        async_checkpoints: Write them beside the training, from a copy in host memory of 12 bytes a
            parameter, over the number of ranks.
        warm_start: Run folder, or a checkpoint in it, whose weights the run begins with; moments,
            schedule and data are its own.
        allow_rewarm: Let a warm start's learning rate rise to more than twice the rate that the
            weights were last trained with.
    """

    n_steps: int = 1000
    batch_rows: int = 8
    micro_batch_rows: int = 8
    precision: Precision = "fp32"
    deepspeed: str = "zero1"
    clip_norm: float = 1.0
    validate_every_steps: int = 0
    validation_rows: int = 16
    checkpoint_every_steps: int = 0
    keep_checkpoints: int = 2
    keep_every_steps: int = 0
    keep_best: int = 0
    async_checkpoints: bool = True
    warm_start: str = ""
    allow_rewarm: bool = False

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch_rows", "micro_batch_rows", "validation_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name}={getattr(self, name)}: give at least 1")
        for name in (
            *("validate_every_steps", "checkpoint_every_steps", "clip_norm"),
            *("keep_every_steps", "keep_best"),
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"training.{name}={getattr(self, name)}: give 0 or more")
        if self.keep_checkpoints < 1:
            raise ValueError(f"training.keep_checkpoints={self.keep_checkpoints}: give at least 1")
        self._check_keeping()
        if self.precision not in get_args(Precision):
            raise ValueError(f"training.precision={self.precision!r}: give fp32 or bf16")
        if self.batch_rows % self.micro_batch_rows:
            raise ValueError(
                f"training.batch_rows={self.batch_rows}: must be a multiple of "
                f"training.micro_batch_rows={self.micro_batch_rows}"
            )

    def _check_keeping(self) -> None:
        if self.keep_every_steps and not self.checkpoint_every_steps:
            raise ValueError(
                f"training.keep_every_steps={self.keep_every_steps}: has no effect without "
                "training.checkpoint_every_steps"
            )
        if self.keep_best and not (self.validate_every_steps and self.checkpoint_every_steps):
            raise ValueError(
                f"training.keep_best={self.keep_best}: has no effect without "
                "training.validate_every_steps and training.checkpoint_every_steps"
            )

    def n_accumulations(self, world_size: int) -> int:
        """Count the micro-batches that each rank runs in one optimizer step."""
        rows_at_once = self.micro_batch_rows * world_size
        if self.batch_rows % rows_at_once:
            raise ConfigError(
                f"training.batch_rows={self.batch_rows}: must be a multiple of "
                f"training.micro_batch_rows={self.micro_batch_rows} x {world_size} ranks"
            )
        return self.batch_rows // rows_at_once


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """Where figures go besides metrics.jsonl, and the peak that utilisation is measured against.

    Attributes:
        peak_tflops: Dense matrix peak of one device in the run's precision; None looks the
            device up and leaves MFU out where it is unknown.
    """

    wandb: Wandb = "disabled"
    wandb_project: str = "helix"
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        if self.wandb not in get_args(Wandb):
            raise ValueError(f"metrics.wandb={self.wandb!r}: give disabled, online or offline")


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """When a step is skipped, when a run goes back, and how it stops in time.

    Attributes:
        loss_score: Robust z-score of the loss above which a step is skipped; 0 skips only what is
            not finite.
        gradient_score: The same of the gradient's norm, whose healthy values scatter more widely.
        window_steps: Good steps that the scores compare with.
        least_steps: Good steps before which nothing finite is skipped.
        rollback_incidents: So many skipped steps within `within_steps` lead back to the last
            checkpoint before them, and past their data.
        max_rollbacks: Going back more often without getting on stops the run.
        first_save_s: What a save is taken to last before the run measured one, in front of a
            deadline.
        requeue_wait_s: How long ranks wait to be ended after they were put back into the queue.
    """

    loss_score: float = 10.0
    gradient_score: float = 30.0
    window_steps: int = 128
    least_steps: int = 64
    rollback_incidents: int = 5
    within_steps: int = 50
    max_rollbacks: int = 3
    first_save_s: float = 30.0
    requeue_wait_s: float = 120.0

    def __post_init__(self) -> None:
        for name in ("window_steps", "least_steps", "rollback_incidents", "within_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"guard.{name}={getattr(self, name)}: give at least 1")
        for name in (
            *("loss_score", "gradient_score", "max_rollbacks"),
            *("first_save_s", "requeue_wait_s"),
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"guard.{name}={getattr(self, name)}: give 0 or more")
        for smaller, larger in (
            ("least_steps", "window_steps"),
            ("rollback_incidents", "within_steps"),
        ):
            if getattr(self, smaller) > getattr(self, larger):
                raise ValueError(
                    f"guard.{smaller}={getattr(self, smaller)}: give at most "
                    f"guard.{larger}={getattr(self, larger)}"
                )


@dataclass(frozen=True, kw_only=True)
class WatchdogConfig:
    """How long a phase of a step may last without progress, and which rank counts as slow.

    A phase that lasts longer ends the run with status 75, after the stacks of all ranks were
    written; 0 waits for ever. Collectives themselves give up after 10 minutes (DEEPSPEED_TIMEOUT):
    a longer limit than that leaves the stacks unwritten.

    Attributes:
        step_s: Of the optimizer step, with the sums over ranks around it.
        validate_s: Of one batch of validation.
        compare_every_steps: Ranks compare their own time so often; 0 never does.
        slow_ratio: A rank that takes so many times the median's time is slow.
        slow_comparisons: It is named after so many comparisons in a row.
    """

    data_s: float = 480.0
    forward_s: float = 480.0
    backward_s: float = 480.0
    step_s: float = 480.0
    save_s: float = 1800.0
    validate_s: float = 480.0
    compare_every_steps: int = 20
    slow_ratio: float = 1.3
    slow_comparisons: int = 3

    def __post_init__(self) -> None:
        for name in (
            *("data_s", "forward_s", "backward_s", "step_s", "save_s", "validate_s"),
            "compare_every_steps",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"watchdog.{name}={getattr(self, name)}: give 0 or more")
        if not self.slow_ratio > 1:
            raise ValueError(f"watchdog.slow_ratio={self.slow_ratio}: give more than 1")
        if self.slow_comparisons < 1:
            raise ValueError(f"watchdog.slow_comparisons={self.slow_comparisons}: give at least 1")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that defines a run.

    Attributes:
        preset: The preset that this was made from.
        run_dir: Folder of the run: config, metrics, checkpoints. Not part of what is trained.
        seed: Of the initialisation, and of the order of documents.
    """

    preset: str = "hybrid_tiny"
    run_dir: str = ""
    seed: int = 0
    model: HybridConfig = field(default_factory=HybridConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed}: give a number from 0 to 2^63 - 1")
        if self.data.n_context < 1:
            raise ValueError(f"data.n_context={self.data.n_context}: give at least 1")
        self.model.check(self.data.n_context)
        self.schedule.check(self.training.n_steps)


# Settings that may differ between a run folder and the command that goes on with it.
MAY_CHANGE = (
    "run_dir",
    "preset",
    "data.path",  # a place; what lies there is held to the checkpoint by its fingerprint
    "data.cache",
    "data.cache_gib",
    "data.n_workers",
    "tokenizer.path",  # likewise, by the dataset's manifest
    "metrics",
    "guard",
    "watchdog",
    "model.recompute",
    "model.recompute_every",
    "model.recompute_kinds",
    "model.loss_backend",
    "model.mamba2.backend",
    "model.gla.backend",
    "model.sparse.backend",
    "model.attention.backend",
    "model.loss_chunk_rows",
    "training.micro_batch_rows",
    "training.deepspeed",
    "training.validate_every_steps",
    "training.validation_rows",
    "training.checkpoint_every_steps",
    "training.keep_checkpoints",
    "training.keep_every_steps",
    "training.keep_best",
    "training.async_checkpoints",
    "training.warm_start",
    "training.allow_rewarm",
)


def load(arguments: Sequence[str], presets: Mapping[str, Callable[[], RunConfig]]) -> RunConfig:
    """Compose a run from a preset, an optional file and key=value words.

    Args:
        arguments: Words such as preset=hybrid_tiny, config=run.yaml, training.n_steps=100. A
            run_dir that already holds a config.yaml is the file where config= is not given.
        presets: The table of presets by name.

    Raises:
        ConfigError: A key, type or value that does not fit.
    """
    words = parse_words(arguments)
    file = words.pop("config", None)
    if file is None and words.get("run_dir") and saved_path(words["run_dir"]).exists():
        file = str(saved_path(words["run_dir"]))
    from_file = _read_yaml(Path(file)) if file else OmegaConf.create({})
    name = str(words.get("preset") or from_file.get("preset") or RunConfig().preset)
    if name not in presets:
        raise ConfigError(f"preset={name}: no such preset{suggestion(name, presets)}")
    base = presets[name]()
    own = _read_words(words, base)
    whole = [path for path in words if _is_mapping(own, path)]
    run = compose(base, from_file, own, whole=whole)
    try:
        OmegaConf.structured(run)  # as `save` does
    except OmegaConfBaseException as error:
        path = getattr(error, "full_key", None) or "config"
        raise ConfigError(
            f"{path}: holds a ${{ that is not closed; a run cannot keep it"
        ) from error
    return run


def load_options(kind: type[Options], arguments: Sequence[str]) -> Options:
    """Read a command's own options from key=value words; see `load` for errors."""
    return compose(kind, _read_words(parse_words(arguments), kind))


def compose(
    base: Options | type[Options], *overrides: DictConfig, whole: Sequence[str] = ()
) -> Options:
    """Merge overrides over a dataclass, or over its defaults, and check the result.

    See `load` for errors.

    Args:
        whole: Mappings of the last override that take the place of those before, as
            data.weights={de: 1} leaves no other source; data.weights.de=1 changes one of several.
    """
    merged = OmegaConf.structured(base)
    try:
        for override in overrides:
            _refuse_unknown(override, base)
        for path in whole:
            _empty_mapping(overrides[:-1], path, _hint_of(base, path))
        merged = OmegaConf.merge(merged, *overrides)
        return OmegaConf.to_object(merged)  # pyright: ignore[reportReturnType]
    except OmegaConfBaseException as error:
        path = getattr(error, "full_key", None) or "config"
        if isinstance(error, MissingMandatoryValue):
            raise ConfigError(f"{path}: missing; give {path}=...") from error
        reason = str(getattr(error, "msg", None) or error).splitlines()[0]
        raise ConfigError(f"{path}: {reason}") from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def save(config: Any, path: Path) -> None:
    """Write a config as YAML that loads to an equal one."""
    write_whole(path, OmegaConf.to_yaml(OmegaConf.structured(config)))


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or, where the disk is full or the process is killed, not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def to_dict(config: Any) -> dict[str, Any]:
    """Give a config as plain dicts, lists and numbers."""
    return OmegaConf.to_container(OmegaConf.structured(config))  # pyright: ignore


def saved_path(run_dir: str | Path) -> Path:
    """Say where a run folder keeps its config."""
    return Path(run_dir) / "config.yaml"


def read_saved(run_dir: str | Path, presets: Mapping[str, Callable[[], RunConfig]]) -> RunConfig:
    """Load the config of a run folder; see `load` for errors."""
    if not saved_path(run_dir).exists():
        raise ConfigError(
            f"run_dir={run_dir}: holds no run (no config.yaml); train one there first"
        )
    return dataclasses.replace(load([f"run_dir={run_dir}"], presets), run_dir=str(run_dir))


def load_file(path: Path, base: Options) -> Options:
    """Load a config file over a base; see `load` for errors."""
    return compose(base, _read_yaml(path))


def first_difference(config: RunConfig, saved: RunConfig) -> str | None:
    """Describe the first setting that makes two configs different runs; None where none does."""
    ours, theirs = flatten(to_dict(config)), flatten(to_dict(saved))
    for path in sorted(ours.keys() | theirs.keys()):
        may_change = any(path == p or path.startswith(f"{p}.") for p in MAY_CHANGE)
        if not may_change and ours.get(path) != theirs.get(path):
            return f"{path}={ours.get(path)} here, {theirs.get(path)} there"
    return None


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give nested dicts as one, keyed by dotted paths."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def parse_words(arguments: Sequence[str]) -> dict[str, str]:
    """Split key=value words; the values stay text."""
    words: dict[str, str] = {}
    for word in arguments:
        key, equals, value = word.lstrip("-").partition("=")
        if not equals or not key:
            raise ConfigError(f"{word!r}: write settings as key=value, as in training.n_steps=100")
        if key in words:
            raise ConfigError(f"{key}: given twice, as {words[key]!r} and {value!r}")
        words[key] = value
    return words


def suggestion(word: str, allowed: Mapping[str, Any] | Sequence[str]) -> str:
    """Phrase the nearest allowed names, for the end of an error message."""
    near = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    listed = ", ".join(sorted(allowed))
    return f"; did you mean {near[0]}? Allowed: {listed}" if near else f"; allowed: {listed}"


def _read_words(words: Mapping[str, str], base: Any) -> DictConfig:
    """Read values as YAML, but text as it stands: a prompt may hold a colon."""
    override = OmegaConf.create({})
    for path, text in words.items():
        hint = _hint_of(base, path)
        if hint in (str, str | None):
            value = text
        else:
            try:  # in a mapping of text, 16:00 and 012 are no numbers either
                loader = yaml.BaseLoader if hint == dict[str, str] else yaml.SafeLoader
                value = yaml.load(text, loader)
            except yaml.YAMLError as error:
                raise ConfigError(f"{path}={text}: not a value: {first_line(error)}") from error
            names = [str(key) for key in value] if isinstance(value, dict) else []
            if any(":" in name for name in names):
                raise ConfigError(
                    f"{path}={text}: YAML wants a space after each colon, as in "
                    f"'{path}={{name: 0.5}}'"
                )
        try:
            OmegaConf.update(override, path, as_it_stands(value))
        except (OmegaConfBaseException, IndexError) as error:  # IndexError: of a name such as "["
            raise ConfigError(f"{path}={text}: {first_line(error)}") from error
    return override


def _is_mapping(override: DictConfig, path: str) -> bool:
    return isinstance(OmegaConf.select(override, path), DictConfig)


def _empty_mapping(overrides: Sequence[DictConfig], path: str, hint: Any) -> None:
    for override in overrides if typing.get_origin(hint) is dict else ():
        OmegaConf.update(override, path, {}, merge=False)


def _hint_of(base: Any, path: str) -> Any:
    """Give the type of what a dotted path leads to in a dataclass; None where that is not known."""
    head, _, rest = path.partition(".")
    hint = typing.get_type_hints(base if isinstance(base, type) else type(base)).get(head)
    if not rest:
        return hint
    if hint == dict[str, str]:
        return str
    return _hint_of(hint, rest) if dataclasses.is_dataclass(hint) else None


def first_line(error: BaseException) -> str:
    """Give an error's first line, or its kind where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _read_yaml(path: Path) -> DictConfig:
    if not path.is_file():
        raise ConfigError(f"config={path}: no such file")
    try:
        loaded = OmegaConf.load(path)
    except Exception as error:  # YAML's own errors have no common base with omegaconf's
        raise ConfigError(f"config={path}: not YAML: {first_line(error)}") from error
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"config={path}: expected settings by name, found a list")
    return OmegaConf.create(as_it_stands(OmegaConf.to_container(loaded)))


def as_it_stands(value: Any) -> Any:
    """Escape what OmegaConf would replace: a file from elsewhere must not read our environment."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    if isinstance(value, dict):
        return {key: as_it_stands(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_it_stands(inner) for inner in value]
    return value


def _refuse_unknown(override: DictConfig, base: Any, prefix: str = "") -> None:
    allowed = [f.name for f in dataclasses.fields(base)]
    for key in override:
        if key not in allowed:
            hint = suggestion(str(key), allowed)
            raise ConfigError(f"{prefix}{key}: no such setting{hint}")
        below = getattr(base, str(key), None)
        is_mapping = typing.get_origin(_hint_of(base, str(key))) is dict
        if is_mapping and not isinstance(override[key], DictConfig):
            path, value = f"{prefix}{key}", override[key]
            raise ConfigError(f"{path}={value}: give values by name, as in '{path}={{a: 1}}'")
        if dataclasses.is_dataclass(below) and isinstance(override[key], DictConfig):
            _refuse_unknown(override[key], below, f"{prefix}{key}.")


def split_words(
    arguments: Sequence[str], kind: type[Options], *, also: Sequence[str] = ()
) -> tuple[Options, list[str]]:
    """Read a command's own options, and give back the words that belong to the run.

    Args:
        also: Options that are handed on to the run as well.
    """
    own = {field.name for field in dataclasses.fields(kind)}  # pyright: ignore
    words = parse_words(arguments)
    options = load_options(kind, [f"{k}={v}" for k, v in words.items() if k in own])
    return options, [f"{k}={v}" for k, v in words.items() if k not in own or k in also]
