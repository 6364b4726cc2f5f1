"""Decoding: one token of each row at a time; on a GPU a step is recorded once and replayed.

A step of hybrid_0_9b is some 3,600 operations, which a host launches ten times as slowly as the GPU
runs them. A CUDA graph launches them all at once; it takes the same shapes and addresses each time,
so the state lies in one place and is overwritten.

Dims: B rows, V vocabulary.
"""

from itertools import chain

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from helix.models.base import LanguageModel, ModelState, map_state


class Decoder:
    """Reads on from a state.

    The first step runs as any other does, and shows whether the state keeps its shapes: that of
    full attention grows, and is never recorded.

    Args:
        state: What the tokens before left; stays as it is.
    """

    def __init__(self, model: LanguageModel, state: ModelState) -> None:
        self.model = model
        self.state = state
        self.is_steady = False
        self.recording: Recording | None = None

    @torch.no_grad()
    def read(self, tokens: Int64[Tensor, "B 1"]) -> Float[Tensor, "B V"]:
        """Read a token of each row; give the next one's logits, which hold until the next call."""
        if self.recording is None and self.is_steady:
            self.recording = Recording(self.model, tokens, self.state)
        if self.recording is not None:
            return self.recording.replay(tokens)
        logits, after = self.model.predict(tokens, self.state)
        self.is_steady = tokens.is_cuda and shapes_of(after) == shapes_of(self.state)
        self.state = after
        return logits


class Recording:
    """A step on a GPU as a CUDA graph, with the memory that it reads and writes."""

    def __init__(self, model: LanguageModel, tokens: Int64[Tensor, "B 1"], state: ModelState):
        self.tokens = tokens.clone()
        self.state = map_state(torch.clone, state)
        self.graph = torch.cuda.CUDAGraph()
        # other threads, NCCL's among them, may ask for the state of their own work meanwhile
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.logits, after = model.predict(self.tokens, self.state)
            for place, value in zip(chain(*self.state), chain(*after), strict=True):
                place.copy_(value)

    def replay(self, tokens: Int64[Tensor, "B 1"]) -> Float[Tensor, "B V"]:
        """Take the step that was recorded, from the state that the last one left."""
        self.tokens.copy_(tokens)
        self.graph.replay()
        return self.logits


def shapes_of(state: ModelState) -> list[tuple[torch.Size, torch.dtype]]:
    """List the shapes and dtypes of a state's tensors."""
    return [(x.shape, x.dtype) for x in chain(*state)]
