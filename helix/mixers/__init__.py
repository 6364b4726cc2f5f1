"""Mixers move information along time; MIXERS names them for configs and patterns."""

from helix.mixers.attention import Attention, AttentionConfig, AttentionState
from helix.mixers.base import Mixer, MixerConfig, State, document_starts
from helix.mixers.gla import GatedLinearAttention, GLAConfig, GLAState
from helix.mixers.mamba2 import Mamba2, Mamba2Config, Mamba2State
from helix.mixers.sparse import SparseAttention, SparseConfig, SparseState

MIXERS: dict[str, type[Mixer]] = {
    "mamba2": Mamba2,
    "gla": GatedLinearAttention,
    "sparse": SparseAttention,
    "attention": Attention,
}

__all__ = [
    "MIXERS",
    "Attention",
    "AttentionConfig",
    "AttentionState",
    "GLAConfig",
    "GLAState",
    "GatedLinearAttention",
    "Mamba2",
    "Mamba2Config",
    "Mamba2State",
    "Mixer",
    "MixerConfig",
    "SparseAttention",
    "SparseConfig",
    "SparseState",
    "State",
    "document_starts",
]
