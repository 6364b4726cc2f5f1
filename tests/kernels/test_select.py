import logging

import pytest

from helix import kernels


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


def test_choice_is_logged_once(caplog):
    kernels.choose.cache_clear()
    with caplog.at_level(logging.INFO, logger="helix.kernels"):
        kernels.select("ssd", "auto")
        kernels.select("ssd", "auto")
    taken = next(row.backend for row in kernels.candidates("ssd") if row.available)
    assert [r.getMessage() for r in caplog.records] == [f"kernel ssd: backend {taken}"]
