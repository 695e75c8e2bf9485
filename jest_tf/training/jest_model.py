"""JestModel: a Keras model whose train step chooses what it trains on.

score the super-batch -> select the sub-batch -> gather it -> gradient -> update
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from jest_tf.config import SAME_CAPTION
from jest_tf.data import preprocess
from jest_tf.data.augmentation import N_DRAWS, Augment
from jest_tf.data.pipeline import PASSED_OVER
from jest_tf.data.records import ZIMG
from jest_tf.errors import UserError
from jest_tf.losses import grad_cache
from jest_tf.losses.contrastive import Teacher
from jest_tf.models.dual_encoder import DualEncoder
from jest_tf.models.text_transformer import shorten_tokens
from jest_tf.ops.words import from_words, summed_word, to_words
from jest_tf.runtime.collectives import of_current_strategy
from jest_tf.selection import (
    Collectives,
    Embeddings,
    Selection,
    SelectionSpec,
    caption_hash,
    diagnostics,
    gather_picked,
    pair_loss,
    pair_rank,
    select,
    select_by_loss,
)
from jest_tf.selection.draw import local_index, uniform
from jest_tf.training.optimizer import GuardedAdamW
from jest_tf.training.resolution import Fidelity, StepPlan

# What a chosen example takes along from the replica that loaded it to the one that trains on it.
TRAINED_FEATURES = ("image", "tokens")
# And with distillation, what the reference makes of it.
TEACHER_FEATURES = ("teacher_zimg", "teacher_ztxt")
# And with augmentation, the numbers that decide how its picture is changed.
DRAWS = "augmentation_draws"
# The stream of those numbers: apart from the selection's, one a chunk.
_DRAWS_STREAM = 2**30


class Scored(NamedTuple):
    """A super-batch as both models see it; the arguments of `select` after the spec."""

    learner: Embeddings | None  # None if neither the policy nor distillation looks at it
    reference: Embeddings | None  # likewise
    valid: tf.Tensor  # bool [B / R]
    seed: tf.Tensor  # int32 [2]


class Part(NamedTuple):
    """This replica's share of the chosen that train at one fidelity, each feature [k, ...]."""

    at: Fidelity
    examples: dict[str, tf.Tensor]


class Observed(NamedTuple):
    """What a step saw of each candidate, the same on every replica; for the ledger.

    code: int64 [B + passed over], 2 * record, + 1 for a selected one, below 0 if unreadable;
    those that a prefilter passed over are last. losses: float32 [B, 4], `pair_loss` of learner and
    reference, then `pair_rank`; NaN without the model or where it is not finite.
    """

    code: tf.Tensor
    losses: tf.Tensor


class StepOutput(NamedTuple):
    """What one step did. `picked_ids`: int64 [b], in the order of the draw."""

    metrics: dict[str, tf.Tensor]
    picked_ids: tf.Tensor
    scored: Scored
    selection: Selection
    observed: Observed | None = None


class JestModel(keras.Model):
    """Trains `learner` on the sub-batch that a selection policy picks from each super-batch.

    `train_step` runs inside `strategy.run` (each replica holds its rows of the super-batch), or
    under Keras's own `fit`, on one device or under MirroredStrategy. On TPU, and on one GPU, the
    step is one XLA program. Among several GPUs it is a few dozen, with the exchanges in between
    (`compile_parts`). On CPUs selection, losses and fused layers are compiled each on its own, and
    TensorFlow runs the rest of the towers operation by operation.

    Args:
      learner: the dual encoder to train: a DualEncoder, or any built Keras model with the methods
        `encode_image(images)` and `encode_text(tokens)` -> float32 [n, d] of unit norm, and the
        scalars `scale` and `bias` (docs/library.md).
      reference: the frozen one; None where nothing needs it or its embeddings are cached.
      spec: what to select and how.
      plan: at which fidelity steps score and train, unless `step` is given another; None runs the
        models as they are, on images and tokens as the batches hold them.
      loss: sigmoid | softmax, the training loss.
      clip_norm: bound of the global gradient norm, after the all-reduce.
      seed: of the selection draws, with the step.
      collectives: called in the step, returns the replica's collectives; by default those of the
        strategy that runs the step.
      cached_reference: scale and bias of a reference whose embeddings come with the batches.
      augment: (images [n, h, w, 3] in 0..255, draws) -> the same, differently; for the chosen only.
        See `jest_tf.data.augmentation`. A picture's draws depend on the seed, the step and its
        place in the super-batch alone.
      micro_batch: rows of a replica in one forward or backward pass; 0: all. See `grad_cache`.
      distillation: weight of learning the reference's softmax over the chosen too; 0: none. See
        `distillation`.
      same_caption: negative | ignore: whether rows whose captions have the same tokens are
        negatives of each other, in the selection and in the loss.
      compile_parts: compile by XLA whatever lies between two exchanges: scoring, forward pass,
        backward pass, update.
      observe: report each candidate's record and losses with every step, see `Observed`; batches
        then need the feature `record`.

    Raises:
      UserError: distillation without a reference, or an unknown value of `same_caption`.
    """

    def __init__(
        self,
        learner: keras.Model,
        reference: keras.Model | None,
        spec: SelectionSpec,
        *,
        plan: StepPlan | None = None,
        loss: str = "sigmoid",
        clip_norm: float = 1.0,
        seed: int = 0,
        collectives: Callable[[], Collectives] = of_current_strategy,
        cached_reference: tuple[float, float] | None = None,
        augment: Augment | None = None,
        micro_batch: int = 0,
        distillation: float = 0.0,
        same_caption: str = "negative",
        compile_parts: bool = False,
        observe: bool = False,
    ):
        super().__init__()
        if distillation and reference is None and cached_reference is None:
            raise UserError(
                f"JestModel got distillation = {distillation} and no reference to distil from; "
                "give `reference`, or `cached_reference` with batches that hold its embeddings."
            )
        if same_caption not in SAME_CAPTION:
            raise UserError(
                f"same_caption = {same_caption!r}: expected one of {', '.join(SAME_CAPTION)}"
            )
        self.learner, self.reference = learner, reference
        if reference is not None:
            reference.trainable = False
        self.spec, self.plan = spec, plan or StepPlan.as_it_is(spec.sub_batch)
        self.loss_kind, self.clip_norm, self.seed = loss, clip_norm, seed
        self.collectives, self.cached_reference = collectives, cached_reference
        self.augment, self.micro_batch, self.distillation = augment, micro_batch, distillation
        self.same_caption, self.compile_parts = same_caption, compile_parts
        self.observe = observe
        if (
            spec.trial == "history"
        ):  # cosine of each record, averaged over its visits; NaN: none yet
            history = tf.Variable(tf.fill([2**17], float("nan")), trainable=False)
            self.history = lambda: history  # not a part of checkpoints

    def fall_of_cosine(self, record: tf.Tensor, z: Embeddings) -> tf.Tensor:
        """Each pair's former cosine minus its present one, 0 at its first visit; float32 [n]."""
        now = tf.reduce_sum(tf.cast(z.zimg, tf.float32) * tf.cast(z.ztxt, tf.float32), axis=1)
        before = tf.gather(self.history(), record)
        seen = tf.math.is_finite(before)
        average = tf.where(seen, 0.5 * (before + now), now)
        self.history().scatter_nd_update(record[:, None], average)
        return tf.where(seen, before - now, 0.0)

    def compile(self, optimizer: GuardedAdamW, jit_compile: bool = False, **options) -> None:
        """Keras's `compile`, for `fit`. The selection is compiled by XLA in any case.

        UserError: another optimizer, which would reduce the gradients twice and refuse no step.
        """
        if not isinstance(optimizer, GuardedAdamW):
            raise UserError(
                f"JestModel.compile got the optimizer {type(optimizer).__name__}; expected "
                "jest_tf.training.optimizer.GuardedAdamW: a step's gradients are summed over "
                "replicas and clipped already, and a step with too few valid rows is refused."
            )
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **options)
        if not optimizer.built:
            optimizer.build(self.learner.trainable_variables)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None) -> None:
        """Nothing: `compile` has built everything. Keras's own would begin `fit` under a strategy
        with the mean of a super-batch over replicas, which flags such as `valid` do not have.
        """

    def train_step(self, super_batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step on this replica's rows of a super-batch; every replica returns the same."""
        metrics = self.step(super_batch).metrics
        # `fit` takes means over replicas, which no flag has.
        return {name: tf.cast(value, tf.float32) for name, value in metrics.items()}

    def step(self, super_batch: dict[str, tf.Tensor], plan: StepPlan | None = None) -> "StepOutput":
        """As `train_step`, and what was picked and how it scored.

        super_batch: the B / R rows of this replica, see `jest_tf.data.pipeline`. plan: at which
        fidelity to score and train; None: the model's own.
        """
        plan = plan or self.plan
        collectives = self.collectives()
        seed = tf.stack([self.seed, tf.cast(self.optimizer.iterations, tf.int32)])

        scored = self._program(lambda batch, seed: self.score(batch, plan, seed))(super_batch, seed)
        if self.spec.trial == "history":
            fall = self.fall_of_cosine(super_batch["record"], scored.learner)
            selection = select_by_loss(self.spec, fall, None, scored.valid, seed, collectives)
        else:
            selection = select(self.spec, *scored, collectives)
        examples = read_features(super_batch)
        if self.distillation:
            examples |= dict(zip(TEACHER_FEATURES, scored.reference[:2], strict=True))
        if self.augment:
            n = super_batch["id"].shape[0]
            draw = self._program(lambda seed, rank: draws_of_rows(seed, n, rank))
            examples[DRAWS] = draw(seed, collectives.rank)
        positions = [selection.positions]
        if len(plan.train) > 1:
            split = self._program(lambda *args: [positions for _, positions in plan.split(*args)])
            positions = split(selection.positions, seed)
        parts = [
            Part(part.at, gather_picked(examples, of_part, collectives))
            for part, of_part in zip(plan.train, positions, strict=True)
        ]
        teacher = self.teacher(parts, scored.reference) if self.distillation else None
        loss, gradients = self.loss_and_gradients(parts, collectives, teacher)
        metrics = self.update(loss, gradients, selection.n_candidates)
        metrics |= {f"selection/{name}": value for name, value in selection.metrics.items()}
        metrics["input/n_valid"] = selection.n_valid
        picked_ids = ids_at(selection.positions, super_batch["id"], collectives)
        observed = None
        if self.observe:
            observed = self.observed(super_batch, scored, selection, collectives)
        return StepOutput(metrics, picked_ids, scored, selection, observed)

    def observed(
        self, batch: dict, scored: "Scored", selection: Selection, collectives: Collectives
    ) -> Observed:
        """Every candidate's record and losses, gathered over replicas in one exchange."""
        own = self._program(self._own_rows)(batch["record"], scored)
        rows = collectives.all_gather(own)  # int64 [B, 3]
        code, losses = self._program(_observed_of)(rows, selection.positions)
        if PASSED_OVER in batch:
            code = tf.concat([code, 2 * collectives.all_gather(batch[PASSED_OVER])], axis=0)
        return Observed(code, losses)

    def _own_rows(self, record: tf.Tensor, scored: "Scored") -> tf.Tensor:
        """int64 [B / R, 3]: the record, and four float32 losses and ranks in two words."""
        models, valid = (scored.learner, scored.reference), scored.valid
        losses = [pair_loss(self.spec.loss, model, valid) for model in models]
        losses = tf.stack(losses + [pair_rank(model, valid) for model in models], axis=1)
        words = to_words(losses, tf.int64)
        return tf.concat([tf.where(valid, record, -1)[:, None], words], axis=1)

    def _program(self, function: Callable) -> Callable:
        """`function` of tensors as one compiled program, with `compile_parts`."""
        if not self.compile_parts:
            return function
        return tf.function(function, jit_compile=True, autograph=False)

    def diagnose(self, scored: "Scored", selection: Selection) -> dict[str, tf.Tensor]:
        """What the other policies would have got from the same scores; for logging."""
        return diagnostics(self.spec, selection, *scored, self.collectives())

    def score(self, batch: dict[str, tf.Tensor], plan: StepPlan, seed: tf.Tensor) -> "Scored":
        """Both models' view of this replica's rows, without gradient."""
        learner = reference = None
        if self.spec.scores_learner:
            learner = self.embed(self.learner, batch, plan.score)
        if self.spec.scores_reference or self.distillation:
            if "reference_zimg" in batch:  # it came with the data
                zimg, ztxt = batch["reference_zimg"], batch["reference_ztxt"]
                scale, bias = (tf.constant(value, tf.float32) for value in self.cached_reference)
                reference = Embeddings(zimg, ztxt, scale, bias, self.captions(batch))
            else:
                reference = self.embed(self.reference, batch, plan.reference)
        return Scored(learner, reference, batch["valid"], seed)

    def embed(self, model: DualEncoder, batch: dict[str, tf.Tensor], at: Fidelity) -> Embeddings:
        """One model's embeddings of this replica's rows, without gradient."""
        rows = read_features(batch)
        zimg, ztxt = grad_cache.embed_in_micro_batches(
            functools.partial(encode, model, at), rows, self.micro_batch
        )
        bias = tf.convert_to_tensor(model.bias)
        return Embeddings(zimg, ztxt, model.scale, bias, self.captions(batch))

    def captions(self, *parts: dict[str, tf.Tensor]) -> tf.Tensor | None:
        """Hashes of the captions of all parts, [k, 2], or None where all rows are negatives."""
        if self.same_caption == "negative":
            return None
        return tf.concat([caption_hash(part["tokens"]) for part in parts], axis=0)

    def loss_and_gradients(
        self, parts: list["Part"], collectives: Collectives, teacher: Teacher | None = None
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The mean loss over the whole sub-batch, and its gradient, both summed over replicas."""
        learner = self.learner
        read = self._program(self.augmented) if self.augment else self.augmented
        loss, gradients = grad_cache.gradients(
            [
                grad_cache.EmbeddedPart(
                    functools.partial(encode, learner, part.at), read(part.examples)
                )
                for part in parts
            ],
            lambda: (learner.scale, tf.convert_to_tensor(learner.bias)),
            [v.value for v in learner.trainable_variables],
            micro_batch=self.micro_batch,
            kind=self.loss_kind,
            collectives=collectives,
            teacher=teacher,
            captions=self.captions(*(part.examples for part in parts)),
            program=self._program,
        )
        if not self.compile_parts:
            loss, *gradients = collectives.all_reduce_sum([loss, *gradients])
            return loss, gradients
        # One buffer, and not as many exchanges as there are variables.
        shapes = [tuple(variable.shape) for variable in learner.trainable_variables]
        pack = self._program(lambda tensors: tf.concat([tf.reshape(x, [-1]) for x in tensors], 0))
        packed = collectives.all_reduce_sum(pack([loss, *gradients]))
        return self._program(functools.partial(_unpacked, shapes=shapes))(packed)

    def teacher(self, parts: list["Part"], reference: Embeddings) -> Teacher:
        """What the reference makes of this replica's chosen examples, in the order of `parts`."""
        zimg, ztxt = (
            tf.concat([part.examples[name] for part in parts], axis=0) for name in TEACHER_FEATURES
        )
        return Teacher(zimg, ztxt, reference.scale, self.distillation)

    def augmented(self, examples: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """What the learner reads of the chosen, their images changed if that was asked for."""
        read = read_features(examples)
        if self.augment:
            read["image"] = self.augment(read["image"], examples[DRAWS])
        return read

    def update(
        self, loss: tf.Tensor, gradients: list[tf.Tensor], n_candidates: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Clips and applies the gradient, unless the step must be refused; returns the metrics."""
        metrics = self._program(self._update)(loss, gradients, n_candidates)
        self.optimizer.count()
        return metrics

    def _update(self, loss, gradients, n_candidates) -> dict[str, tf.Tensor]:
        variables = self.learner.trainable_variables
        norm = tf.linalg.global_norm(gradients)
        clip = self.clip_norm / tf.maximum(norm, self.clip_norm)
        enough = n_candidates >= self.spec.sub_batch
        accepted = enough & tf.math.is_finite(loss) & tf.math.is_finite(norm)
        metrics = {
            "train/loss": loss,
            "train/gradient_norm": norm,
            "train/learning_rate": tf.convert_to_tensor(self.optimizer.learning_rate),
            "train/learner_scale": tf.convert_to_tensor(self.learner.scale),
            "train/learner_bias": tf.convert_to_tensor(self.learner.bias),
            "selection/n_candidates": n_candidates,
            "accepted": accepted,
        }
        optimizer: GuardedAdamW = self.optimizer
        optimizer.apply_if(accepted, [g * clip for g in gradients], variables)
        return metrics


def _unpacked(packed: tf.Tensor, shapes: list[tuple]) -> tuple[tf.Tensor, list[tf.Tensor]]:
    loss, *flat = tf.split(packed, [1, *(math.prod(shape) for shape in shapes)])
    return loss[0], [tf.reshape(x, shape) for x, shape in zip(flat, shapes, strict=True)]


def _observed_of(rows: tf.Tensor, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`Observed` of all rows, int64 [B, 3], given the global positions of the selected."""
    picked = tf.scatter_nd(positions[:, None], tf.ones_like(positions, tf.int64), [rows.shape[0]])
    return 2 * rows[:, 0] + picked, from_words(rows[:, 1:], tf.TensorSpec([None, 4], tf.float32))


def read_features(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """What a model reads of a batch; a frozen image tower's embeddings stand for the pictures."""
    return {name: batch[name] for name in (*TRAINED_FEATURES, ZIMG) if name in batch}


def draws_of_rows(seed: tf.Tensor, n: int, rank: tf.Tensor | int) -> tf.Tensor:
    """Uniform numbers of this replica's n candidates, float32 [n, N_DRAWS]; seed: see `gumbel`."""
    first = rank * n * N_DRAWS
    return tf.reshape(uniform(seed, _DRAWS_STREAM, first, n * N_DRAWS), [n, N_DRAWS])


def encode(
    model: DualEncoder, at: Fidelity | None, rows: dict[str, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """image uint8 [n, h, w, 3] or learner_zimg, tokens int32 [n, L] -> zimg, ztxt [n, d]."""
    tokens, depth = rows["tokens"], None
    if at is not None:
        tokens, depth = shorten_tokens(tokens, at.n_tokens), at.text_depth
    ztxt = model.encode_text(tokens) if depth is None else model.encode_text(tokens, depth)
    return rows[ZIMG] if ZIMG in rows else encode_image(model, at, rows["image"]), ztxt


def encode_image(model: DualEncoder, at: Fidelity | None, images: tf.Tensor) -> tf.Tensor:
    """uint8 [n, h, w, 3] -> zimg [n, d]; without a fidelity, of the images as they are."""
    if at is None:
        return model.encode_image(images)
    rule = getattr(model, "pixels", preprocess.OWN_RULE)  # any Keras model may be a learner
    images = preprocess.resize(images, at.resolution.image_size, rule)
    images = preprocess.to_model_range(images)
    return model.encode_image(images, at.resolution.patch_size, at.image_depth)


def ids_at(positions: tf.Tensor, ids: tf.Tensor, collectives: Collectives) -> tf.Tensor:
    """The ids int64 [b] at global positions, in their order, from each replica's ids [B / R]."""
    word = summed_word(collectives.in_loops)
    words = _words_at(positions, ids, collectives.rank * ids.shape[0], word)
    return from_words(collectives.all_reduce_sum(words), ids[:, None])[:, 0]


@tf.function(jit_compile=True, autograph=False)
def _words_at(positions, ids, start, word):
    """The ids at those positions that this replica owns, as words [b, k]; 0 elsewhere."""
    index, owned = local_index(positions, start, ids.shape[0])
    found = tf.gather(ids, tf.minimum(index, ids.shape[0] - 1))
    return tf.where(owned[:, None], to_words(found[:, None], word), 0)
