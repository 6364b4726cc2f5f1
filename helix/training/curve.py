"""curve.png: the loss of every step, and bits per byte on held-out text beside its baselines."""

from collections.abc import Mapping
from pathlib import Path

from helix.training.metrics import Record, read_records


def draw_curve(run_dir: str | Path, baselines: Mapping[str, Mapping[str, float]]) -> Path:
    """Draw a run's figures to curve.png.

    Args:
        baselines: Bits per byte of simple models by source, each drawn as a line.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_records(run_dir)
    steps = [r for r in records if "train/loss_nats_per_token" in r]
    held_out = [r for r in records if any(k.startswith("validation/") for k in r)]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    loss, bits = figure.subplots(1, 2)
    loss.plot([r["step"] for r in steps], [r["train/loss_nats_per_token"] for r in steps], lw=0.8)
    loss.set(xlabel="optimizer step", ylabel="training loss (nats/token)")
    for number, source in enumerate(_sources(held_out)):
        colour = f"C{number}"
        points = [(r["step"], r[f"validation/{source}/bits_per_byte"]) for r in held_out]
        bits.plot(*zip(*points, strict=True), "o-", color=colour, label=f"{source}, held out")
        for name, value in baselines.get(source, {}).items():
            style = {"order0": ":", "order1": "--"}.get(name, "-.")
            bits.axhline(value, color=colour, ls=style, lw=1, label=f"{source}, {name}")
    bits.set(xlabel="optimizer step", ylabel="bits per byte", ylim=(0, None))
    if held_out:
        bits.legend(fontsize=8)
    path = Path(run_dir) / "curve.png"
    partial = path.with_name(".curve.partial.png")
    figure.savefig(partial, dpi=120)
    partial.replace(path)
    return path


def _sources(held_out: list[Record]) -> list[str]:
    names = {k.split("/")[1] for record in held_out for k in record if k.startswith("validation/")}
    return sorted(names)
