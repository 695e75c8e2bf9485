"""A strategy is refused where the machine lacks what it asks for."""

import os

import pytest
import tensorflow as tf

from jest_tf.collectives import LOCAL
from jest_tf.config import base_config
from jest_tf.devices import parse_device
from jest_tf.errors import UserError
from jest_tf.runtime import strategy


@pytest.fixture
def four_gpus(monkeypatch):
    """What TensorFlow would be asked to mirror over."""
    four = [tf.config.LogicalDevice(f"GPU:{i}", "GPU") for i in range(4)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: four)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: four)
    asked = []

    def mirrored(devices):
        asked.append(devices)
        return tf.distribute.get_strategy()

    monkeypatch.setattr(tf.distribute, "MirroredStrategy", mirrored)
    return asked


def test_more_gpus_than_there_are_are_refused(four_gpus):
    config = base_config()
    config.strategy.kind, config.strategy.n_devices = "mirrored", 8
    with pytest.raises(UserError, match=r"n_devices = 8, but TensorFlow sees 4 GPU"):
        strategy.build(config)


def test_no_number_of_gpus_means_all(four_gpus):
    config = base_config()
    config.strategy.kind = "mirrored"
    for config.strategy.n_devices in (0, 2):
        strategy.build(config)
    strategy.of_machine()  # commands that embed take all too
    assert [len(devices) for devices in four_gpus] == [4, 2, 4]


@pytest.mark.parametrize(("mebibytes", "values"), [("81559", 2**26), ("16384\n24576", 2**24)])
def test_tiles_follow_the_memory_of_the_smallest_gpu(
    four_gpus, monkeypatch, tmp_path, mebibytes, values
):
    driver = tmp_path / "nvidia-smi"
    driver.write_text(f"#!/bin/sh\necho '{mebibytes}'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    config = base_config()
    config.strategy.kind = "mirrored"
    assert strategy.build(config).collectives().tile_values == values
    driver.write_text("#!/bin/sh\nexit 9\n")
    assert strategy.build(config).collectives().tile_values == LOCAL.tile_values


def test_tiles_of_a_cpu_do_not_follow_its_memory():
    assert strategy.build(base_config()).collectives() == LOCAL
    assert parse_device("cpu:999GiB").tile_values == LOCAL.tile_values


@pytest.mark.parametrize(
    ("jobs", "task", "is_chief", "n_hosts"),
    [
        ({"worker": ["a:1", "b:1"]}, ("worker", 0), True, 2),
        ({"worker": ["a:1", "b:1"]}, ("worker", 1), False, 2),
        ({"chief": ["a:1"], "worker": ["b:1"]}, ("chief", 0), True, 2),
        ({"chief": ["a:1"], "worker": ["b:1"]}, ("worker", 0), False, 2),
    ],
)
def test_one_process_is_the_chief_and_every_process_is_a_host(jobs, task, is_chief, n_hosts):
    class Cluster:
        cluster_resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(jobs), task_type=task[0], task_id=task[1]
        )

    runtime = strategy.Runtime(Cluster(), "multi_worker", 2, n_hosts, compile_whole_step=False)
    assert runtime.is_chief == is_chief
    assert strategy.n_hosts_of("multi_worker", Cluster()) == n_hosts


def test_a_broken_cluster_description_is_one_message(monkeypatch):
    config = base_config()
    config.strategy.kind = "multi_worker"
    monkeypatch.setenv("TF_CONFIG", '{"cluster": ')
    with pytest.raises(UserError, match="TF_CONFIG cannot be used"):
        strategy.build(config)
