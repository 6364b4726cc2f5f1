import shutil

import pytest
import torch

from helix import kernels
from helix.config import ConfigError
from helix.kernels.gla import gla_chunked
from helix.models import build_model
from helix.training import checkpoint
from helix.training.checkpoint import CheckpointError
from helix.training.kernel_check import kernels_off
from helix.training.metrics import read_records
from helix.training.rollback import TrainingError
from helix.training.trainer import Trainer, train
from tests.training.runs import stage_words


def build(config):
    trainer = Trainer.build(config)
    with trainer.metrics, trainer.loader, trainer.saver:
        return trainer


@pytest.fixture
def begun(tiny_run, trained_run):
    """Make the config of a run that begins with the weights of one that has ended."""

    def make(*words, **options):
        own = {
            "training.warm_start": trained_run.run_dir,
            "optimizer.learning_rate": "2e-4",
            **dict(word.split("=", 1) for word in words),
        }
        return tiny_run(*(f"{key}={value}" for key, value in own.items()), **options)

    return make


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_run_begins_with_the_weights_and_new_moments(begun, trained_run, stage, capsys, tmp_path):
    config = begun(*stage_words(stage, tmp_path))
    trainer = build(config)
    assert trainer.engine.n_updates == 0
    assert trainer.progress.step == 0
    checkpoint.save(trainer.engine, config.run_dir, trainer.progress, keep=1)
    ours = checkpoint.TensorReader(checkpoint.newest(config.run_dir))
    origin = checkpoint.newest(trained_run.run_dir)
    theirs = checkpoint.TensorReader(origin)
    for name, shape in checkpoint.read_state(origin).shapes.items():
        assert torch.equal(ours.read(name, shape), theirs.read(name, shape)), name
    told = capsys.readouterr().err
    assert "its learning rate was 0.000" in told
    assert "and peaks at 0.0002" in told


def test_the_first_validation_is_that_of_the_origins_last(begun, trained_run):
    config = begun()
    assert train(config) == 0
    name = "validation/de/bits_per_byte"
    last = [r[name] for r in read_records(trained_run.run_dir) if name in r][-1]
    first = next(r[name] for r in read_records(config.run_dir) if name in r)
    assert first == pytest.approx(last, rel=1e-6)


def test_a_rise_of_the_learning_rate_must_be_asked_for(begun, capsys):
    rise = "optimizer.learning_rate=4e-3"
    with pytest.raises(ConfigError, match=r"optimizer.learning_rate=0.004: .* times the .* give"):
        build(begun(rise))
    build(begun(rise, "training.allow_rewarm=true"))
    assert "peaks at 0.004" in capsys.readouterr().err


def test_a_run_with_a_checkpoint_of_its_own_goes_on_from_that(begun, tmp_path):
    config = begun("training.n_steps=3", "training.checkpoint_every_steps=3")
    assert train(config) == 0
    moved = begun(
        "training.n_steps=3",
        "training.checkpoint_every_steps=3",
        f"training.warm_start={tmp_path}/gone",
    )
    assert build(moved).progress.step == 3


def test_an_origin_that_there_is_not_and_another_model_are_refused(begun, tmp_path):
    with pytest.raises(ConfigError, match=r"training.warm_start=.*gone: neither a run folder"):
        build(begun(f"training.warm_start={tmp_path}/gone"))
    with pytest.raises(CheckpointError, match=r"a checkpoint of another model: \S+ has shape"):
        build(begun("model.d_ffn=64", run_dir="other"))


def test_a_damaged_checkpoint_is_refused_by_name_and_passed_over_in_a_run(
    begun, trained_run, tmp_path, capsys
):
    origin = shutil.copytree(trained_run.run_dir, tmp_path / "origin")
    damaged = checkpoint.newest(origin)
    weights = next(damaged.glob("weights-*"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"training.warm_start=.*: damaged; restore it"):
        build(begun(f"training.warm_start={damaged}"))
    build(begun(f"training.warm_start={origin}"))
    assert "damaged; going on from step-" in capsys.readouterr().err


def test_a_relative_name_and_a_folder_put_aside_change_nothing(begun, trained_run, monkeypatch):
    path = checkpoint.newest(trained_run.run_dir)
    monkeypatch.chdir(path.parent)
    config = begun(f"training.warm_start={path.name}", "optimizer.learning_rate=4e-3")
    aside = checkpoint.checkpoints_dir(config.run_dir) / "step-00000003.damaged"
    aside.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"optimizer.learning_rate=0.004: .* times the .* give"):
        build(config)


def test_the_first_figures_are_told_with_kernels_on_and_off(begun):
    config = begun()
    assert train(config) == 0
    first = read_records(config.run_dir)
    on = next(r for r in first if "validation/de/bits_per_byte" in r)
    off = next(r for r in first if "kernels_off/de/bits_per_byte" in r)
    assert on["step"] == off["step"] == 0
    for source in ("de", "en"):
        told = off[f"kernels_off/{source}/bits_per_byte"]
        assert told == pytest.approx(on[f"validation/{source}/bits_per_byte"], rel=1e-6)


def late_gla(*inputs, **options):
    """A kernel that is wrong: its output comes a token late."""
    y, state = gla_chunked(*inputs, **options)
    return y.roll(1, dims=1), state


@pytest.fixture
def _wrong_kernel(monkeypatch):
    rows = {"wrong": f"{__name__}:late_gla", "reference": "helix.kernels.gla:gla_chunked"}
    monkeypatch.setitem(kernels.BACKENDS, "gla", rows)
    kernels.choose.cache_clear()
    yield
    kernels.choose.cache_clear()


@pytest.mark.usefixtures("_wrong_kernel")
def test_a_kernel_that_makes_another_model_of_the_weights_is_refused(begun):
    with pytest.raises(TrainingError, match=r"training.warm_start: .* a kernel is wrong here"):
        train(begun())


@pytest.mark.usefixtures("_wrong_kernel")
def test_kernels_are_on_again_after_they_were_off(tiny_run):
    config = tiny_run()
    model = build_model(config.model, seed=0, device="cpu")
    fast = [vars(module).get("scan") for module in model.modules()]
    with kernels_off(model, config.model):
        scans = [own.func for m in model.modules() if (own := vars(m).get("scan")) is not None]
        assert gla_chunked in scans
        assert late_gla not in scans
    assert [vars(module).get("scan") for module in model.modules()] == fast
    assert late_gla in [own.func for own in fast if own is not None]
