"""What can be asked of `helix evaluate throughput`."""

from dataclasses import dataclass

SECTION_NAMES = (
    "step",
    "library",
    "parts",
    "recompute",
    "context",
    "decode",
    "engine",
    "precision",
    "first_step",
    "zero",
)


@dataclass(frozen=True, kw_only=True)
class ThroughputConfig:
    """Options of `helix evaluate throughput`; anything else on the line changes the preset.

    Attributes:
        sections: Which tables to make, with commas, of SECTION_NAMES. `zero` is made to be started
            by torchrun; the others run in one process.
        contexts: Lengths for context and decode, with commas; empty means those of each section.
        n_repeats: Timings of which the median is taken, after those that are not counted.
        n_steps: Steps whose losses precision and zero compare; 0 means 500 and 100.
        stages: ZeRO stages for zero, with commas.
        prefill_tokens: Tokens of a prompt that decode reads at a time; 0 reads it in one piece.
        peak_tflops: Dense matrix peak to measure MFU against; 0 looks the device up.
        out: JSON file to write; it is written anew after each row.
        json: Print JSON instead of tables.
    """

    sections: str = "step,parts"
    contexts: str = ""
    n_repeats: int = 5
    n_steps: int = 0
    stages: str = "1,2,3"
    prefill_tokens: int = 8192
    peak_tflops: float = 0.0
    out: str = ""
    json: bool = False

    def __post_init__(self) -> None:
        for name in self.names():
            if name not in SECTION_NAMES:
                known = list(SECTION_NAMES)
                raise ValueError(f"sections={self.sections}: {name!r} is none of {known}")
        if self.n_repeats < 1:
            raise ValueError(f"n_repeats={self.n_repeats}: give at least 1")
        for name in ("n_steps", "prefill_tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: give 0 or more")
        if not all(word.isdigit() and int(word) for word in words_of(self.contexts)):
            raise ValueError(f"contexts={self.contexts}: give lengths in tokens, as in 4096,16384")
        if not self.stages or any(word not in ("1", "2", "3") for word in self.stages.split(",")):
            raise ValueError(f"stages={self.stages}: give some of 1,2,3")

    def names(self) -> list[str]:
        """List the sections asked for."""
        return self.sections.split(",")

    def lengths(self) -> list[int]:
        """List the lengths asked for."""
        return [int(word) for word in words_of(self.contexts)]


def words_of(text: str) -> list[str]:
    """Split at commas; nothing gives nothing."""
    return [word for word in text.split(",") if word]
