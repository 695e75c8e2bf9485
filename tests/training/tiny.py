"""A model, a policy and super-batches small enough to train in milliseconds."""

import numpy as np
import tensorflow as tf

from jest_tf.config import base_config
from jest_tf.models.dual_encoder import DualEncoder, DualEncoderConfig
from jest_tf.runtime import strategy
from jest_tf.selection import SelectionSpec
from jest_tf.training import optimizer
from jest_tf.training.host_loop import HostLoop
from jest_tf.training.jest_model import JestModel
from jest_tf.training.resolution import Approximation, Resolution, ResolutionSchedule

SUPER_BATCH, SUB_BATCH, N_CHUNKS = 32, 8, 2
STORED, N_TOKENS, VOCABULARY = 24, 6, 50
TOWER = {"width": 16, "depth": 1, "heads": 2, "mlp_dim": 32}
# Parts of a step at two resolutions, of which the cheaper leaves out a block of the text tower.
# With `sizes=TWO_BLOCKS`: tracing blocks is most of what a test costs.
TWO_BLOCKS = {"text": TOWER | {"depth": 2}}
FLEXI = {"low_share": 0.5, "score": Approximation(Resolution(8, 8), text_depth=1)}


def encoder(seed: int, options: dict | None = None, **overrides) -> DualEncoder:
    sizes = {
        "image_size": 16, "patch_size": 8, "n_tokens": N_TOKENS, "vocab_size": VOCABULARY,
        "embed_dim": 12, "image": TOWER, "text": TOWER, "init_bias": -2.0,
    }  # fmt: skip
    config = DualEncoderConfig.from_variant("mu", **(sizes | overrides))
    return DualEncoder(config, seed=seed, **(options or {}))


def spec(**overrides) -> SelectionSpec:
    sizes = {"super_batch": SUPER_BATCH, "sub_batch": SUB_BATCH, "n_chunks": N_CHUNKS}
    return SelectionSpec(**(sizes | overrides))


def runtime(n_replicas: int = 1, steps_per_loop: int = 1) -> strategy.Runtime:
    config = base_config()
    config.strategy.kind = "mirrored" if n_replicas > 1 else "default"
    config.strategy.n_devices = n_replicas
    config.strategy.jit_compile = False
    config.strategy.steps_per_loop = steps_per_loop
    return strategy.build(config)


def super_batch(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([7, step])
    return {
        "id": rng.permutation(10_000)[:SUPER_BATCH].astype(np.int64),
        "image": rng.integers(0, 256, [SUPER_BATCH, STORED, STORED, 3]).astype(np.uint8),
        "tokens": rng.integers(1, VOCABULARY, [SUPER_BATCH, N_TOKENS]).astype(np.int32),
        "valid": np.ones([SUPER_BATCH], bool),
        "source": np.zeros([SUPER_BATCH], np.int32),
        "record": np.arange(SUPER_BATCH, dtype=np.int64) + SUPER_BATCH * step + 2**40,
    }


class UntracedLoop(HostLoop):
    """Does not trace its steps: tracing one costs seconds, running it a fraction of one."""

    def one_step(self, plan):
        return super().one_step(plan).python_function


def trainer(n_replicas: int = 1, policy: SelectionSpec | None = None, batches=None, **options):
    """(model, HostLoop, schedule) over `batches`, a list of global super-batches.

    traced=False: for what is expected, of a few steps on one replica. What is tested is traced.
    """
    run = runtime(n_replicas, options.pop("steps_per_loop", 1))
    schedule_options = options.pop("schedule", {})
    of_encoders, sizes = options.pop("encoder", {}), options.pop("sizes", {})
    collectives = options.pop("collectives", run.collectives)
    of_optimizer = {"warmup_steps": 1} | options.pop("optimizer", {})
    rate_of = options.pop("rate_of", None)
    loop = HostLoop if options.pop("traced", True) else UntracedLoop
    batches = batches or [super_batch(step) for step in range(8)]
    with run.strategy.scope():
        learner = encoder(0, of_encoders, **sizes)
        reference = encoder(1, of_encoders, **sizes, embed_dim=20)
        policy = policy or spec()
        schedule = ResolutionSchedule(
            learner.config, sub_batch=policy.sub_batch, total_steps=100, n_replicas=n_replicas,
            reference_model=reference.config, **schedule_options,
        )  # fmt: skip
        model = JestModel(
            learner, reference, policy, plan=schedule.plan(0), collectives=collectives,
            loss=policy.loss, seed=5, **options,
        )  # fmt: skip
        c = base_config().optimizer
        c.update(of_optimizer)
        variables = learner.trainable_variables
        rates = [rate_of(variable) for variable in variables] if rate_of else None
        model.optimizer = optimizer.build(c, 100, variables, rates)

    return model, loop(model, run, _per_replica(run, batches)), schedule


def _per_replica(run: strategy.Runtime, batches: list[dict[str, np.ndarray]]):
    """What the strategy's iterator would give: each replica its rows of each super-batch."""
    if run.n_replicas == 1:
        stacked = {k: np.stack([b[k] for b in batches]) for k in batches[0]}
        return iter(tf.data.Dataset.from_tensor_slices(stacked))
    rows = SUPER_BATCH // run.n_replicas

    def rows_of(array: np.ndarray):
        return run.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(array[context.replica_id_in_sync_group * rows :][:rows])
        )

    return ({k: rows_of(v) for k, v in batch.items()} for batch in batches)


def embed(model: DualEncoder, batch) -> tuple[tf.Tensor, tf.Tensor]:
    """(zimg, ztxt) of a super-batch."""
    images = tf.image.resize(batch["image"], [16, 16], antialias=True)
    return model.encode_image(images / 127.5 - 1.0), model.encode_text(batch["tokens"])
