"""Event files read back with TensorBoard's own reader."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util import tensor_util

from jest_tf.monitoring.tensorboard import GROUPS, TensorBoard, tag


def read(logdir):
    accumulator = EventAccumulator(str(logdir), size_guidance={"tensors": 0})
    accumulator.Reload()
    return {
        tag: [
            (event.step, tensor_util.make_ndarray(event.tensor_proto))
            for event in accumulator.Tensors(tag)
        ]
        for tag in accumulator.Tags()["tensors"]
    }


def scalars(logdir, tag):
    # Files of the same second are read by the text of a counter in their names, so 10 before 9.
    return sorted((step, float(value)) for step, value in read(logdir)[tag])


def test_scalars_by_step_and_no_others(tmp_path):
    writer = TensorBoard(tmp_path)
    for step in (10, 20):
        writer.scalars(step, {"train/loss": np.float32(step) / 4, "x/text": "no", "x/vector": [1]})
    writer.close()
    assert scalars(tmp_path, "01 train/loss") == [(10, 2.5), (20, 5.0)]
    assert not [tag for tag in read(tmp_path) if tag.startswith("x/")]


@pytest.mark.parametrize("saved_at", [0, 20, 25])
def test_resume_doubles_no_point(tmp_path, saved_at):
    first = TensorBoard(tmp_path)
    for step in (10, 20, 30, 40):
        first.scalars(step, {"train/loss": step})
    first.close()
    second = TensorBoard(tmp_path, start_step=saved_at)
    for step in (10, 20, 30, 40, 50):
        if step > saved_at:
            second.scalars(step, {"train/loss": step})
    second.close()
    assert scalars(tmp_path, "01 train/loss") == [(s, float(s)) for s in (10, 20, 30, 40, 50)]


def test_a_file_cut_by_a_kill_is_repaired(tmp_path):
    writer = TensorBoard(tmp_path)
    for step in (10, 20):
        writer.scalars(step, {"train/loss": step})
    writer.close()
    (path,) = tmp_path.glob("events*")
    path.write_bytes(path.read_bytes()[:-7])
    writer = TensorBoard(tmp_path, start_step=20)
    writer.scalars(30, {"train/loss": 30})
    writer.close()
    assert scalars(tmp_path, "01 train/loss") == [(10, 10.0), (30, 30.0)]


def test_points_are_seen_without_closing(tmp_path):
    """A run that is killed has not closed its writer."""
    writer = TensorBoard(tmp_path)
    for step in (1, 2):
        writer.scalars(step, {"a/b": step, "a/c": -step})
        assert scalars(tmp_path, "a/c")[-1] == (step, -step)
    writer.close()


def test_histogram_holds_the_finite_values(tmp_path):
    writer = TensorBoard(tmp_path)
    writer.histogram(1, "score/pool", np.array([0.0, 1.0, 1.0, np.nan, np.inf]))
    writer.histogram(2, "score/pool", np.array([np.nan]))
    writer.close()
    ((step, buckets),) = read(tmp_path)["07 score/pool"]
    assert step == 1 and buckets[:, 2].sum() == 3
    assert (buckets[0, 0], buckets[-1, 1]) == (0.0, 1.0)


def test_a_picture_comes_back(tmp_path):
    image = np.arange(3 * 2 * 3, dtype=np.uint8).reshape(3, 2, 3)
    writer = TensorBoard(tmp_path)
    writer.picture(5, "examples/chosen", image)
    writer.close()
    ((step, found),) = read(tmp_path)["08 examples/chosen"]
    assert step == 5
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(found[2]))), image)


def test_groups_sort_in_the_order_of_the_story():
    names = [
        "train/loss", "train/pool_accuracy", "selection/gain", "acceptance/a/b", "eval/a/top1",
        "eval by examples trained/a/top1", "eval by GFLOP/a/top1", "score/pool", "examples/chosen",
        "cost/flops", "train/gradient_norm", "input/wait_share", "forgetting/a/top1",
    ]  # fmt: skip
    tags = [tag(name) for name in names]
    assert sorted(tags) == tags and len({t[:2] for t in tags}) == len(GROUPS) == len(names) - 1
    assert tag("config") == "config" and tag("a/b") == "a/b"


def test_the_cockpit_names_tags_that_runs_write(tmp_path):
    writer = TensorBoard(tmp_path)
    writer.cockpit()
    writer.close()
    ((_, layout),) = read(tmp_path)["custom_scalars__config__"]
    layout = layout_pb2.Layout.FromString(layout.item())
    patterns = {c.title: list(c.multiline.tag) for g in layout.category for c in g.chart}
    (overlap,) = patterns["Overlap of the chosen with independent top-k"]
    assert re.match(overlap, tag("selection/overlap_independent_top_k"))
    joint, other = patterns["Joint score: chosen, independent top-k, uniform"], "train/loss"
    for name in ("", "_independent_top_k", "_uniform"):
        assert re.match(*joint, tag(f"selection/joint_score{name}"))
    assert not re.match(*joint, tag(other))


def test_config_and_hparams(tmp_path):
    writer = TensorBoard(tmp_path)
    writer.config({"selection": {"policy": "joint"}, "name": "é"})
    fields = {"data.path": None, "selection.policy": "joint", "seed": 3}
    writer.hparams(fields, ["train/loss"])
    writer.close()
    ((_, text),) = read(tmp_path)["config"]
    assert '    "policy": "joint"' in text.item().decode()
    plugins = EventAccumulator(str(tmp_path)).Reload()
    written = {
        tag: plugin_data_pb2.HParamsPluginData.FromString(content)
        for tag, content in plugins.PluginTagToContent("hparams").items()
    }
    experiment = written["_hparams_/experiment"].experiment
    assert [h.name for h in experiment.hparam_infos] == ["selection.policy", "data.path", "seed"]
    assert [m.name.tag for m in experiment.metric_infos] == ["01 train/loss"]
    found = written["_hparams_/session_start_info"].session_start_info.hparams
    assert found["selection.policy"].string_value == "joint"
    assert (found["seed"].number_value, found["data.path"].string_value) == (3, "None")
