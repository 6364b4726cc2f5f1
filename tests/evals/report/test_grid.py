import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.report import grid
from evals.report.evidence import Evidence
from evals.report.gather import gather
from evals.report.grid import Ability, Check, Rule, build_grid
from evals.report.series import Series
from helix.training.metrics import metrics_path
from tests.evals.report import made

RULES = [rule for rule in vars(grid).values() if isinstance(rule, Rule)]
ORDER = ("not", "partly", "works")


def ability(*verdicts) -> Ability:
    words = {"what": "", "of": "", "seen": "", "works": "", "partly": "", "anchor": ""}
    return Ability(name="", checks=[Check(verdict=verdict, **words) for verdict in verdicts])


def verdicts(run, evidence, name: str) -> dict[str, str]:
    found = next(own for own in build_grid(run, evidence).abilities if own.name == name)
    return {check.what: check.verdict for check in found.checks}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.what)
def test_a_figure_at_a_bound_reaches_it(rule):
    assert rule.verdict(rule.works) == "works"
    assert rule.verdict(rule.partly) in ("works", "partly")
    assert rule.verdict(math.nan) == rule.verdict(math.inf) == "not measured"
    worse = rule.partly + (1e-6 if rule.is_lower_better else -1e-6)
    assert rule.verdict(worse) == "not"


@given(st.sampled_from(RULES), st.floats(-10, 20), st.floats(0, 10))
def test_a_better_figure_never_gets_a_worse_verdict(rule, value, better):
    better = value - better if rule.is_lower_better else value + better
    assert ORDER.index(rule.verdict(better)) >= ORDER.index(rule.verdict(value))


def test_the_page_tells_the_bounds_that_decide():
    check = grid.MFU.judge(0.3)
    assert (check.verdict, check.seen, check.works, check.partly) == (
        *("partly", "30%", "≥ 40%", "≥ 20%"),
    )


def test_an_ability_works_where_all_that_was_measured_works():
    assert ability("works", "works", "not measured").verdict == "works"
    assert ability("works", "not measured", "not measured").verdict == "partly"
    assert ability("works", "not").verdict == "partly"
    assert ability("not", "not measured").verdict == "not"
    assert ability("not measured").verdict == "not measured"
    assert ability("partly").verdict == "partly"


def test_the_grid_of_a_run_that_was_hurt(gathered):
    run, evidence = gathered
    stability = verdicts(run, evidence, "Training stability")
    assert stability["steps are sound"] == "partly"  # 3 of 300
    assert stability["never went back"] == "partly"
    assert stability["goes on after a stop"] == "works"
    assert verdicts(run, evidence, "Throughput")["uses the device"] == "works"
    assert verdicts(run, evidence, "Long-range recall")["beyond the context of training"] == "not"
    assert verdicts(run, evidence, "Decoding") == {
        "repeats no more than people": "partly",
        "does not loop": "not",
        "stays in its language": "works",
    }
    facts = verdicts(run, evidence, "Facts")
    assert facts["de: knows"] == "works"
    assert {facts["de: says"], facts["en: says"]} == {"partly"}


def test_a_source_that_xz_packs_better_does_not_work(gathered):
    run, evidence = gathered
    result = made.bits_result(made.subject(run.run_dir), worse=1.5)
    worse = Evidence(own=evidence.own | {"bits_per_byte": result})
    found = verdicts(run, worse, "Language modelling")
    assert found["web-de: beats the best packer"] == "not"


def test_nothing_is_judged_that_was_not_measured(tmp_path):
    metrics_path(tmp_path).write_text(json.dumps({"step": 1, "attempt": 0, "tokens": 4}) + "\n")
    abilities = build_grid(gather(str(tmp_path)), Evidence()).abilities
    assert {own.verdict for own in abilities} == {"not measured"}
    assert {check.seen for own in abilities for check in own.checks} == {"\N{EN DASH}"}


def test_too_few_items_are_not_judged(gathered):
    run, evidence = gathered
    few = {}
    for name in ("recall", "decoding", "facts"):
        own = evidence.own[name]
        perfect = {
            path: dataclasses.replace(measure, numerators=2 * [good], denominators=2 * [1.0])
            for path, measure in own.measures.items()
            for good in [0.0 if measure.is_lower_better else 1.0]
        }
        few[name] = dataclasses.replace(own, measures=perfect)
    for name in ("Long-range recall", "Decoding", "Facts"):
        found = verdicts(run, Evidence(own=few), name)
        assert set(found.values()) == {"not measured"}, name


def test_a_dataset_of_other_content_than_the_run_s_is_seen(trained_run):
    run = gather(trained_run.run_dir)
    assert verdicts(run, Evidence(), "Data")["is what it was trained on"] == "works"
    assert run.dataset is not None
    other = dataclasses.replace(run.dataset, creation={"seed": 9})
    run = dataclasses.replace(run, dataset=other)
    assert verdicts(run, Evidence(), "Data")["is what it was trained on"] == "not"


@given(st.floats(0.1, 10), st.integers(20, 400))
def test_a_loss_that_falls_or_stays_ends_low_and_one_that_turned_does_not(least, n_steps):
    falling = np.linspace(3 * least, least, n_steps)
    steps = np.arange(n_steps, dtype=float)
    assert grid.end_over_least(Series(steps, falling)) == pytest.approx(1.0)
    turned = np.concatenate([falling, falling[::-1]])
    assert grid.end_over_least(Series(np.arange(2.0 * n_steps), turned)) > 1.5
    assert math.isnan(grid.end_over_least(Series(steps[:9], falling[:9])))
