import re

import pytest

from helix.models import build_on_meta
from helix.presets import PRESETS

UNITS = {"m": 1e6, "b": 1e9}


@pytest.mark.parametrize("name", PRESETS)
def test_parameter_formula_equals_the_built_model(name):
    config = PRESETS[name]().model
    built = sum(p.numel() for p in build_on_meta(config).parameters())
    assert sum(config.parameters_by_part().values()) == built


@pytest.mark.parametrize("name", [name for name in PRESETS if "tiny" not in name])
def test_name_tells_the_size_within_two_percent(name):
    digits, unit = re.search(r"_(\d+(?:_\d+)?)([mb])(?:_|$)", name).groups()
    named = float(digits.replace("_", ".")) * UNITS[unit]
    n_parameters = sum(PRESETS[name]().model.parameters_by_part().values())
    assert n_parameters == pytest.approx(named, rel=0.02)


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.endswith("_attention")])
def test_control_has_as_many_parameters_and_only_attention(name):
    hybrid, control = PRESETS[name]().model, PRESETS[f"{name}_attention"]().model
    assert set(control.kinds()) == {"attention"}
    assert len(control.kinds()) == len(hybrid.kinds())
    counts = [sum(m.parameters_by_part().values()) for m in (hybrid, control)]
    assert counts[1] == pytest.approx(counts[0], rel=0.02)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_names_itself_and_explains_itself(name):
    assert PRESETS[name]().preset == name
    assert PRESETS[name].__doc__


def test_published_model_keeps_its_published_shape():
    model = PRESETS["hybrid_0_9b"]().model
    assert (model.d_model, model.n_vocab) == (1280, 200_000)
    assert model.pattern == "mamba2*6 gla*16 sparse*6"
