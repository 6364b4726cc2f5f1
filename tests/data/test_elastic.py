"""The tokens a run sees depend on nothing but its data: not on ranks, workers, stops or places."""

import hashlib
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix.data import DataConfig, DataError, ReadAhead
from tests.data.remote_server import serve
from tests.data.test_stream import loader_of

N_STEPS = 12
ROWS = 24  # what 1, 2, 3 and 8 ranks can share
PARTS = ("tokens", "targets", "document_ids")


class Run:
    """A run on some ranks, all in this process: they share nothing but the dataset."""

    def __init__(self, path, *, n_ranks, n_workers, state=None, **config):
        self.ranks = [
            ReadAhead(
                loader_of(
                    path,
                    rank=rank,
                    world_size=n_ranks,
                    batch_rows=ROWS,
                    n_workers=n_workers,
                    **config,
                )
            )
            for rank in range(n_ranks)
        ]
        for rank in self.ranks:
            if state is not None:
                rank.load_state_dict(json.loads(state))

    def stop(self):
        """Save the position and be killed."""
        states = [json.dumps(rank.state_dict()) for rank in self.ranks]
        assert len(set(states)) == 1
        for rank in self.ranks:
            rank.close()
        return states[0]


def hash_stream(path, legs, **config):
    """Hash the global order of a run that is stopped after each leg and goes on otherwise."""
    digests, state = {name: hashlib.sha256() for name in PARTS}, None
    for n_steps, n_ranks, n_workers in legs:
        run = Run(path, n_ranks=n_ranks, n_workers=n_workers, state=state, **config)
        for _ in range(n_steps):
            batches = [rank.next() for rank in run.ranks]
            for rank in run.ranks:
                rank.prepare()
            for name, digest in digests.items():
                for batch in batches:
                    digest.update(getattr(batch, name).numpy().tobytes())
        state = run.stop()
    return {name: digest.hexdigest() for name, digest in digests.items()}, json.loads(state)


@pytest.fixture(scope="module")
def undisturbed(pristine):
    return hash_stream(pristine, [(N_STEPS, 1, 0)])


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("n_workers", [0, 1, 2, 3, 4])
def test_the_global_order_is_the_same_for_any_ranks_and_workers(
    pristine, undisturbed, n_ranks, n_workers
):
    assert hash_stream(pristine, [(N_STEPS, n_ranks, n_workers)]) == undisturbed


@given(
    cuts=st.lists(st.integers(0, N_STEPS), max_size=4),
    ranks=st.lists(st.sampled_from([1, 2, 3, 8]), min_size=5, max_size=5),
    workers=st.lists(st.integers(0, 4), min_size=5, max_size=5),
)
@settings(max_examples=40)
def test_a_run_killed_at_any_steps_and_resumed_on_other_ranks_sees_the_same_tokens(
    pristine, undisturbed, cuts, ranks, workers
):
    ends = [0, *sorted(cuts), N_STEPS]
    n_steps = [end - start for start, end in itertools.pairwise(ends)]
    assert hash_stream(pristine, zip(n_steps, ranks, workers, strict=False)) == undisturbed


def test_the_same_holds_where_the_dataset_is_fetched_while_it_is_read(
    pristine, undisturbed, tmp_path
):
    with serve(pristine) as server:
        files = [f"train/{file.name}" for file in (pristine / "train").glob("*.tar")]
        server.faults = {file: [503, "slow"] for file in files}
        legs = [(4, 3, 4), (3, 8, 1), (N_STEPS - 7, 2, 0)]
        assert hash_stream(server.url, legs, cache=str(tmp_path)) == undisturbed
        assert all(server.requests[file] <= 2 for file in files)


def test_workers_name_the_same_damaged_document_as_reading_one_by_one(dataset_path):
    loader = loader_of(dataset_path, batch_rows=ROWS)
    dataset = loader.dataset
    for row in loader.provenance(0)[5:9]:
        for segment in row:
            index = dataset.indexes[segment.source]
            file = (
                dataset_path
                / dataset.sources[segment.source].shards[index.shard[segment.document]].file
            )
            content = bytearray(file.read_bytes())
            content[int(index.offset[segment.document]) + 1] ^= 1
            file.write_bytes(content)
    told = set()
    for n_workers in (0, 1, 4):
        hurt = loader_of(dataset_path, batch_rows=ROWS, n_workers=n_workers)
        with pytest.raises(DataError, match="bytes changed") as refused:
            hurt.next()
        told.add(str(refused.value))
        hurt.close()
    assert len(told) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"n_workers": -1}, "data.n_workers=-1"), ({"cache_gib": 0.0}, "data.cache_gib=0.0")],
)
def test_config_refuses_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(path="x", **fields)
