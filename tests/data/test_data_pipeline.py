"""Order, resume and hosts: the super-batch of step k is a function of (seed, k) alone."""

import collections
import itertools

import numpy as np
import pytest
from small_shards import example, png, write_shard
from tensorflow.python.eager import context

from jest_tf.data import order, pipeline
from jest_tf.data.manifest import Manifest, Source, check_files, mix
from jest_tf.errors import UserError


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    """Windows and groups small enough that a few records cross many of their borders."""
    monkeypatch.setattr(order, "WINDOW_RECORDS", 7)
    monkeypatch.setattr(order, "GROUP_SEGMENTS", 2)


def steps(manifest, tokenizer, n, hosts=1, replicas=1, **kwargs):
    """n global super-batches {name: [n, B, ...]}, put together from all hosts and replicas."""
    kwargs = {"super_batch": 16, "image_size": 4, "seed": 3, "n_lanes": 4} | kwargs
    parts, shared = [], pipeline.Shared()
    for host in range(hosts):
        dataset = pipeline.super_batches(
            manifest,
            tokenizer,
            shared=shared,
            input_pipeline_id=host,
            num_input_pipelines=hosts,
            replicas_per_pipeline=replicas,
            **kwargs,
        )
        elements = list(itertools.islice(dataset.as_numpy_iterator(), n * replicas))
        k = kwargs["super_batch"] // hosts // replicas
        assert all(spec.shape[0] == k for spec in dataset.element_spec.values())
        parts.append({name: np.stack([e[name] for e in elements]) for name in elements[0]})

    def join(name):
        by_host = [p[name].reshape((n, -1) + p[name].shape[2:]) for p in parts]
        return np.concatenate(by_host, axis=1)

    return {name: join(name) for name in parts[0]}


def order_of(manifest, n, hosts=1, replicas=1, **kwargs):
    """Record numbers and epochs int64 [2, n, B] of n global super-batches, nothing decoded."""
    kwargs = {"super_batch": 16, "seed": 3, "n_lanes": 4} | kwargs
    per_host = n * kwargs["super_batch"] // hosts
    parts, shared = [], pipeline.Shared()
    for host in range(hosts):
        layout = pipeline.InputLayout(
            input_pipeline_id=host,
            num_input_pipelines=hosts,
            replicas_per_pipeline=replicas,
            **kwargs,
        )
        chunks, size = pipeline.record_chunks(manifest, layout, shared=shared)
        taken = list(itertools.islice(chunks.as_numpy_iterator(), per_host // size))
        parts.append(np.concatenate([[record, epoch] for epoch, record, _ in taken], axis=1))
    return np.concatenate([part.reshape(2, n, -1) for part in parts], axis=2)


def test_an_element_is_what_the_record_holds(make_manifest, tokenizer):
    batch = steps(make_manifest([30, 20]), tokenizer, 2)
    ids = batch["id"]
    assert batch["valid"].all()
    assert batch["image"].shape == (2, 16, 4, 4, 3)
    np.testing.assert_array_equal(batch["image"][..., 0, 0, 0], ids % 251)
    # Tokens of "record 42": record, 4, ##2, [EOS], padding.
    for record_id, tokens in zip(ids.ravel(), batch["tokens"].reshape(-1, 8), strict=True):
        digits = [int(d) for d in str(record_id)]
        expected = [3, 7 + digits[0], *(17 + d for d in digits[1:]), 2]
        assert tokens.tolist() == expected + [0] * (8 - len(expected))


@pytest.mark.parametrize("sizes", [[13, 9, 11, 30, 8, 5, 22], [100]])
def test_hosts_and_replicas_only_cut_the_order(make_manifest, sizes):
    manifest = make_manifest(sizes)
    expected = order_of(manifest, 12)
    for hosts, replicas in ((2, 2), (4, 1)):
        found = order_of(manifest, 12, hosts, replicas)
        np.testing.assert_array_equal(found, expected, err_msg=f"{hosts} hosts {replicas}")


def test_the_pipelines_of_a_run_are_traced_once(make_manifest, tokenizer):
    """A pod's coordinator makes one for each host, and another after a read error."""
    manifest, shared = make_manifest([30, 8, 5, 22]), pipeline.Shared()
    made, graphs = [], []
    for host, step in ((0, 0), (1, 0), (1, 2)):
        before = len(context.context().list_function_names())
        made.append(pipeline.super_batches(
            manifest, tokenizer, image_size=4, super_batch=16, seed=3, n_lanes=4, shared=shared,
            input_pipeline_id=host, num_input_pipelines=2, start_step=step,
        ))  # fmt: skip
        graphs.append(len(context.context().list_function_names()) - before)
    assert graphs[1] == graphs[2] < graphs[0] / 5


def test_an_iterator_that_is_dropped_waits_for_no_tuning(make_manifest, tokenizer):
    # TensorFlow joins its tuning thread, which may have missed the word and sleep for a minute.
    manifest = make_manifest([20, 10])
    training = pipeline.super_batches(
        manifest, tokenizer, super_batch=16, image_size=4, seed=3, n_lanes=4
    )
    for dataset in (training, pipeline.in_order(manifest, tokenizer, 4, image_size=4)):
        assert dataset.options().autotune.enabled is False


def test_hosts_and_replicas_only_cut_the_batches(make_manifest, tokenizer):
    manifest = make_manifest([30, 8, 5, 22])
    expected = steps(manifest, tokenizer, 6)
    found = steps(manifest, tokenizer, 3, hosts=2, replicas=2, start_step=3)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name][3:], err_msg=name)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_resumed_run_reads_the_same_from_any_step(make_manifest, shuffle):
    manifest = make_manifest([13, 9, 11, 30, 8, 5, 22])
    expected = order_of(manifest, 20, shuffle=shuffle)
    for start in (1, 2, 5, 6, 7, 13, 18):
        found = order_of(manifest, 2, start_step=start, shuffle=shuffle)
        np.testing.assert_array_equal(found, expected[:, start : start + 2], err_msg=str(start))


def test_resuming_reads_no_more_than_a_group_of_a_lane_again(make_manifest, tmp_path):
    manifest = make_manifest([10] * 20)  # one lane, groups of 2 shards = 20 records
    expected = order_of(manifest, 10, n_lanes=1)
    kept = {manifest.locate(int(r))[0] for r in expected[0, 5:].ravel()}
    for shard in manifest.shards:
        if shard.path not in kept:
            (tmp_path / shard.path).unlink()
    assert len(kept) < 15
    found = order_of(manifest, 3, n_lanes=1, start_step=5)
    np.testing.assert_array_equal(found, expected[:, 5:8])


def test_every_record_once_per_lane_epoch(make_manifest):
    manifest = make_manifest([13, 9, 11, 30, 8, 5, 24])  # 100 records, 4 lanes of 25
    records, epochs = order_of(manifest, 25)  # 25 steps of 4 records a lane = 4 epochs
    orders = set()
    for lane in range(4):
        given = records[:, lane * 4 : lane * 4 + 4].reshape(4, 25)
        assert (epochs[:, lane * 4 : lane * 4 + 4].reshape(4, 25) == np.arange(4)[:, None]).all()
        for epoch in given:
            assert sorted(epoch) == list(range(lane * 25, lane * 25 + 25))
            orders.add(tuple(epoch - lane * 25))
    assert len(orders) == 16, "epochs and lanes must not repeat one order"


def test_the_seed_changes_the_order_and_no_shuffle_keeps_it(make_manifest):
    manifest = make_manifest([40, 40])
    a, b = (order_of(manifest, 3, seed=seed)[0] for seed in (0, 1))
    assert (a != b).mean() > 0.8
    plain = order_of(manifest, 5, shuffle=False, n_lanes=1)[0]
    assert plain.ravel().tolist() == list(range(80))


def test_lanes_are_equal_whatever_the_shards(make_manifest):
    manifest = make_manifest([3, 50, 1, 46])
    lanes = order.lanes(order.streams(manifest)[0], 8)
    assert {sum(s.records for s in lane) for lane in lanes} == {12, 13}
    line = [n for lane in lanes for s in lane for n in range(s.first, s.first + s.records)]
    assert line == list(range(100))


def test_bad_records_keep_their_slots(tmp_path, tokenizer):
    records = [example(id=n, image=png(n), captions=f"record {n}") for n in range(32)]
    corrupt = bytearray(png(5, size=8))
    corrupt[40:60] = bytes(20)
    records[2] = example(id=2, image=b"<html>not found</html>", captions="record 2")
    records[5] = example(id=5, image=bytes(corrupt), captions="record 5")
    records[9] = example(id=9, image=b"", captions="record 9")
    records[11] = example(id=11, image=png(11), captions=" \n\t")
    records[14] = b"\xff\xff\xff not a tf.train.Example"
    records[17] = example(id=17, image=png(17))  # no caption at all
    records[19] = example(id=19, image=png(19), captions=b"caf\xe9 19")  # Latin-1: usable
    long_caption = "record 2" + " dog" * 250_000  # a megabyte: usable, its tokens are cut
    records[21] = example(id=21, image=png(21), captions=long_caption)
    records[20] = example(id="twenty", image=png(20), captions="record 20")  # id of another type
    shard = write_shard(tmp_path / "a.tfrecord", records)
    manifest = Manifest("bad", (Source("bad", id="id"),), (shard,))
    batch = steps(manifest, tokenizer, 2, n_lanes=1, shuffle=False)
    bad = np.flatnonzero(~batch["valid"].ravel()).tolist()
    assert bad == [2, 5, 9, 11, 14, 17, 20]
    assert batch["tokens"].reshape(32, -1)[21].tolist() == [3, 9, 5, 5, 5, 5, 5, 2]
    ids = batch["id"].ravel().tolist()
    assert [i for n, i in enumerate(ids) if n not in (14, 20)] == [
        n for n in range(32) if n not in (14, 20)
    ]
    assert ids[14] == -15 and manifest.locate(14) == (shard.path, 14)
    assert not batch["image"].reshape(32, -1)[[2, 5, 9, 14, 20]].any()


def test_a_caption_is_drawn_per_visit(tmp_path, tokenizer):
    texts = [f"record {n}" for n in range(5)]
    records = [example(id=n, image=png(n), captions=texts) for n in range(16)]
    shard = write_shard(tmp_path / "a.tfrecord", records)
    manifest = Manifest("many", (Source("many", id="id"),), (shard,))
    batch = steps(manifest, tokenizer, 40)  # 40 visits of every record
    digits = batch["tokens"][..., 1] - 7
    drawn = collections.Counter(zip(batch["id"].ravel(), digits.ravel(), strict=True))
    counts = np.array([[drawn[(n, c)] for c in range(5)] for n in range(16)])
    assert (counts.sum(1) == 40).all()
    # 640 draws of 5: each 128 expected, standard deviation 10.
    assert (abs(counts.sum(0) - 128) < 50).all()
    assert (counts > 0).all(1).mean() > 0.9
    again = steps(manifest, tokenizer, 2, start_step=30)
    np.testing.assert_array_equal(again["tokens"], batch["tokens"][30:32])


def test_a_mixture_gives_each_source_its_share(make_manifest, tokenizer, monkeypatch):
    monkeypatch.setattr(order, "MIXTURE_PERIOD", 20)
    a = make_manifest([30], name="a")
    b = make_manifest([9, 8], first_id=100, name="b")
    manifest = mix([a, b], [0.75, 0.25], "both")
    batch = steps(manifest, tokenizer, 10)
    assert (batch["source"] == (batch["id"] >= 100)).all()
    per_lane = batch["source"].reshape(10, 4, 4).transpose(1, 0, 2).reshape(4, 2, 20)
    assert (per_lane.sum(-1) == 5).all()
    for lane in range(4):
        ids = batch["id"].reshape(10, 4, 4)[:, lane].ravel()
        counts = collections.Counter(ids[ids < 100].tolist())
        assert max(counts.values()) - min(counts.values()) <= 1, "each once per epoch of its source"
    records = order_of(manifest, 16)
    for hosts, start in ((1, 7), (4, 13)):
        found = order_of(manifest, 3, hosts, start_step=start)
        np.testing.assert_array_equal(found, records[:, start : start + 3])


def test_sources_of_one_run_may_name_their_features_differently(tmp_path, tokenizer):
    a = [example(id=n, image=png(n), captions=f"record {n}") for n in range(8)]
    b = [example(id=f"key{n}", jpg=png(n), txt=f"record {n}") for n in range(8)]
    shards = (
        write_shard(tmp_path / "a.tfrecord", a, 0),
        write_shard(tmp_path / "b.tfrecord", b, 1),
    )
    sources = (Source("a", id="id"), Source("b", image="jpg", captions="txt", key="id"))
    batch = steps(Manifest("ab", sources, shards), tokenizer, 1)
    assert batch["valid"].all()
    assert batch["source"].sum() == 8
    hashed = batch["id"][batch["source"] == 1]
    assert len(set(hashed.tolist())) == 8 and (hashed > 2**32).any() and (hashed >= 0).all()


def test_each_record_is_read_once_in_order(make_manifest, tokenizer):
    dataset = pipeline.in_order(make_manifest([7, 4]), tokenizer, 4, image_size=4)
    batches = list(dataset.as_numpy_iterator())
    ids = np.concatenate([b["id"] for b in batches])
    valid = np.concatenate([b["valid"] for b in batches])
    assert ids.tolist() == [*range(11), 0]
    assert valid.all()


@pytest.mark.parametrize(
    ("kwargs", "numbers"),
    [
        ({"super_batch": 10}, ("10", "4")),
        ({"num_input_pipelines": 3}, ("4", "3")),
        ({"replicas_per_pipeline": 5}, ("16", "5")),
        ({"super_batch": 120, "n_lanes": 60}, ("30", "60")),
    ],
)
def test_sizes_that_do_not_divide_are_refused(make_manifest, tokenizer, kwargs, numbers):
    kwargs = {"super_batch": 16, "n_lanes": 4, "image_size": 4, "seed": 0} | kwargs
    with pytest.raises(UserError) as error:
        pipeline.super_batches(make_manifest([20, 10]), tokenizer, **kwargs)
    assert all(number in str(error.value) for number in numbers)


def test_a_shard_that_was_cut_or_lost_is_named(make_manifest, tmp_path):
    manifest = make_manifest([20, 20, 20])
    (tmp_path / "numbers-00001.tfrecord").unlink()
    with open(tmp_path / "numbers-00002.tfrecord", "r+b") as file:
        file.truncate(100)
    with pytest.raises(UserError, match="2 of 3 files") as error:
        check_files(manifest)
    assert "numbers-00001" in str(error.value) and "100 bytes" in str(error.value)
