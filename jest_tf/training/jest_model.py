"""JestModel: a Keras model whose train step chooses what it trains on.

score the super-batch -> select the sub-batch -> gather it -> gradient -> update
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from jest_tf.data import preprocess
from jest_tf.models.dual_encoder import DualEncoder
from jest_tf.selection import (
    LOCAL,
    Collectives,
    Embeddings,
    Selection,
    SelectionSpec,
    diagnostics,
    gather_picked,
    select,
)
from jest_tf.training.contrastive import contrastive_loss
from jest_tf.training.optimizer import GuardedAdamW
from jest_tf.training.resolution import StepPlan

# What a chosen example brings along from the replica that loaded it to the one that trains on it.
EXAMPLE_FEATURES = ("id", "image", "tokens", "source")


class JestModel(keras.Model):
    """Trains `learner` on the sub-batch that a selection policy picks from each super-batch.

    `train_step` runs inside `strategy.run` (each replica holds its rows of the super-batch), or
    under Keras's own `fit` on one device. One XLA program on one device and on TPU; elsewhere the
    parts between the collectives are compiled.

    Args:
      learner: the dual encoder to train.
      reference: the frozen one; None where the policy needs none.
      spec: what to select and how.
      plan: the resolutions at which this step scores and trains.
      loss: sigmoid | softmax, the training loss.
      clip_norm: bound of the global gradient norm, after the all-reduce.
      seed: of the selection draws, with the step.
      collectives: called in the step, returns the replica's collectives.
      augment: images float32 [n, h, w, 3] in [-1, 1] and a seed -> the same; for the chosen only.
      compile_parts: jit-compile the forward passes that need no collectives.
    """

    def __init__(
        self,
        learner: DualEncoder,
        reference: DualEncoder | None,
        spec: SelectionSpec,
        *,
        plan: StepPlan,
        loss: str = "sigmoid",
        clip_norm: float = 1.0,
        seed: int = 0,
        collectives: Callable[[], Collectives] = lambda: LOCAL,
        augment: Callable | None = None,
        compile_parts: bool = True,
    ):
        super().__init__()
        self.learner = learner
        self.reference = reference
        if reference is not None:
            reference.trainable = False
        self.spec = spec
        self.plan = plan
        self.loss_kind = loss
        self.clip_norm = clip_norm
        self.seed = seed
        self.collectives = collectives
        self.augment = augment
        self.compile_parts = compile_parts

    def train_step(self, super_batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step on this replica's rows of a super-batch; every replica returns the same."""
        metrics, _ = self.train_step_with_picks(super_batch)
        return metrics

    def train_step_with_picks(
        self, super_batch: dict[str, tf.Tensor], with_diagnostics: bool = False
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """As `train_step`, and the ids of the chosen, int64 [b], in the order of their draw.

        Args:
          super_batch: see `jest_tf.data.pipeline`; B / R rows.
          with_diagnostics: also what the other policies would have got (costs a few percent).
        """
        collectives = self.collectives()
        seed = tf.stack([self.seed, tf.cast(self.optimizer.iterations, tf.int32)])

        learner = self.score(self.learner, super_batch)
        reference = self.score(self.reference, super_batch)
        valid = super_batch["valid"]
        selection = select(self.spec, learner, reference, valid, seed, collectives)
        chosen = gather_picked(
            {name: super_batch[name] for name in EXAMPLE_FEATURES}, selection.positions, collectives
        )

        loss, gradients = self.loss_and_gradients(chosen, seed, collectives)
        metrics = self.update(loss, gradients, selection, collectives)
        metrics |= selection.metrics
        if with_diagnostics:
            metrics |= diagnostics(
                self.spec, selection, learner, reference, valid, seed, collectives
            )
        return metrics, collectives.all_gather(chosen["id"])

    def score(self, model: DualEncoder, batch: dict[str, tf.Tensor]) -> Embeddings | None:
        """Embeddings of this replica's rows, without gradient, at the plan's scoring resolution."""
        if model is None or self.spec.policy == "uniform":
            return None
        at = self.plan.score

        def embed(values, images, tokens):
            with keras.StatelessScope(
                state_mapping=list(zip(model.variables, values, strict=True))
            ):
                images = preprocess.to_model_range(
                    preprocess.resize(images, at.resolution.image_size)
                )
                return Embeddings(
                    model.encode_image(images, at.resolution.patch_size, at.image_depth),
                    model.encode_text(tokens[:, : at.n_tokens], at.text_depth),
                    model.scale,
                    model.bias,
                )

        if self.compile_parts:
            embed = tf.function(embed, jit_compile=True, autograph=False)
        # Values, not variables: a compiled function must not capture another replica's variables.
        values = [tf.convert_to_tensor(v.value) for v in model.variables]
        return tf.nest.map_structure(
            tf.stop_gradient, embed(values, batch["image"], batch["tokens"])
        )

    def loss_and_gradients(
        self, chosen: dict[str, tf.Tensor], seed: tf.Tensor, collectives: Collectives
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The global mean loss over the sub-batch, and its gradient, both summed over replicas."""
        with tf.GradientTape() as tape:
            zimg = self.embed_chosen_images(chosen["image"], seed)
            ztxt = self.learner.encode_text(chosen["tokens"])
            loss = contrastive_loss(
                zimg,
                ztxt,
                self.learner.scale,
                self.learner.bias,
                kind=self.loss_kind,
                collectives=collectives,
            )
        variables = [v.value for v in self.learner.trainable_variables]
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]
        loss, *gradients = collectives.all_reduce_sum([loss, *gradients])
        return loss, gradients

    def embed_chosen_images(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Each part of the sub-batch at its own resolution; one batch of embeddings [b/R, d]."""
        embeddings, start = [], 0
        for resolution, share in self.plan.train_parts(images.shape[0]):
            part = preprocess.resize(images[start : start + share], resolution.image_size)
            part = preprocess.to_model_range(part)
            if self.augment is not None:
                part = self.augment(part, seed)
            embeddings.append(self.learner.encode_image(part, resolution.patch_size))
            start += share
        return tf.concat(embeddings, axis=0)

    def update(
        self,
        loss: tf.Tensor,
        gradients: list[tf.Tensor],
        selection: Selection,
        collectives: Collectives,
    ) -> dict[str, tf.Tensor]:
        """Clips and applies the gradient, unless the step must be refused; returns the metrics."""
        optimizer: GuardedAdamW = self.optimizer
        norm = tf.linalg.global_norm(gradients)
        clip = self.clip_norm / tf.maximum(norm, self.clip_norm)
        enough = selection.n_candidates >= self.spec.sub_batch
        accepted = enough & tf.math.is_finite(loss) & tf.math.is_finite(norm)
        metrics = {
            "loss": loss,
            "gradient_norm": norm,
            "learning_rate": tf.convert_to_tensor(optimizer.learning_rate),
            "learner_scale": tf.convert_to_tensor(self.learner.scale),
            "learner_bias": tf.convert_to_tensor(self.learner.bias),
            "n_candidates": selection.n_candidates,
            "accepted": accepted,
        }
        optimizer.apply_if(
            accepted, [g * clip for g in gradients], self.learner.trainable_variables
        )
        return metrics
