"""What every evaluation is told: which model, in which arithmetic, and where the result goes."""

from dataclasses import dataclass
from typing import Literal

from helix.config import ConfigError

# Of one model and one output: evaluations of a suite share them.
SHARED_BY_ALL = ("run_dir", "step", "model", "backends", "precision", "out", "json")
BATCH_TOKENS = {"cpu": 8192, "cuda": 65_536}  # a GPU waits for launches where it is given few


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every evaluation.

    Attributes:
        run_dir: Folder of a run of ours.
        step: Of the run's checkpoint; or latest, or best.
        model: Instead of a run: folder of a Hugging Face causal language model, or its GGUF file.
        text_of: Run folder whose held-out text is scored; the run's own where not given.
        backends: "reference" turns every fast kernel off.
        precision: Of weights and arithmetic.
        batch_tokens: Tokens that a rank scores at a time: memory and speed; where not given, 8192
            on a CPU and 65536 on a GPU.
        out: JSON file to write.
        json: Print JSON instead of tables.
    """

    run_dir: str = ""
    step: str = "latest"
    model: str = ""
    text_of: str = ""
    backends: Literal["auto", "reference"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    batch_tokens: int | None = None
    out: str = ""
    json: bool = False

    def __post_init__(self) -> None:
        if bool(self.run_dir) == bool(self.model):
            raise ConfigError(
                "run_dir=, model=: name the run to evaluate, or a Hugging Face model, and not both"
            )
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ConfigError(f"batch_tokens={self.batch_tokens}: give at least 1")

    def tokens_at_once(self, device_type: str) -> int:
        """Give the tokens that a rank scores at a time on a kind of device."""
        return self.batch_tokens or BATCH_TOKENS[device_type]
