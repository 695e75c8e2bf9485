"""Other people's SavedModels: what would act is not loaded, however deep it lies."""

import pytest
import tensorflow as tf
from small_export import small_export

from jest_tf.errors import UserError
from jest_tf.serving import safe_load


def saved(path, function):
    module = tf.Module()
    module.encode_text = tf.function(function, input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, str(path))
    return str(path)


def writes(texts):
    tf.io.write_file("/tmp/written-by-a-model", texts[0])
    return tf.strings.length(texts)


def reads_in_a_loop_of_a_dataset(texts):
    files = tf.data.Dataset.from_tensor_slices(texts)
    files = files.map(lambda path: tf.cond(path == "", lambda: path, lambda: tf.io.read_file(path)))
    return files.batch(8).get_single_element()


def calls_python(texts):
    return tf.py_function(lambda t: t, [texts], tf.string)


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (writes, "WriteFile"),
        (reads_in_a_loop_of_a_dataset, "ReadFile"),
        (calls_python, "EagerPyFunc"),
        (lambda texts: tf.data.TFRecordDataset(texts).reduce(0, lambda n, _: n + 1), "Record"),
    ],
)
def test_a_model_that_acts_is_not_loaded(tmp_path, function, op):
    path = saved(tmp_path / "model", function)
    with pytest.raises(UserError, match=f"is not loaded.*{op}"):
        safe_load.load(path)


def test_a_model_that_computes_is_loaded(tmp_path):
    model = safe_load.load(saved(tmp_path / "plain", tf.strings.length))
    assert model.encode_text(tf.constant(["abc"])).numpy().tolist() == [3]
    assert safe_load.acting_ops(small_export(tmp_path)) == set()


@pytest.mark.parametrize("content", [None, b"", b"no graph", b"\x0a\xff\xff\xff\xff\x0f"])
def test_what_is_no_model_is_one_clear_error(tmp_path, content):
    if content is not None:
        (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(UserError, match="does not load"):
        safe_load.load(str(tmp_path))
