"""Which errors mean that another process or host is gone."""

import pytest
import tensorflow as tf

from jest_tf.runtime.peers import Peers, WorkerLost

GONE = tf.errors.UnavailableError(None, None, "failed to connect to /job:worker/replica:0/task:3")
READING = tf.errors.UnavailableError(
    None,
    None,
    "Error executing an HTTP request: 503 when reading gs://b/a.tfrecord; /job:worker/task:1",
)
OTHER = tf.errors.InternalError(None, None, "a kernel failed")


def peers(n_hosts: int) -> Peers:
    return Peers(tf.distribute.get_strategy(), n_workers=1, is_chief=True, n_hosts=n_hosts)


def test_one_process_of_a_slice_tells_that_a_host_is_gone(caplog):
    with pytest.raises(WorkerLost), peers(4).watched():
        raise GONE
    assert "start all workers again with the same command" in caplog.text
    assert "task:3" in caplog.text


@pytest.mark.parametrize(("n_hosts", "error"), [(1, GONE), (4, OTHER), (4, READING)])
def test_other_errors_stay_as_they_are(n_hosts, error):
    with pytest.raises(type(error)), peers(n_hosts).watched():
        raise error
