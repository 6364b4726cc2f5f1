"""A model that can be evaluated, whoever trained it: one interface for all evaluations."""

from dataclasses import dataclass, replace

import torch

from evals.contract import Subject
from evals.options import Options
from helix import kernels
from helix.config import ConfigError, RunConfig, read_saved, saved_path
from helix.data import ValidationSource, build_validation
from helix.data.files import hash_file
from helix.distributed import local_device
from helix.generate import load_model
from helix.models.base import LanguageModel
from helix.presets import PRESETS
from helix.tokenizer import Tokenizer, load_tokenizer
from helix.training import checkpoint

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Examinee:
    """A model, how it reads text, and what a result says of both.

    Attributes:
        n_context: Tokens of context that it was trained on.
        config: Of the run; None for a model of others.
        warnings: What a reader of its figures must know.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    subject: Subject
    n_context: int
    config: RunConfig | None
    warnings: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device


def open_examinee(options: Options) -> Examinee:
    """Load a run's checkpoint, or a Hugging Face model, for evaluation.

    Raises:
        ConfigError: There is no such run or model.
        CheckpointError: No checkpoint is intact.
    """
    if options.model:
        from evals.peers import open_peer  # transformers is loaded for others' models alone

        return open_peer(options)
    config = read_saved(options.run_dir, PRESETS)
    path = checkpoint.find_intact(options.run_dir, options.step)
    forced = "reference" if options.backends == "reference" else None
    with kernels.choosing(forced) as chosen:
        loaded = load_model(config, path)
    model = loaded.model.to(DTYPES[options.precision])
    subject = Subject(
        name=options.run_dir,
        checkpoint=hash_file(path / "manifest.json"),
        step=checkpoint.read_state(path).progress.step,
        tokenizer=loaded.tokenizer.fingerprint,
        precision=options.precision,
        backends=dict(sorted(chosen.items())),
        device=name_device(),
        n_parameters=count_parameters(model),
    )
    return Examinee(model, loaded.tokenizer, subject, config.data.n_context, config)


def name_device() -> str:
    """Name the device in words."""
    device = local_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def count_parameters(model: torch.nn.Module) -> int:
    """Count the parameters, one that is shared once."""
    return sum(parameter.numel() for parameter in model.parameters())


def held_out_text(
    examinee: Examinee, options: Options, *, max_bytes: int | None
) -> list[ValidationSource]:
    """Open the held-out documents that the options name: the run's own, or another run's.

    Raises:
        ConfigError: The model is not of a run and no run is named, or there is no such run.
        DataError: The dataset is missing or damaged.
    """
    if options.text_of:
        if not saved_path(options.text_of).exists():
            raise ConfigError(f"text_of={options.text_of}: holds no run (no config.yaml)")
        config = read_saved(options.text_of, PRESETS)
        tokenizer = load_tokenizer(config.tokenizer)
    elif examinee.config is not None:
        config, tokenizer = examinee.config, examinee.tokenizer
    else:
        raise ConfigError("text_of=: name the run whose held-out text the model is to read")
    return build_validation(replace(config.data, validation_bytes=max_bytes), tokenizer)
