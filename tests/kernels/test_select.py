import logging

import pytest

from helix import kernels


@pytest.mark.parametrize("name", kernels.BACKENDS)
def test_every_kernel_has_a_reference_that_runs_here(name):
    rows = {row.backend: row for row in kernels.candidates(name)}
    assert rows["reference"].available
    assert callable(kernels.select(name, "reference"))


@pytest.mark.parametrize("name", kernels.BACKENDS)
def test_absent_adapters_say_so(name):
    for row in kernels.candidates(name):
        assert row.available or "adapter" in row.reason


def test_first_backend_that_imports_wins(monkeypatch):
    rows = {"absent": "helix.kernels.no_such:f", "reference": "helix.kernels.gla:gla_chunked"}
    monkeypatch.setitem(kernels.BACKENDS, "gla", rows)
    kernels.select.cache_clear()
    assert kernels.select("gla", "auto").__name__ == "gla_chunked"


def test_named_backend_that_is_missing_is_an_error_with_the_reason(monkeypatch):
    monkeypatch.setitem(kernels.BACKENDS, "gla", {"absent": "helix.kernels.no_such:f"})
    kernels.select.cache_clear()
    with pytest.raises(ValueError, match=r"gla.backend=absent.*no_such"):
        kernels.select("gla", "absent")


def test_choice_is_logged_once(caplog):
    kernels.select.cache_clear()
    with caplog.at_level(logging.INFO, logger="helix.kernels"):
        kernels.select("ssd", "auto")
        kernels.select("ssd", "auto")
    assert [r.getMessage() for r in caplog.records] == ["kernel ssd: backend reference"]
