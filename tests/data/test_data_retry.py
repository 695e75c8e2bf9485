"""Read errors are retried at the same step; too many bad records stop the run with a list."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from jest_tf.data import pipeline
from jest_tf.data.retry import BadRecords, resilient_steps
from jest_tf.errors import UserError


def ids_from(manifest, step):
    layout = pipeline.InputLayout(super_batch=8, seed=2, start_step=step, n_lanes=1)
    chunks, size = pipeline.record_chunks(manifest, layout)
    assert size == 8
    return (record for _, record, _ in chunks.as_numpy_iterator())


def test_a_read_error_goes_on_at_the_same_step(make_manifest):
    manifest = make_manifest([20, 20])
    expected = list(itertools.islice(ids_from(manifest, 0), 10))
    failures, waits, lines = iter([3, 3, 7]), [], []
    failing = [next(failures)]

    def flaky(step):
        for at, ids in enumerate(ids_from(manifest, step), start=step):
            if at == failing[0]:
                failing[0] = next(failures, None)
                raise tf.errors.UnavailableError(None, None, "the network blinked")
            yield ids

    steps = resilient_steps(flaky, 0, manifest, sleep=waits.append, report=lines.append)
    np.testing.assert_array_equal(list(itertools.islice(steps, 10)), expected)
    assert waits == [1.0, 2.0, 1.0] and "step 3" in lines[0] and "blinked" in lines[0]


def test_a_shard_that_disappears_is_named_after_the_retries(make_manifest, tmp_path):
    manifest = make_manifest([20, 20, 20])
    (tmp_path / "numbers-00001.tfrecord").unlink()
    waits = []
    steps = resilient_steps(
        lambda step: ids_from(manifest, step),
        0,
        manifest,
        max_retries=3,
        sleep=waits.append,
        report=str,
    )
    with pytest.raises(UserError, match="numbers-00001.tfrecord"):
        list(itertools.islice(steps, 10))
    assert waits == [1.0, 2.0, 4.0]


def test_a_shard_that_comes_back_is_waited_for(make_manifest, tmp_path):
    manifest = make_manifest([20, 20])
    expected = list(itertools.islice(ids_from(manifest, 0), 6))
    path, aside = tmp_path / "numbers-00001.tfrecord", tmp_path / "aside"
    waits = []

    def opened(step):
        for at, ids in enumerate(ids_from(manifest, step), start=step):
            if at == 3 and not waits:
                path.rename(aside)
                raise tf.errors.NotFoundError(None, None, "gone")
            yield ids

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            aside.rename(path)

    steps = resilient_steps(opened, 0, manifest, sleep=sleep, report=str)
    np.testing.assert_array_equal(list(itertools.islice(steps, 6)), expected)
    assert waits == [1.0, 2.0, 4.0]


def test_other_errors_are_not_retried(make_manifest):
    def broken(step):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        next(resilient_steps(broken, 0, make_manifest([3])))


def test_too_many_bad_records_stop_the_run_with_a_list(make_manifest):
    manifest = make_manifest([50])
    bad = BadRecords(max_share=0.1, min_records=100)
    source = np.zeros(50, int)
    good = np.ones(50, bool)
    bad.list(np.arange(50), ~good, source)
    bad.count(50, 50)
    bad.check(manifest)  # too few seen to judge
    bad.list(np.arange(50), good, source)
    bad.count(50, 0)
    with pytest.raises(UserError, match=r"50 of 100 records \(50.0%\)") as error:
        bad.check(manifest)
    assert "id 0" in str(error.value) and "numbers: 50" in str(error.value)
    few = BadRecords(max_share=0.1, min_records=100)
    for _ in range(4):
        valid = good.copy()
        valid[7] = False
        few.list(np.where(valid, np.arange(50), -8), valid, source)
        few.count(50, 1)
    few.check(manifest)
    assert few.bad == 4 and few.share == 0.02
    few.max_share = 0.01
    with pytest.raises(UserError, match="numbers-00000.tfrecord record 7"):
        few.check(manifest)


def test_a_process_that_met_no_bad_record_stops_with_the_others(make_manifest):
    bad = BadRecords(max_share=0.1, min_records=100)
    bad.count(200, 30)
    with pytest.raises(UserError, match=r"30 of 200 records .* bound is 10.0%\.\n"):
        bad.check(make_manifest([50]))
