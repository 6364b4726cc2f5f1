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
        accumulations: Micro-batches of a step in engine, with commas.
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
    accumulations: str = "1,8"
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
        for name, least in (("n_repeats", 1), ("n_steps", 0), ("prefill_tokens", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: give {least} or more")
        for name, words, wanted in (
            ("contexts", words_of(self.contexts), "lengths in tokens, as in 4096,16384"),
            ("accumulations", self.accumulations.split(","), "numbers, as in 1,8"),
        ):
            if not all(word.isdigit() and int(word) for word in words):
                raise ValueError(f"{name}={getattr(self, name)}: give {wanted}")
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
