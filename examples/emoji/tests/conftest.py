"""The 60,000 pairs, prepared once for all tests of the example."""

import pytest


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("tfds data"))
