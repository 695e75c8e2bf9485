"""The shipped pool's truth, read once."""

import pytest

from benchmarks.evidence.picks import PoolTruth


@pytest.fixture(scope="session")
def pool_truth() -> PoolTruth:
    return PoolTruth()
