"""A real SLURM of two nodes for the tests that are marked `slurm`."""

import os

import pytest

from tests.slurm.cluster import Cluster, ClusterError, reason_to_skip
from tests.slurm.runs import TWO_BY_TWO, launch, training_words, wait_for_end


@pytest.fixture(scope="session")
def cluster():
    reason = reason_to_skip()
    if reason:
        pytest.skip(reason)
    cluster = Cluster()
    try:
        cluster.claim()
    except ClusterError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        for name in [name for name in os.environ if name.startswith("SLURM_JOB")]:
            patch.delenv(name)  # the tests themselves may run in a job
        cluster.up(n_nodes=2)
        try:
            yield cluster
        finally:
            cluster.down()


@pytest.fixture(scope="session")
def undisturbed(cluster, corpus, tmp_path_factory):
    """The run folder of a job on 2 nodes x 2 tasks that nothing happened to."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    launch(*TWO_BY_TWO, "--", *training_words(corpus, run_dir))
    assert wait_for_end(run_dir).state == "COMPLETED"
    return run_dir
