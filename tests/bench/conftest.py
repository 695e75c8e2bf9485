"""The shipped pool's truth, read once."""

import pytest

from jest_tf.bench.evidence.picks import PoolTruth


@pytest.fixture(scope="session")
def pool_truth() -> PoolTruth:
    return PoolTruth()
