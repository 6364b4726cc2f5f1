import json
import shutil
import struct
from pathlib import Path

import pytest

from helix.training.curve import draw_curve
from helix.training.metrics import metrics_path

BASELINES = {"de": {"order0": 4.2, "order1": 3.1, "xz": 2.5}, "en": {"order0": 4.0}}


@pytest.fixture
def run_dir(trained_run, tmp_path):
    shutil.copy(metrics_path(trained_run.run_dir), tmp_path)
    return tmp_path


def picture_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", content[16:24])


def test_curve_is_a_picture_of_a_size_to_read(run_dir):
    path = draw_curve(run_dir, BASELINES)
    assert path == run_dir / "curve.png"
    assert picture_size(path) == (1320, 504)
    assert 10_000 < path.stat().st_size < 500_000
    assert sorted(file.name for file in run_dir.iterdir()) == ["curve.png", "metrics.jsonl"]


def test_curve_is_drawn_anew(run_dir):
    (run_dir / "curve.png").write_text("stale")
    assert picture_size(draw_curve(run_dir, BASELINES))


def test_baselines_are_drawn(run_dir):
    plain = draw_curve(run_dir, {}).read_bytes()
    assert draw_curve(run_dir, BASELINES).read_bytes() != plain


@pytest.mark.parametrize("lines", [[], [{"step": 1, "train/loss_nats_per_token": 2.0}]])
def test_run_that_was_never_scored_has_a_curve_too(tmp_path, lines):
    metrics_path(tmp_path).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert picture_size(draw_curve(tmp_path, BASELINES))
