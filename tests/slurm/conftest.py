"""A real SLURM of two nodes for the tests that are marked `slurm`."""

import os

import pytest

from tests.slurm.cluster import Cluster, ClusterError, reason_to_skip


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
