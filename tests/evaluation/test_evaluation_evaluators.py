"""Whole evaluations on small record files, with an encoder whose answers are known beforehand."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from jest_tf import results
from jest_tf.data.evaluation_data import EvaluationData
from jest_tf.data.manifest import Manifest, Shard, Source
from jest_tf.data.sources import open_source
from jest_tf.errors import UserError
from jest_tf.evaluation.evaluators import (
    checked_options,
    is_result_of,
    projection,
    require_data,
    run_evaluation,
)
from jest_tf.evaluation.zero_shot import class_prompts
from jest_tf.model_record import PixelRule

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColourEncoder:
    """An image's embedding is its mean colour, a text's the colour that it names."""

    decode_size, pixels = 8, PixelRule()
    description = {"model": "colours", "checkpoint": "none", "preprocessing": {"image": "8 px"}}

    def __init__(self):
        self.batch_sizes = set()

    def encode_image(self, images):
        assert images.dtype == np.uint8 and images.shape[1:] == (8, 8, 3)
        self.batch_sizes.add(len(images))
        return self._unit(images.reshape(len(images), -1, 3).mean(axis=1))

    def encode_text(self, texts):
        self.batch_sizes.add(len(texts))
        colours = [sum(np.float32(c) for n, c in COLOURS.items() if n in t) for t in texts]
        return self._unit(np.stack([np.broadcast_to(c, 3) for c in colours]))

    def _unit(self, z):
        z = z + np.float32([1, 2, 3])
        return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)


def png(colour):
    out = io.BytesIO()
    Image.new("RGB", (20, 12), colour).save(out, "PNG")
    return out.getvalue()


def example(image, captions, label):
    def of_bytes(values):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    features = {
        "image": of_bytes([image]),
        "captions": of_bytes([c.encode() for c in captions]),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_manifest(folder, examples, per_shard=3, labels=("red", "green", "blue")):
    """Path of a manifest over shards of `per_shard` records."""
    shards = []
    for start in range(0, len(examples), per_shard):
        part = examples[start : start + per_shard]
        path = str(folder / f"part-{start}.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            for record in part:
                writer.write(record)
        shards.append(Shard(path, len(part)))
    source = Source("colours", captions="captions", label="label", labels=labels)
    Manifest("colours", (source,), tuple(shards)).save(str(folder / "manifest.json"))
    return str(folder / "manifest.json")


@pytest.fixture
def colours(tmp_path):
    """Two reds, two greens, one blue (one of the greens is called blue), one broken picture."""
    names = ["red", "red", "green", "green", "blue"]
    captions = [["a red"], ["red too", "a red"], ["green"], ["blue"], ["blue"]]
    examples = [
        example(png(COLOURS[n]), c, list(COLOURS).index(n))
        for n, c in zip(names, captions, strict=True)
    ]
    examples.insert(2, example(b"broken", ["red"], 0))
    return write_manifest(tmp_path, examples)


def test_retrieval_by_hand(colours):
    encoder = ColourEncoder()
    spec = {"kind": "retrieval", "data": colours, "batch_size": 4, "every_steps": 0}
    result = run_evaluation("r", spec, encoder)
    metrics = result["metrics"]
    # Texts: a red, red too, green, blue. Both reds find a red text, tied with the other one, which
    # is a positive of the second image only: the first image has rank 2 by the tie rule.
    # The green called blue finds green first. So 3 of 5 images are right at 1.
    assert metrics["image_to_text/recall@1"] == pytest.approx(3 / 5)
    # `red too` has one positive, tied with the other red; `blue` finds the blue one.
    assert metrics["text_to_image/recall@1"] == pytest.approx(2 / 4)
    assert metrics["text_to_image/n_queries"] == 4
    assert encoder.batch_sizes == {4}
    read = result["data"]["evaluated"]
    assert (read["n_examples"], read["n_skipped"], read["n_texts"]) == (5, 1, 4)
    assert read["source"] == colours and read["fingerprint"] == Manifest.load(colours).fingerprint
    assert "distinct caption strings" in result["rules"]["captions"]
    assert result["checkpoint"] == "none" and result["preprocessing"] == {"image": "8 px"}


def test_caption_rule_changes_the_texts(colours):
    spec = {"kind": "retrieval", "data": colours, "caption_rule": "image"}
    result = run_evaluation("r", spec, ColourEncoder())
    assert result["data"]["evaluated"]["n_texts"] == 6
    assert "COCO" in result["rules"]["captions"]


def test_zero_shot_by_hand(colours):
    result = run_evaluation("z", {"kind": "zero_shot", "data": colours}, ColourEncoder())
    assert result["metrics"] == {"top1": 1.0, "mean_per_class": 1.0}
    wrong = {"kind": "zero_shot", "data": colours, "classes": colours + ".json"}
    with open(colours + ".json", "w") as file:
        file.write('["green", "red", "blue"]')
    result = run_evaluation("z", wrong, ColourEncoder())
    assert result["metrics"] == {"top1": 1 / 5, "mean_per_class": pytest.approx(1 / 3)}
    assert "3 class names" in result["rules"]["prompts"]


def test_few_shot_reads_its_three_splits(colours):
    spec = {
        "kind": "few_shot", "data": colours, "train": colours, "validation": colours,
        "shots": (1,), "seeds": (0,),
    }  # fmt: skip
    result = run_evaluation("f", spec, ColourEncoder())
    assert result["metrics"]["1shot/accuracy"] == 1.0
    assert set(result["data"]) == {"train", "validation", "evaluated"}


def test_images_of_a_data_set_come_in_order_with_their_bytes(colours):
    data = EvaluationData(open_source(colours), 8)
    batches = list(data.batches(batch_size=4))
    assert [len(batch.images) for batch in batches] == [3, 2]
    assert sum((batch.encoded for batch in batches), []) == [
        png(COLOURS[n]) for n in ("red", "red", "green", "green", "blue")
    ]
    assert [caption for batch in batches for caption in batch.captions][-1] == ["blue"]


def test_imagenet_names_are_used_for_its_synsets():
    synsets = tuple(f"n{number:08d}" for number in range(1000))
    prompts, rule = class_prompts("", "", synsets)
    assert len(prompts) == 1000 and len(prompts[0]) == 80
    assert "a photo of a tench." in prompts[0] and "a photo of a goldfish." in prompts[1]
    assert "imagenet" in rule
    assert class_prompts("imagenet", "photo", ())[0][999] == ["a photo of a toilet paper."]


def test_prompts_from_files(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text('[{"name": "x", "prompt": "an x"}, {"name": "y"}]')
    assert class_prompts(str(path), "", ())[0] == [["an x"], ["y"]]
    path.write_text('[["a", "b"], ["c"]]')
    assert class_prompts(str(path), "", ())[0] == [["a", "b"], ["c"]]
    path.write_text("[]")
    with pytest.raises(UserError, match="expected a JSON list"):
        class_prompts(str(path), "", ())
    with pytest.raises(UserError, match="neither a known name nor"):
        class_prompts("", str(tmp_path / "missing"), ("dog",))
    with pytest.raises(UserError, match="does not say what its labels mean"):
        class_prompts("", "", ("0", "1"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "retreival", "data": "x"}, "expected one of retrieval, zero_shot, few_shot"),
        ({"kind": "retrieval"}, "evals.e.data is empty"),
        ({"kind": "retrieval", "data": "x", "templates": "photo"}, "evals.e.templates is unknown"),
        (
            {"kind": "retrieval", "data": "x", "caption_rule": "any"},
            "expected one of string, image",
        ),
        ({"kind": "few_shot", "data": "x"}, "needs `train`"),
        (1, "evals.e is 1; expected {kind, data"),
        ({"kind": ["retrieval"], "data": "x"}, "evals.e.kind is "),
        ({"kind": "retrieval", "data": 5}, "evals.e.data is 5; expected a text"),
        ({"kind": "retrieval", "data": "x", "batch_size": 0}, "is 0; expected a whole number"),
        ({"kind": "retrieval", "data": "x", "batch_size": "8"}, "is '8'; expected a whole number"),
        ({"kind": "retrieval", "data": "x", "caption_rule": ["image"]}, "expected a text"),
        ({"kind": "few_shot", "data": "x", "shots": 5}, "shots is 5; expected a list of whole"),
        (
            {"kind": "few_shot", "data": "x", "shots": [0]},
            "expected a list of whole numbers from 1",
        ),
        ({"kind": "few_shot", "data": "x", "seeds": []}, "expected a list of whole numbers from 0"),
    ],
)
def test_wrong_specs_are_refused(spec, message):
    with pytest.raises(UserError, match=message):
        checked_options("e", spec)


@pytest.mark.parametrize("name", ["", "a/b", "../e"])
def test_a_name_that_leaves_the_folder_of_results_is_refused(name):
    with pytest.raises(UserError, match="expected a name without /"):
        checked_options(name, {"kind": "retrieval", "data": "x"})


def test_classes_are_one_for_each_label_and_never_blank(tmp_path):
    path = tmp_path / "classes.json"
    for content in ('["a"]', '["a", "b", "c"]'):
        path.write_text(content)
        with pytest.raises(UserError, match="the data set has 2 labels: expected .*: cat, dog"):
            class_prompts(str(path), "", ("cat", "dog"))
    for content in ('["a", " "]', '[["a"], []]', '[["a"], [3]]', '[{"name": "a"}, {"x": 1}]'):
        path.write_text(content)
        with pytest.raises(UserError, match="entry 1 is "):
            class_prompts(str(path), "", ("cat", "dog"))
    path.write_text('[["{}"]]')
    with pytest.raises(UserError, match="templates .* expected a JSON list of texts"):
        class_prompts("", str(path), ("cat", "dog"))


def test_a_stored_result_counts_for_the_same_options_and_data_alone(colours, tmp_path):
    spec = {"kind": "retrieval", "data": colours}
    results.write_result(tmp_path, run_evaluation("r", spec, ColourEncoder()) | {"step": 3})
    stored = results.read_result(tmp_path, "r", 3)
    assert is_result_of(stored, "r", spec)
    for other in ({"caption_rule": "image"}, {"kind": "zero_shot"}, {"data": "data/other"}):
        assert not is_result_of(stored, "r", spec | other)
    assert not is_result_of({k: v for k, v in stored.items() if k != "options"}, "r", spec)
    shorter = [example(png(COLOURS["red"]), ["red"], 0)]
    write_manifest(tmp_path, shorter)  # prepared again
    assert not is_result_of(stored, "r", spec)


def test_a_file_that_is_no_result_is_named(tmp_path):
    for content in ("[]", '{"a": 1}', '{"metrics":'):
        (tmp_path / "e-00000003.json").write_text(content)
        with pytest.raises(UserError, match="e-00000003.json is no result of an evaluation"):
            results.read_results(tmp_path)


def test_records_without_a_label_are_left_out_and_counted(tmp_path):
    names = ["red", "green", "blue"]
    examples = [example(png(COLOURS[name]), [name], i) for i, name in enumerate(names)]
    without = [example(png(COLOURS["red"]), ["red"], -1)]
    few_shot = {"kind": "few_shot", "shots": [1], "seeds": [0]}
    metrics = []
    for records in (examples, examples + without):
        folder = tmp_path / str(len(records))
        folder.mkdir()
        data = write_manifest(folder, records)
        of_splits = {"data": data, "train": data, "validation": data}
        results_of = [
            run_evaluation("z", {"kind": "zero_shot", "data": data}, ColourEncoder()),
            run_evaluation("f", few_shot | of_splits, ColourEncoder()),
        ]
        metrics.append([result["metrics"] for result in results_of])
        for result in results_of:
            assert result["data"]["evaluated"]["n_unlabelled"] == len(records) - 3
    assert metrics[0] == metrics[1] and metrics[0][0]["top1"] == 1
    (tmp_path / "none").mkdir()
    data = write_manifest(tmp_path / "none", without)
    with pytest.raises(UserError, match="has no labels"):
        run_evaluation("z", {"kind": "zero_shot", "data": data}, ColourEncoder())


def test_embeddings_that_are_no_numbers_are_refused_by_every_kind(colours):
    class Diverged(ColourEncoder):
        def encode_image(self, images):
            return np.full((len(images), 3), np.nan, np.float32)

    few_shot = {"kind": "few_shot", "train": colours, "validation": colours}
    for spec in ({"kind": "retrieval"}, {"kind": "zero_shot"}, few_shot):
        with pytest.raises(UserError, match="embeddings are not finite"):
            run_evaluation("e", spec | {"data": colours}, Diverged())


def test_corrupt_and_missing_data_are_one_message(colours, tmp_path):
    with pytest.raises(UserError, match="no data set at"):
        open_source(str(tmp_path / "none.json"))
    shard = tmp_path / "part-0.tfrecord"
    content = bytearray(shard.read_bytes())
    content[40] ^= 255
    shard.write_bytes(bytes(content))
    with pytest.raises(UserError, match="source 'colours' cannot be read"):
        run_evaluation("r", {"kind": "retrieval", "data": colours}, ColourEncoder())


def test_results_after_a_restored_step_are_measured_again(tmp_path):
    for name in ("retrieval-00000010", "retrieval-00000020", "zero-shot-00000020", "export"):
        (tmp_path / f"{name}.json").write_text("{}")
    results.cut_results(tmp_path, last_step=10)
    assert sorted(p.stem for p in tmp_path.iterdir()) == ["export", "retrieval-00000010"]


def test_evaluations_of_one_step_embed_a_data_set_once(colours):
    class Counting(ColourEncoder):
        n_images = 0

        def encode_image(self, images):
            self.n_images += len(images)
            return super().encode_image(images)

    encoder, passes = Counting(), {}
    for kind in ("retrieval", "zero_shot"):
        result = run_evaluation(
            kind, {"kind": kind, "data": colours, "batch_size": 8}, encoder, passes=passes
        )
        assert result["data"]["evaluated"]["n_skipped"] == 1
    assert encoder.n_images == 8


def mixture(folder, *parts):
    """A manifest of several sources; parts: (fields of Source, records of each of its shards)."""
    sources, shards = [], []
    for number, (fields, *of_shards) in enumerate(parts):
        sources.append(Source(f"part {number}", label="label", **fields))
        for records in of_shards:
            path = str(folder / f"{number}-{len(shards)}.tfrecord")
            with tf.io.TFRecordWriter(path) as writer:
                for record in records:
                    writer.write(record)
            shards.append(Shard(path, len(records), number))
    path = str(folder / "mixture.json")
    Manifest("mixture", tuple(sources), tuple(shards)).save(path)
    return path


def test_a_source_without_captions_does_not_shift_those_of_the_next(tmp_path):
    named, red, blue = tuple(COLOURS), (png(COLOURS["red"]), 0), (png(COLOURS["blue"]), 2)
    bare = {"captions": None, "labels": named}
    first = [example(image, [], label) for image, label in (red, blue, red)]
    second = [example(image, [text], n) for (image, n), text in ((red, "red"), (blue, "blue"))]
    data = mixture(tmp_path, (bare, first), ({"labels": named}, second))
    result = run_evaluation("r", {"kind": "retrieval", "data": data}, ColourEncoder())
    # The pictures without a text are candidates, and the tie rule counts them against the model.
    assert result["metrics"]["image_to_text/recall@1"] == 1.0
    assert result["metrics"]["text_to_image/recall@1"] == 0.0
    assert result["metrics"]["text_to_image/median_rank"] == 2.5
    result = run_evaluation("z", {"kind": "zero_shot", "data": data}, ColourEncoder())
    assert result["metrics"]["top1"] == 1.0
    z, columns, pictures = projection(data, ColourEncoder())
    assert columns["captions"] == ["", "", "", "red", "blue"]
    assert len(z) == len(pictures) == 5
    alone = mixture(tmp_path, (bare, first))
    z, columns, _ = projection(alone, ColourEncoder())
    assert len(z) == 3 and columns == {"label": ["red", "blue", "red"]}


def test_sources_that_number_their_classes_differently_are_refused(tmp_path):
    red, blue = png(COLOURS["red"]), png(COLOURS["blue"])
    one = {"labels": ("red", "blue")}, [example(red, ["red"], 0), example(blue, ["blue"], 1)]
    other = {"labels": ("blue", "red", "green")}, [example(red, ["red"], 1)]
    spec = {"kind": "zero_shot", "data": mixture(tmp_path, one, other)}
    with pytest.raises(UserError, match="evals.z: .*'part 0' and .*label 0 is 'red' in one and"):
        require_data("z", spec)
    with pytest.raises(UserError, match="does not say what its labels mean"):
        run_evaluation("z", spec, ColourEncoder())
    require_data("r", spec | {"kind": "retrieval"})
    # A list that goes on where the other ends agrees with it.
    longer = {"labels": ("red", "blue", "green")}, [example(red, ["red"], 0)]
    spec["data"] = mixture(tmp_path, one, longer)
    require_data("z", spec)
    assert run_evaluation("z", spec, ColourEncoder())["metrics"]["top1"] == 1.0


def test_few_shot_finds_its_shots_where_sources_alternate(tmp_path):
    red, blue = example(png(COLOURS["red"]), ["red"], 0), example(png(COLOURS["blue"]), ["blue"], 1)
    named = {"labels": ("red", "blue")}
    train = mixture(tmp_path, (named, [red], [red]), (named, [blue], [blue]))
    manifest = Manifest.load(train)
    in_turn = [manifest.shards[i] for i in (0, 2, 1, 3)]
    manifest.with_shards(in_turn).save(train)
    assert [shard.source for shard in Manifest.load(train).shards] == [0, 1, 0, 1]
    spec = {
        "kind": "few_shot", "data": train, "train": train, "validation": train, "shots": (2,),
        "seeds": (0,), "batch_size": 4,
    }  # fmt: skip
    assert run_evaluation("f", spec, ColourEncoder())["metrics"]["2shot/n_train"] == 4


def test_few_shot_embeds_the_drawn_images_only(tmp_path):
    folders = [tmp_path / name for name in ("train", "test")]
    for folder, n in zip(folders, (60, 6), strict=True):
        folder.mkdir()
        names = [list(COLOURS)[i % 3] for i in range(n)]
        records = [example(png(COLOURS[n]), [n], list(COLOURS).index(n)) for n in names]
        records[0] = example(b"broken", ["red"], 0)
        write_manifest(folder, records, per_shard=20)
    train, test = (str(folder / "manifest.json") for folder in folders)
    spec = {
        "kind": "few_shot", "data": test, "train": train, "validation": test, "shots": (1, 2),
        "seeds": (0, 1), "batch_size": 4,
    }  # fmt: skip
    result = run_evaluation("f", spec, ColourEncoder())
    assert result["metrics"]["2shot/accuracy"] == 1.0
    assert result["metrics"]["2shot/n_train"] == 6
    assert 6 <= result["data"]["train"]["n_examples"] <= 12  # two seeds, 2 of each of 3 colours
