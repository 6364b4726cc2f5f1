"""Figures that a refactor must leave as they are; `pytest --update-golden` rewrites them."""

import difflib
import json
from pathlib import Path

import pytest

from helix.data import build_loader
from helix.models import build_on_meta
from helix.presets import PRESETS
from helix.tokenizer import ByteTokenizer
from helix.training.metrics import read_records

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def golden(request, capsys):
    """Give what a golden file holds, after rewriting it where that is asked for."""

    def read(name, found):
        file = GOLDEN / f"{name}.json"
        if request.config.getoption("--update-golden"):
            before = file.read_text() if file.exists() else ""
            after = as_text(found)
            file.write_text(after)
            lines = difflib.unified_diff(
                before.splitlines(), after.splitlines(), "before", "after", lineterm="", n=0
            )
            with capsys.disabled():
                print(f"\n{file.name}:", "\n".join(lines) or "unchanged")
        return json.loads(file.read_text())

    return read


def as_text(value):
    """Write one entry of the top level a line, so that a difference can be read."""
    pairs = value.items() if isinstance(value, dict) else None
    entries = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in pairs] if pairs else None
    left, right = ("{", "}") if entries else ("[", "]")
    entries = entries or [json.dumps(entry) for entry in value]
    return "\n".join((left, ",\n".join(f" {entry}" for entry in entries), right)) + "\n"


def test_small_run_loses_what_it_always_lost(trained_run, golden):
    records = read_records(trained_run.run_dir)
    name = "train/loss_nats_per_token"
    losses = [round(r[name], 6) for r in records if name in r]
    assert len(losses) == 20
    # CPUs differ in the order of their sums
    assert losses == pytest.approx(golden("hybrid_tiny_losses", losses), rel=1e-4)


def test_presets_have_the_parameters_they_always_had(golden):
    found = {name: sum(PRESETS[name]().model.parameters_by_part().values()) for name in PRESETS}
    assert found == golden("preset_parameters", found)


def test_weights_of_hybrid_tiny_keep_their_names_and_shapes(golden):
    model = build_on_meta(PRESETS["hybrid_tiny"]().model)
    found = {name: list(weight.shape) for name, weight in model.state_dict().items()}
    assert found == golden("hybrid_tiny_weights", found)


def test_first_batch_is_packed_as_it_always_was(trained_run, golden):
    loader = build_loader(
        trained_run.data, ByteTokenizer(), batch_rows=2, rank=0, world_size=1, seed=0
    )
    batch = loader.next()
    found = {
        f"{name}[{row}]": values.tolist()
        for name in ("tokens", "targets", "document_ids")
        for row, values in enumerate(getattr(batch, name))
    }
    assert found == golden("packed_batch", found)
