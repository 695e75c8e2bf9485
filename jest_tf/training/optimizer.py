"""AdamW for a distributed step: reduces nothing by itself, and can refuse an update."""

import keras
import ml_collections
import tensorflow as tf


class GuardedAdamW(keras.optimizers.AdamW):
    """Keras's AdamW with two changes that a distributed contrastive step needs.

    The gradients come already summed over replicas and clipped (Keras would clip each replica's
    own gradient before the sum, so that a run would depend on the number of replicas). And an
    update can be refused inside the graph without `tf.cond`, which tf.distribute does not allow
    around an update: weights and moments then keep every bit, only `iterations` counts on, so that
    the schedule and the data position stay functions of the step.
    """

    _accept: tf.Tensor | None = None

    def apply_if(self, accept: tf.Tensor, gradients: list, variables: list) -> None:
        """Applies the gradients where `accept` (bool []) holds, otherwise changes nothing."""
        self._accept = accept
        try:
            self.apply(gradients, variables)
        finally:
            self._accept = None

    def assign_add(self, variable, value):
        """Moments: the increment, or zero for a refused update (whose value may be NaN)."""
        if self._accept is not None and variable is not self.iterations:
            value = tf.where(self._accept, value, tf.zeros_like(value))
        super().assign_add(variable, value)

    def _get_current_learning_rate(self):
        rate = super()._get_current_learning_rate()
        if self._accept is None:
            return rate
        return tf.where(self._accept, rate, tf.zeros_like(rate))

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars


def build(
    config: ml_collections.ConfigDict, total_steps: int, variables: list[keras.Variable]
) -> GuardedAdamW:
    """AdamW over `variables`, with linear warm-up and cosine decay, as `config.optimizer` says.

    Only matrices decay: no biases, norms, logit scale or logit bias.
    """
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(total_steps - config.warmup_steps, 1),
        warmup_target=config.learning_rate,
        warmup_steps=config.warmup_steps,
    )
    adamw = GuardedAdamW(
        schedule,
        weight_decay=config.weight_decay,
        beta_1=config.beta_1,
        beta_2=config.beta_2,
        name="adamw",  # fixed: checkpoints name variables by it, Keras would count instances
    )
    adamw.exclude_from_weight_decay(var_list=[v for v in variables if len(v.shape) < 2])
    adamw.build(variables)
    return adamw
