from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helix.kernels import sparse
from helix.mixers import MIXERS, GLAConfig, SparseConfig
from helix.models import HybridConfig, build_model, build_on_meta
from helix.models.stack import StackConfig
from tests.models.cases import batch_of, draw_tokens, hybrid

repeats = st.lists(st.tuples(st.sampled_from(sorted(MIXERS)), st.integers(1, 40)), min_size=1)


@given(repeats, st.sampled_from([" ", "  ", "\t", "\n"]), st.booleans())
def test_pattern_is_written_out_from_the_bottom_up(runs, gap, is_short):
    words = [kind if is_short and n == 1 else f"{kind}*{n}" for kind, n in runs]
    config = StackConfig(pattern=gap.join(words))
    assert config.kinds() == tuple(kind for kind, n in runs for _ in range(n))


@pytest.mark.parametrize(
    "word",
    [
        "mamba3",
        "gla*0",
        "gla*9999",
        "gla*-1",
        "gla*1.5",
        "gla*",
        "*3",
        "gla**2",
        "GLA",
        "gla,sparse",
    ],
)
def test_word_that_is_no_mixer_is_named(word):
    with pytest.raises(ValueError, match=r"model\.pattern=") as error:
        StackConfig(pattern=f"gla {word} sparse")
    assert f"{word!r} is not a mixer" in str(error.value)
    assert all(kind in str(error.value) for kind in MIXERS)


@given(st.text(max_size=12))
def test_any_text_is_a_pattern_or_is_refused_with_its_path(text):
    kinds, refusal = (), ""
    try:
        kinds = StackConfig(pattern=text).kinds()
    except ValueError as error:
        refusal = str(error)
    assert kinds or refusal.startswith("model.pattern=")
    assert set(kinds) <= set(MIXERS)


@pytest.mark.parametrize("pattern", ["", "  \n"])
def test_empty_pattern_is_refused(pattern):
    with pytest.raises(ValueError, match="give at least one mixer"):
        StackConfig(pattern=pattern)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_model": 0}, r"model.d_model=0: give a positive width"),
        ({"d_ffn": -1}, r"model.d_ffn=-1: give a positive width"),
        ({"n_vocab": 1}, r"model.n_vocab=1: give the tokenizer's size"),
        ({"loss_chunk_rows": 0}, r"model.loss_chunk_rows=0: give at least 1"),
    ],
)
def test_setting_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        HybridConfig(**settings)


@pytest.mark.parametrize(
    ("n_context", "nearest"), [(10, "64"), (63, "64"), (100, "64, 128"), (129, "128, 192")]
)
def test_context_that_chunks_do_not_divide_is_told_its_neighbours(n_context, nearest):
    config = StackConfig(pattern="attention gla")
    with pytest.raises(ValueError, match=rf"data.n_context={n_context}: must be .*: {nearest}$"):
        config.check(n_context)
    config.check(128)


def test_only_mixers_of_the_pattern_are_checked():
    config = StackConfig(d_model=50, pattern="sparse", sparse=SparseConfig(n_heads=5))
    config.check(7)
    with pytest.raises(ValueError, match=r"gla.n_heads=4: must divide key_ratio \* d_model = 25"):
        StackConfig(d_model=50, pattern="sparse gla", sparse=SparseConfig(n_heads=5)).check(64)


@given(
    pattern=st.lists(st.sampled_from(sorted(MIXERS)), min_size=1, max_size=5).map(" ".join),
    d_ffn=st.integers(1, 50),
    n_vocab=st.integers(2, 60),
    decay_rank=st.none() | st.integers(1, 5),
    qk_norm=st.booleans(),
)
@settings(deadline=None, max_examples=15)
def test_parts_add_up_to_the_built_model(pattern, d_ffn, n_vocab, decay_rank, qk_norm):
    config = hybrid(
        pattern=pattern,
        d_ffn=d_ffn,
        n_vocab=n_vocab,
        gla=GLAConfig(n_heads=2, decay_rank=decay_rank),
        sparse=SparseConfig(n_heads=4, n_kv_heads=2, qk_norm=qk_norm),
    )
    built = sum(p.numel() for p in build_on_meta(config).parameters())
    assert sum(config.parameters_by_part().values()) == built
    assert set(config.parameters_by_part()) == {"embedding", "mlp", "norm", *config.kinds()}


RECOMPUTED = {
    "none": {},
    "selective": {"recompute": "selective"},
    "every second": {"recompute": "selective", "recompute_every": 2},
    "of a kind": {"recompute": "full", "recompute_kinds": "gla attention"},
    "full": {"recompute": "full"},
}


@pytest.mark.parametrize("how", [how for how in RECOMPUTED if how != "none"])
def test_recomputation_changes_neither_loss_nor_gradients(how):
    batch = batch_of(draw_tokens(23), draw_tokens(17, seed=1))
    found = []
    for settings_ in (RECOMPUTED["none"], RECOMPUTED[how]):
        config = hybrid(pattern="mamba2 gla sparse attention", **settings_)
        model = build_model(config, seed=0, device="cpu")
        loss = model(batch).loss
        found.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_blocks_are_recomputed_by_kind_and_count():
    config = hybrid(pattern="gla*4 sparse*2", recompute="full", recompute_every=2)
    assert config.recomputed() == (True, False, True, False, True, False)
    of_kind = replace(config, recompute_kinds="sparse")
    assert of_kind.recomputed() == (False, False, False, False, True, False)
    in_turn = replace(of_kind, pattern="gla sparse gla sparse gla sparse")
    assert in_turn.recomputed() == (False, True, False, False, False, True)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"recompute_every": 0}, "model.recompute_every=0: give at least 1"),
        ({"recompute_every": 2}, "model.recompute=none: recompute_every and recompute_kinds have"),
        ({"recompute": "full", "recompute_kinds": "glaa"}, "'glaa' is not in model.pattern"),
    ],
)
def test_recomputation_without_effect_is_refused(settings_, message):
    with pytest.raises(ValueError, match=message):
        hybrid(**settings_)


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_training_fills_up_no_window_that_is_longer_than_the_row(recompute, monkeypatch):
    filled, pad = [], sparse.F.pad
    monkeypatch.setattr(sparse.F, "pad", lambda x, *given: filled.append(x) or pad(x, *given))
    wide = SparseConfig(n_heads=2, window_tokens=500)
    config = hybrid(pattern="sparse*2", sparse=wide, recompute=recompute)
    model = build_model(config, seed=0, device="cpu")
    model(batch_of(draw_tokens(20))).loss.backward()
    assert not filled
    model.predict(draw_tokens(20))
    assert len(filled) == 4


def test_recomputation_keeps_fewer_activations():
    kept = []
    for recompute in ("none", "selective", "full"):
        model = build_model(hybrid(recompute=recompute), seed=0, device="cpu")
        n_bytes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, n_bytes=n_bytes: n_bytes.append(x.nbytes) or x, lambda x: x
        ):
            model(batch_of(draw_tokens(200)))
        kept.append(sum(n_bytes))
    assert kept[2] < kept[0] / 5
    assert kept[1] < kept[0]
