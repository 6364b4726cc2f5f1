import pytest

from helix.models import build_on_meta
from helix.presets import PRESETS
from helix.training.optimizer import build_optimizer, is_decayed


@pytest.mark.parametrize("name", ["hybrid_tiny", "hybrid_tiny_attention", "hybrid_0_9b"])
def test_only_matrices_of_linear_maps_decay(name):
    model = build_on_meta(PRESETS[name]().model)
    linear = {
        f"{path}.weight"
        for path, module in model.named_modules()
        if type(module).__name__ == "Linear"
    }
    decayed = {n for n, p in model.named_parameters() if is_decayed(n, p)}
    assert decayed == linear
    for word in ("norm", "bias", "A_log", "dt_bias", "embedding", "conv"):
        assert not any(word in n for n in decayed)


def test_every_parameter_is_in_exactly_one_group():
    model = build_on_meta(PRESETS["hybrid_tiny"]().model)
    groups = build_optimizer(model, PRESETS["hybrid_tiny"]().optimizer, is_fused=False).param_groups
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.0]
