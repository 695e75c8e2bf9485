"""Other people's SavedModels: what would act is not loaded, however deep it lies."""

import pathlib

import pytest
import sentencepiece
import tensorflow as tf
from google.protobuf import descriptor_pb2
from small_export import IMAGE_SIZE, small_export, small_model
from tensorflow.core.protobuf import saved_model_pb2

from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError
from jest_tf.serving import safe_load
from jest_tf.serving.saved_model import export_dual_encoder


def saved(path, function):
    module = tf.Module()
    module.encode_text = tf.function(function, input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, str(path))
    return str(path)


def graph_of(path):
    content = pathlib.Path(path, safe_load.GRAPH_FILE).read_bytes()
    return saved_model_pb2.SavedModel.FromString(content)


def refused(path, match):
    with pytest.raises(UserError, match=f"(?s)is not loaded.*{match}"):
        safe_load.load(str(path))


def writes_to(target):
    def encode_text(texts):
        tf.io.write_file(str(target), texts[0])
        return tf.strings.length(texts)

    return encode_text


def reads_in_a_loop_of_a_dataset(texts):
    files = tf.data.Dataset.from_tensor_slices(texts)
    files = files.map(lambda path: tf.cond(path == "", lambda: path, lambda: tf.io.read_file(path)))
    return files.batch(8).get_single_element()


def calls_python(texts):
    return tf.py_function(lambda t: t, [texts], tf.string)


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (writes_to("never"), "WriteFile"),
        (reads_in_a_loop_of_a_dataset, "ReadFile"),
        (calls_python, "EagerPyFunc"),
        (lambda texts: tf.data.TFRecordDataset(texts).reduce(0, lambda n, _: n + 1), "TFRecord"),
    ],
)
def test_a_model_that_acts_is_not_loaded(tmp_path, function, op):
    refused(saved(tmp_path / "model", function), op)


def session_model(path, target, tags=("serve",)):
    """A TensorFlow 1 model whose main op writes a file."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        main_op = tf.raw_ops.WriteFile(filename=str(target), contents="acted")
        builder = tf.compat.v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, list(tags), main_op=main_op)
        builder.save()


def test_a_main_op_is_not_run(tmp_path):
    target = tmp_path / "written"
    session_model(tmp_path / "model", target)
    refused(tmp_path / "model", "no object graph")
    assert not target.exists()
    tf.saved_model.load(str(tmp_path / "model"))  # without the guard
    assert target.read_text() == "acted"


def test_a_second_meta_graph_is_not_run(tmp_path):
    target = tmp_path / "written"
    path = saved(tmp_path / "model", tf.strings.length)
    session_model(tmp_path / "evil", target, tags=("evil",))
    both = graph_of(path)
    both.meta_graphs.append(graph_of(tmp_path / "evil").meta_graphs[0])
    pathlib.Path(path, safe_load.GRAPH_FILE).write_bytes(both.SerializeToString())
    refused(path, "2 meta graphs")
    assert not target.exists()
    tf.saved_model.load(path, tags=["evil"])  # without the guard
    assert target.read_text() == "acted"


def test_an_initialiser_beside_an_object_graph_is_refused(tmp_path):
    path = saved(tmp_path / "model", tf.strings.length)
    model = graph_of(path)
    meta_graph = model.meta_graphs[0]
    (name,) = meta_graph.collection_def["saved_model_main_op"].node_list.value
    (main_op,) = (node for node in meta_graph.graph_def.node if node.name == name)
    main_op.input.append(f"^{meta_graph.saver_def.restore_op_name}")
    pathlib.Path(path, safe_load.GRAPH_FILE).write_bytes(model.SerializeToString())
    refused(path, "RestoreV2")
    main_op.op = "Const"
    pathlib.Path(path, safe_load.GRAPH_FILE).write_bytes(model.SerializeToString())
    refused(path, "it has an initialiser")


def test_a_function_behind_a_gradient_is_seen(tmp_path):
    target = tmp_path / "written"

    @tf.custom_gradient
    def doubled(x):
        def gradient(upstream):
            tf.io.write_file(str(target), "acted")
            return 2.0 * upstream

        return 2.0 * x, gradient

    module = tf.Module()
    module.encode = tf.function(doubled, input_signature=[tf.TensorSpec([], tf.float32)])
    path = str(tmp_path / "model")
    tf.saved_model.save(
        module, path, options=tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    )
    refused(path, "WriteFile")
    model, x = tf.saved_model.load(path), tf.Variable(1.0)  # without the guard
    assert not target.exists()
    with tf.GradientTape() as tape:
        y = model.encode(x)
    tape.gradient(y, x)
    assert target.read_text() == "acted"


def test_a_data_service_is_not_reached(tmp_path):
    server = tf.data.experimental.service.DispatchServer()
    address = server.target.removeprefix("grpc://")

    def encode_text(texts):
        data_set = tf.data.Dataset.from_tensor_slices(texts)
        return tf.raw_ops.RegisterDatasetV2(
            dataset=data_set._variant_tensor, address=address, protocol="grpc",
            external_state_policy=0, requested_dataset_id="", metadata="",
        )  # fmt: skip

    path = saved(tmp_path / "model", encode_text)
    refused(path, "RegisterDatasetV2")
    sent = tf.saved_model.load(path).encode_text(tf.constant(["private"]))  # without the guard
    assert sent.numpy()  # the number that the server gave to the texts that it got


def test_a_descriptor_file_is_not_read(tmp_path):
    message = descriptor_pb2.FileDescriptorProto(name="private.proto")
    of_message = message.message_type.add(name="Private")
    of_message.field.add(name="text", number=1, type=9, label=1)
    private = tmp_path / "private.pb"
    private.write_bytes(descriptor_pb2.FileDescriptorSet(file=[message]).SerializeToString())

    def encode_text(texts):
        return tf.raw_ops.DecodeProtoV2(
            bytes=texts, message_type="Private", field_names=["text"], output_types=[tf.string],
            descriptor_source=str(private),
        ).values[0]  # fmt: skip

    path = saved(tmp_path / "model", encode_text)
    refused(path, "DecodeProtoV2")
    read = tf.saved_model.load(path).encode_text(tf.constant([b"\n\x02hi"]))  # without the guard
    assert read.numpy().tolist() == [[b"hi"]]  # only the file says where the text lies


def test_operations_for_saving_are_for_the_saver_alone(tmp_path):
    def encode_text(texts):
        tf.raw_ops.SaveV2(
            prefix=texts[0], tensor_names=["x"], shape_and_slices=[""], tensors=[tf.constant(1.0)]
        )
        return tf.strings.length(texts)

    refused(saved(tmp_path / "model", encode_text), "SaveV2")


def small_sentencepiece(folder):
    text = folder / "text.txt"
    text.write_text("a red dog\nblue squares\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "sp"), vocab_size=40, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    return Tokenizer(str(folder / "sp.model"), 6)


def test_own_exports_are_loaded(tmp_path):
    """If this names an operation, look up what it does before adding it to ALLOWED."""
    tokenizer = small_sentencepiece(tmp_path)
    export_dual_encoder(
        small_model(tokenizer, dtype="mixed_bfloat16"),
        tokenizer,
        IMAGE_SIZE,
        str(tmp_path / "e"),
        {},
    )
    for path in (small_export(tmp_path), str(tmp_path / "e")):
        assert safe_load.objections(path) == []
        assert safe_load.load(path).encode_text(tf.constant(["abc"])).shape == (1, 8)


# The operations of exports that earlier versions wrote, beyond those that are written today.
EARLIER = "ExpandDims FloorDiv Pack Round ScaleAndTranslate StatelessWhile TensorListStack"


def test_operations_of_earlier_exports_and_clean_texts_are_allowed():
    clean = "CaseFoldUTF8 NormalizeUTF8 RegexReplace StaticRegexReplace StringJoin StringLower"
    assert not set(f"{EARLIER} {clean}".split()) - safe_load.ALLOWED


@pytest.mark.parametrize("content", [None, b"", b"no graph", b"\x0a\xff\xff\xff\xff\x0f"])
def test_what_is_no_model_is_one_clear_error(tmp_path, content):
    if content is not None:
        (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(UserError, match="does not load|is not loaded"):
        safe_load.load(str(tmp_path))
