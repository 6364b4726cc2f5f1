import json

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helix.data import ReadAhead
from tests.data.test_stream import loader_of, stack


@given(prepared=st.lists(st.booleans(), min_size=6, max_size=6), stop=st.integers(0, 5))
@settings(deadline=None, max_examples=30)
def test_reading_ahead_changes_neither_the_batches_nor_the_position(pristine, prepared, stop):
    plain, ahead = loader_of(pristine), ReadAhead(loader_of(pristine))
    for step, is_prepared in enumerate(prepared):
        if is_prepared:
            ahead.prepare()
        assert ahead.state_dict() == plain.state_dict()
        if step == stop:
            ahead = go_on_from(pristine, ahead)
        assert torch.equal(stack(ahead.next()), stack(plain.next()))


def go_on_from(pristine, ahead):
    resumed = ReadAhead(loader_of(pristine))
    resumed.prepare()  # of the wrong place: a position drops it
    resumed.load_state_dict(json.loads(json.dumps(ahead.state_dict())))
    return resumed
