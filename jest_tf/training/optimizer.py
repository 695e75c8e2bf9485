"""AdamW for a distributed step: reduces nothing by itself, and can refuse an update."""

import contextlib
import functools
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf
from ml_collections import ConfigDict


class GuardedAdamW(keras.optimizers.AdamW):
    """Keras's AdamW with what a distributed contrastive step and tuning need.

    Gradients come summed over replicas and clipped (Keras would clip before the sum). An update can
    be refused without `tf.cond`, which tf.distribute does not allow around it: weights, moments and
    averages keep every bit, only `iterations` counts on. rates: multiply the learning rate of each
    variable, in the order of `build`. ema: decay of the `averages` of each variable; 0: none.
    """

    _accept: tf.Tensor | None = None

    def __init__(self, *args, rates: Sequence[float] | None = None, ema: float = 0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self._rates, self._ema = rates, ema
        self.averages: list[keras.Variable] = []

    def build(self, variables: list[keras.Variable]) -> None:
        super().build(variables)
        if self._ema:
            self.averages = [self.add_variable_from_reference(v, "average") for v in variables]
            self.restart_averages(variables)

    def restart_averages(self, variables: list[keras.Variable]) -> None:
        """The averages begin at the present weights; `variables` as in `build`."""
        for average, variable in zip(self.averages, variables, strict=bool(self.averages)):
            average.value.assign(variable.value)

    @contextlib.contextmanager
    def averaged(self, variables: list[keras.Variable]) -> Iterator[None]:
        """The averages stand in place of the weights, which come back afterwards, bit for bit."""
        kept = [variable.numpy() for variable in variables] if self.averages else []
        for average, variable in zip(self.averages, variables, strict=bool(self.averages)):
            variable.value.assign(average.numpy())
        try:
            yield
        finally:
            for value, variable in zip(kept, variables, strict=bool(kept)):
                variable.value.assign(value)

    def apply_if(self, accept: tf.Tensor, gradients: list, variables: list) -> None:
        """Applies the gradients where `accept` (bool []) holds; `count` counts the step anyway."""
        self._accept = accept
        try:
            self._backend_apply_gradients(gradients, variables)
        finally:
            self._accept = None

    def count(self) -> None:
        """One step more, whether it was accepted or not; in the replica function itself."""
        self.iterations.assign_add(1)

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Decay, Adam's update and the average of one variable, at its own rate."""
        index = self._get_variable_index(variable)
        state = [variable, self._momentums[index], self._velocities[index]]
        state += self.averages[index : index + 1]
        decays = self.weight_decay and self._use_weight_decay(variable)
        update = _adam(
            tuple(variable.shape), self.beta_1, self.beta_2, self.epsilon,
            self.weight_decay if decays else 0.0, self._ema,
        )  # fmt: skip
        rate = learning_rate * self._rates[index] if self._rates else learning_rate
        accept = tf.constant(True) if self._accept is None else self._accept
        scalars = accept, tf.cast(rate, tf.float32), tf.cast(self.iterations + 1, tf.float32)
        new = update(*scalars, gradient, *map(tf.convert_to_tensor, state))
        for variable, value in zip(state, new, strict=True):
            self.assign(variable, value)

    def _apply_weight_decay(self, variables) -> None:
        """Nothing: `update_step` decays each variable at its own rate."""

    def _backend_update_step(self, gradients, variables, learning_rate) -> None:
        """Each replica updates its own copies, all alike, with no exchange in between. Keras would
        update them from the cross-replica context, which a compiled program cannot enter.
        """
        for gradient, variable in zip(gradients, variables, strict=True):
            self.update_step(gradient, variable, learning_rate)


@functools.cache
def _adam(shape: tuple, beta_1: float, beta_2: float, epsilon: float, decay: float, ema: float):
    """The update of variables of one shape, traced once for all of them: (accept, rate, number of
    the step, gradient, weight, moments, average if there is one) -> the latter three or four."""
    del shape

    def update(accept, rate, step, gradient, *old):
        weight, mean, square, *average = old
        mean += (gradient - mean) * (1 - beta_1)
        square += (tf.square(gradient) - square) * (1 - beta_2)
        alpha = rate * tf.sqrt(1 - beta_2**step) / (1 - beta_1**step)
        weight = weight - weight * decay * rate if decay else weight
        weight -= mean * alpha / (tf.sqrt(square) + epsilon)
        average = [a + (1 - ema) * (weight - a) for a in average]
        new = [weight, mean, square, *average]
        return [tf.where(accept, a, b) for a, b in zip(new, old, strict=True)]

    return tf.function(update, autograph=False)


def build(
    config: ConfigDict,
    total_steps: int,
    variables: list[keras.Variable],
    rates: Sequence[float] | None = None,
) -> GuardedAdamW:
    """AdamW of `config.optimizer`, with linear warm-up and cosine decay. Only matrices decay."""
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
        rates=rates,
        ema=config.ema,
        name="adamw",  # fixed: checkpoints name variables by it, Keras would count instances
    )
    adamw.exclude_from_weight_decay(var_list=[v for v in variables if len(v.shape) < 2])
    adamw.build(variables)
    return adamw
