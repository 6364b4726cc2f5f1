import logging
from typing import get_args, get_type_hints

import pytest
import torch

from helix import kernels
from helix.kernels import fp8_products
from helix.mixers import AttentionConfig, GLAConfig, Mamba2Config, SparseConfig
from helix.models import HybridConfig


@pytest.mark.parametrize("name", kernels.BACKENDS)
def test_every_kernel_has_a_reference_that_runs_here(name):
    rows = {row.backend: row for row in kernels.candidates(name)}
    assert rows["reference"].available
    assert callable(kernels.select(name, "reference"))


@pytest.mark.parametrize("name", kernels.BACKENDS)
def test_every_backend_says_why_it_is_or_is_not_here(name):
    assert all(row.reason for row in kernels.candidates(name))


def test_first_backend_that_imports_wins(monkeypatch):
    rows = {"absent": "helix.kernels.no_such:f", "reference": "helix.kernels.gla:gla_chunked"}
    monkeypatch.setitem(kernels.BACKENDS, "gla", rows)
    kernels.choose.cache_clear()
    assert kernels.select("gla", "auto").__name__ == "gla_chunked"


def test_named_backend_that_is_missing_is_an_error_with_the_reason(monkeypatch):
    monkeypatch.setitem(kernels.BACKENDS, "gla", {"absent": "helix.kernels.no_such:f"})
    kernels.choose.cache_clear()
    with pytest.raises(ValueError, match=r"gla.backend=absent.*no_such"):
        kernels.select("gla", "absent")


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("ssd", "model.mamba2.backend"),
        ("gla", "model.gla.backend"),
        ("cross_entropy", "model.loss_backend"),
    ],
)
def test_missing_backend_is_told_by_its_setting_with_those_that_run_here(
    name, setting, monkeypatch
):
    rows = {"absent": "helix.kernels.no_such:f", "reference": kernels.BACKENDS[name]["reference"]}
    monkeypatch.setitem(kernels.BACKENDS, name, rows)
    with pytest.raises(kernels.BackendError) as error:
        kernels.choose.__wrapped__(name, "absent")
    assert str(error.value).startswith(f"{setting}=absent: not available here (No module named")
    assert "; give one of auto, reference (" in str(error.value)


@pytest.mark.parametrize(
    ("name", "config", "field"),
    [
        ("ssd", Mamba2Config, "backend"),
        ("gla", GLAConfig, "backend"),
        ("attention", AttentionConfig, "backend"),
        ("sparse", SparseConfig, "backend"),
        ("cross_entropy", HybridConfig, "loss_backend"),
    ],
)
def test_setting_takes_the_backends_that_there_are(name, config, field):
    assert set(get_args(get_type_hints(config)[field])) == {"auto", *kernels.BACKENDS[name]}


@pytest.mark.parametrize("forced", [None, "reference"])
@pytest.mark.parametrize("has_gpu", [False, True])
def test_gpu_without_8_bits_trains_in_their_emulation_only_if_told_to(forced, has_gpu, monkeypatch):
    rows = {"triton": "helix.kernels.no_such:f", "reference": "helix.kernels.fp8_products:swiglu"}
    monkeypatch.setitem(kernels.BACKENDS, "swiglu_fp8", rows)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    kernels.choose.cache_clear()
    with kernels.choosing(forced):
        function = kernels.select_8_bit("swiglu_fp8")
    if has_gpu and forced is None:
        with pytest.raises(kernels.BackendError, match=r"model.fp8: .*no_such.*model.fp8= "):
            function(None)
    else:
        assert function is fp8_products.swiglu


def test_choice_is_logged_once(caplog):
    kernels.choose.cache_clear()
    with caplog.at_level(logging.INFO, logger="helix.kernels"):
        kernels.select("ssd", "auto")
        kernels.select("ssd", "auto")
    taken = next(row.backend for row in kernels.candidates("ssd") if row.available)
    assert [r.getMessage() for r in caplog.records] == [f"kernel ssd: backend {taken}"]
