import importlib.util

import pytest

from evals.harness import HarnessOptions
from helix.config import ConfigError


def test_without_the_harness_its_evaluation_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'helix-pretraining\[harness\]'"):
        HarnessOptions(run_dir="runs/a")


def test_options_that_make_no_sense_are_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for options, reason in (
        ({"limit": 0}, "limit=0"),
        ({"n_shot": -1}, "n_shot=-1"),
        ({"harness_tasks": ","}, "name a task"),
    ):
        with pytest.raises(ConfigError, match=reason):
            HarnessOptions(run_dir="runs/a", **options)
