"""The most bytes alive at once in a graph, against the size of what must never exist."""

import pytest
import tensorflow as tf
from contrastive import contrastive_loss

from jest_tf.losses import grad_cache
from jest_tf.models.dual_encoder import DualEncoder, DualEncoderConfig

MIB = 2**20
N_LOSS, N_TRAIN = 12_288, 512


def peak_bytes(graph: tf.Graph) -> int:
    """If operations run in the order in which they were made, and free what nothing needs again."""
    operations, last = graph.get_operations(), {}
    for at, op in enumerate(operations):
        last |= {x.name: at for x in op.inputs}
    last |= {x.name: len(operations) for x in graph.outputs}
    alive = peak = 0
    for at, op in enumerate(operations):
        assert op.type != "TensorListPushBack", "a loop that keeps every turn's values"
        if op.type != "Placeholder":
            alive += sum(map(_size, op.outputs))
        within = max(map(peak_bytes, _called(op)), default=0)
        peak = max(peak, alive + within)
        for x in {x.name: x for x in (*op.inputs, *op.outputs)}.values():
            if x.op.type != "Placeholder" and last.get(x.name, at) == at:
                alive -= _size(x)
    return peak


def _called(op: tf.Operation) -> list[tf.Graph]:
    """The bodies of the functions that an operation calls."""
    names = [op.get_attr(a.name).name for a in op.op_def.attr if a.type == "func"]
    return [op.graph._get_function(name).graph for name in names if name]


def _size(x: tf.Tensor) -> int:
    if x.dtype in (tf.resource, tf.variant):  # variables, and lists, which count where they end
        return 0
    return x.shape.num_elements() * x.dtype.size


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_loss_and_gradient_need_tiles_and_not_the_matrix(kind):
    @tf.function(autograph=False)
    def program(*z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            logits = tf.constant(10.0), tf.constant(-10.0)
            loss = contrastive_loss(*z, *logits, kind=kind, block=128)
        return tape.gradient(loss, z)

    rows = tf.TensorSpec([N_LOSS, 32])
    matrix, tile = 4 * N_LOSS**2, 4 * N_LOSS * 128  # 576 and 6 MiB
    assert 3 * tile < peak_bytes(program.get_concrete_function(rows, rows).graph) < matrix / 10


def peak_of_training(micro_batch: int = 0, recompute: bool = False) -> int:
    config = DualEncoderConfig.from_variant("mu", text={"depth": 1})
    model = DualEncoder(config, recompute=recompute)
    variables = [variable.value for variable in model.trainable_variables]

    def logits():
        return model.scale, tf.convert_to_tensor(model.bias.value)

    def embed(rows):
        return model.encode_image(rows[0]), model.encode_text(rows[1])

    @tf.function(autograph=False)
    def gradients(*batch):
        parts = [grad_cache.EmbeddedPart(embed, batch)]
        return grad_cache.gradients(parts, logits, variables, micro_batch=micro_batch)[1]

    images = tf.TensorSpec([N_TRAIN, 48, 48, 3])
    tokens = tf.TensorSpec([N_TRAIN, config.n_tokens], tf.int32)
    return peak_bytes(gradients.get_concrete_function(images, tokens).graph)


def test_micro_batches_and_recompute_keep_a_part_of_the_activations():
    """The tower has four blocks and a pooling head; recompute keeps the activations of one."""
    plain = peak_of_training()
    assert plain > 300 * MIB
    assert peak_of_training(micro_batch=32) < plain / 6
    assert peak_of_training(recompute=True) < plain / 2
