"""The formulas against XLA: the dot operations of the optimised program, counted one by one."""

import functools
import math
import re

import pytest
import tensorflow as tf
from contrastive import contrastive_loss

from jest_tf.config import base_config
from jest_tf.data import preprocess
from jest_tf.losses.contrastive import Teacher, loss_and_gradients
from jest_tf.models.dual_encoder import DualEncoder, DualEncoderConfig
from jest_tf.models.text_transformer import shorten_tokens
from jest_tf.models.transformer import Lora
from jest_tf.selection import Embeddings, SelectionSpec, select
from jest_tf.training import cost
from jest_tf.training.assemble import choose_trained
from jest_tf.training.resolution import Approximation, Fidelity, Resolution
from jest_tf.tuning import trained_tower

N = 16  # examples; what is computed once per call must be small beside it
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = \w+\[([\d,]*)\]")
_DOT = re.compile(r" dot\(%?([\w.\-]+),.*lhs_contracting_dims=\{([\d,]*)\}")
_CALLED = re.compile(r"(?:body|calls|to_apply)=%?([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",") if size]


def dot_flops(function, *args) -> int:
    """2·m·n·k over every dot of the program as XLA compiled it, times the trips of its loops."""
    compiled = tf.function(function, jit_compile=True, autograph=False)
    text = compiled.experimental_get_compiler_ir(*args)(stage="optimized_hlo")
    computations, shapes, entry = {}, {}, None
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            body = computations.setdefault(found[2], [])
            entry = found[2] if found[1] else entry
        elif found := _INSTRUCTION.match(line):
            shapes[found[1]] = _sizes(found[2])
        if computations:
            body.append(line)

    def flops_of(name: str) -> int:
        total = 0
        for line in computations[name]:
            if dot := _DOT.search(line):
                k = [shapes[dot[1]][axis] for axis in _sizes(dot[2])]
                total += 2 * math.prod(_sizes(_INSTRUCTION.match(line)[2])) * math.prod(k)
            inside = sum(map(flops_of, _CALLED.findall(line)))
            if inside and " while(" in line:
                inside *= int(_TRIPS.search(line)[1])
            total += inside
        return total

    return flops_of(entry)


def _model(variant: str, image_depth: int, text_depth: int) -> DualEncoder:
    # Blocks are alike, so a few of them are as good a check as twelve, and compile sooner.
    return DualEncoder(
        DualEncoderConfig.from_variant(
            variant, vocab_size=64, image={"depth": image_depth}, text={"depth": text_depth}
        )
    )


CASES = {
    "mu": ("mu", 2, 2, Approximation()),
    "mu, cheap": ("mu", 2, 2, Approximation(Resolution(48, 16), 1, 1, 8)),
    "S, 128 px": ("S", 1, 2, Approximation(Resolution(128, 16), 0, 0, 32)),
    "B, 256 px": ("B", 1, 2, Approximation()),
}


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request) -> tuple[DualEncoder, Fidelity]:
    variant, image_depth, text_depth, cheaper = CASES[request.param]
    model = _model(variant, image_depth, text_depth)
    return model, cheaper.of(Fidelity.full(model.config), "test")


def _inputs(model: DualEncoder, at: Fidelity, n: int) -> tuple[tf.Tensor, tf.Tensor]:
    size = at.resolution.image_size
    tokens = tf.zeros([n, model.config.n_tokens], tf.int32)
    return tf.zeros([n, size, size, 3]), shorten_tokens(tokens, at.n_tokens)


def _towers(model: DualEncoder, at: Fidelity):
    """Both towers as functions of their input."""

    def image(images):
        return model.encode_image(images, at.resolution.patch_size, at.image_depth)

    def text(tokens):
        return model.encode_text(tokens, at.text_depth)

    return image, text


def test_forward_flops_are_within_5_percent_of_xla(case):
    model, at = case
    counted = [
        dot_flops(tower, x)
        for tower, x in zip(_towers(model, at), _inputs(model, at, N), strict=True)
    ]
    assert N * cost.image_tower_flops(model.config, at) == pytest.approx(counted[0], rel=0.05)
    assert N * cost.text_tower_flops(model.config, at) == pytest.approx(counted[1], rel=0.05)


def test_training_flops_are_within_5_percent_of_xla(case):
    model, at = case
    weights = [weight.value for weight in model.trainable_variables]
    image, text = _towers(model, at)

    def gradients(images, tokens):
        with tf.GradientTape() as tape:
            loss = contrastive_loss(image(images), text(tokens), model.scale, model.bias.value)
        found = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(gradient) for gradient in found]

    formula = N * cost.train_flops(model.config, at)
    formula += cost.loss_flops(N, model.config.embed_dim, "sigmoid")
    assert formula == pytest.approx(dot_flops(gradients, *_inputs(model, at, N)), rel=0.05)


@pytest.mark.parametrize(
    "fields",
    [
        {"image": {"train": "frozen"}},
        {"image": {"train": "last:1"}, "text": {"train": "last:1"}},
        {"lora": {"rank": 8}},
    ],
    ids=str,
)
def test_flops_of_tuning_parts_are_within_6_percent_of_xla(fields):
    config = base_config()
    for part, values in fields.items():
        config.model[part].update(values)
    lora = Lora(**config.model.lora) if config.model.lora.rank else None
    sizes = {"vocab_size": 64, "image": {"depth": 2}, "text": {"depth": 2}}
    model = DualEncoder(DualEncoderConfig.from_variant("mu", **sizes), lora=lora)
    choose_trained(model, config)
    at, towers = Fidelity.full(model.config), [trained_tower(config, t) for t in ("image", "text")]
    weights = [weight.value for weight in model.trainable_variables]
    image, text = _towers(model, at)

    def gradients(images, tokens):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            loss = contrastive_loss(image(images), text(tokens), model.scale, model.bias.value)
        return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, weights)]

    formula = N * cost.train_flops(model.config, at, *towers)
    formula += cost.loss_flops(N, model.config.embed_dim, "sigmoid")
    assert formula == pytest.approx(dot_flops(gradients, *_inputs(model, at, N)), rel=0.06)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_loss_flops_are_within_5_percent_of_xla(kind):
    z = tf.zeros([80, 24])

    def loss(zimg, ztxt):
        value, gradients = loss_and_gradients(
            zimg, ztxt, tf.constant(10.0), tf.constant(-10.0), kind=kind, block=10
        )
        return value, *gradients

    # XLA makes the first tile's logits once for both passes of the softmax.
    assert cost.loss_flops(80, 24, kind) == pytest.approx(dot_flops(loss, z, z), rel=0.05)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_distillation_flops_are_within_5_percent_of_xla(kind):
    zs = tf.zeros([80, 24]), tf.zeros([80, 24]), tf.zeros([80, 40]), tf.zeros([80, 40])

    def loss(distilled, zimg, ztxt, timg, ttxt):
        teacher = Teacher(timg, ttxt, tf.constant(10.0), 1.0) if distilled else None
        value, gradients = loss_and_gradients(
            zimg, ztxt, tf.constant(10.0), tf.constant(-10.0),
            kind=kind, block=10, teacher=teacher,
        )  # fmt: skip
        return value, *gradients

    plain, distilled = (dot_flops(functools.partial(loss, with_), *zs) for with_ in (False, True))
    expected = cost.distillation_flops(80, 24, 40, kind)
    assert expected == pytest.approx(distilled - plain, rel=0.05)


def test_resize_flops_equal_xla():
    counted = dot_flops(lambda images: preprocess.resize(images, 24), tf.zeros([3, 64, 64, 3]))
    assert 3 * cost.resize_flops(64, 24) == counted
    assert cost.resize_flops(64, 64) == 0


class EchoCollectives:
    """Replica 0 of `size` that all hold the same: the program of one, without the others."""

    rank, in_loops = 0, True

    def __init__(self, size):
        self.size = size

    def all_gather(self, x):
        return tf.concat([x] * self.size, axis=0)

    def all_reduce_sum(self, x):
        return x


# On 4 replicas each has 24 rows, less than the sub-batch.
@pytest.mark.parametrize(("kind", "size"), [("sigmoid", 1), ("softmax", 1), ("sigmoid", 4)])
def test_joint_selection_flops_equal_xla(kind, size):
    spec = SelectionSpec(super_batch=96, sub_batch=32, n_chunks=4, loss=kind)
    n = 96 // size
    learner, reference = (
        Embeddings(tf.zeros([n, d]), tf.zeros([n, d]), tf.constant(10.0), tf.constant(-10.0))
        for d in (24, 40)
    )

    def selection(learner, reference):
        valid, seed = tf.ones([n], tf.bool), tf.constant([0, 0])
        chosen = select(spec, learner, reference, valid, seed, EchoCollectives(size))
        return chosen.positions, chosen.metrics["joint_score"]

    diagonal = 2 * 96 * (24 + 40)  # element by element in XLA, so not among its dots
    formula = cost.select_flops(spec, [24, 40], size) - diagonal
    assert formula == size * dot_flops(selection, learner, reference)
