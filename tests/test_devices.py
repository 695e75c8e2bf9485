"""Names of devices and slices."""

import pytest

from jest_tf.devices import parse_device, parse_topology
from jest_tf.errors import UserError


@pytest.mark.parametrize(
    ("text", "chips", "hosts"),
    [("v5e:2x4", 8, 1), ("v5e:16x16", 256, 64), ("v4:2x2x1", 4, 1), ("v4:4x4x8", 128, 32)],
)
def test_topology_counts_chips_and_hosts(text, chips, hosts):
    topology = parse_topology(text)
    assert (topology.name, topology.n_chips, topology.n_hosts) == (text, chips, hosts)


@pytest.mark.parametrize("text", ["v5e", "v5e:8", "v5e:2x2x1", "v4:2x4", "v9:2x4", "v5e:0x4", ""])
def test_wrong_topology_is_refused(text):
    with pytest.raises(UserError, match=f"topology '{text}'"):
        parse_topology(text)


def test_memory_of_other_devices_is_given():
    assert parse_device("cpu:1.5GiB").memory == 1.5 * 2**30
    assert parse_device("gpu:512MiB").memory == 2**29
    assert parse_device("v5e").memory < 16 * 2**30
    with pytest.raises(UserError, match="cpu:24GiB"):
        parse_device("cpu")
