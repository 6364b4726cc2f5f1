"""Takes one optimizer step in a process of its own and writes when each phase ended.

    python -m evals.throughput.first_step CONFIG.yaml PHASES.json STARTED

STARTED is the time, in seconds since the epoch, at which the process was started.
"""

import json
import sys
import time
from pathlib import Path


class Phases:
    """Measures from the end of one phase to the end of the next."""

    def __init__(self, started: float) -> None:
        self.started = self.last = started
        self.seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        """End a phase now."""
        now = time.time()
        self.seconds[f"{name}_s"] = now - self.last
        self.last = now

    def total(self) -> dict[str, float]:
        """Give the whole time and that of each phase."""
        return {"total_s": self.last - self.started, **self.seconds}


def main(config_file: str, phases_file: str, started: str) -> None:
    """Import, compile, build, run forward and backward, take the step."""
    phases = Phases(float(started))
    from evals.throughput.bench import Bench
    from evals.throughput.options import ThroughputConfig
    from helix import config as configs
    from helix.distributed import local_device
    from helix.presets import PRESETS
    from helix.training.engine import Engine, join_ranks
    from helix.training.warmup import warm_up

    run = configs.load([f"config={config_file}"], PRESETS)
    bench = Bench(run, ThroughputConfig(), local_device())
    phases.end("imports")
    warm_up(run)
    bench.wait()
    phases.end("kernels")
    join_ranks()
    engine = Engine.build(run)
    bench.wait()
    phases.end("build")
    batch = bench.batch(run.training.micro_batch_rows, run.data.n_context)
    engine.accumulate(batch, n_targets=batch.n_targets)
    bench.wait()
    phases.end("fwd_bwd")
    engine.apply(run.optimizer.learning_rate)
    bench.wait()
    phases.end("optimizer")
    Path(phases_file).write_text(json.dumps(phases.total()), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
