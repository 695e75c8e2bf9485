"""Do scores with a reference cache agree with those of the reference run in the step?"""

import itertools

import numpy as np
import tensorflow as tf

from jest_tf.data import pipeline
from jest_tf.data.manifest import Manifest
from jest_tf.data.reference_cache import ReferenceCache
from jest_tf.selection import Embeddings, SelectionSpec, select
from jest_tf.training.assemble import build_model
from jest_tf.training.jest_model import encode
from jest_tf.training.resolution import Fidelity
from jest_tf.training.run.restore import LoadedRun

# Relative error of one rounding.
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
SEED = (0, 1)


def tolerance(scale: float, dtype: str) -> float:
    """How far a logit from cached embeddings may be from the true one.

    Both embeddings of a pair are rounded, each entry by a relative error of at most u; they are of
    unit norm, so |x|·|y| <= 1 and the logit moves by at most scale·(2u + u²). The last term allows
    for float32 sums in another order.
    """
    u = ROUNDING[dtype]
    return scale * (2 * u + u * u + 1e-5)


def compare(
    run: LoadedRun,
    manifest: Manifest,
    cache: ReferenceCache,
    spec: SelectionSpec,
    n_steps: int,
) -> dict[str, float]:
    """Logits and picks with the cache against those of the reference run on the same batches.

    The learner is the run's model as it was initialised, before training.

    Returns:
        largest_logit_error: over all pairs of all super-batches; compare with `tolerance`.
        picks_shared: part of the picks that both ways have in common, with the same draws.
    """
    learner = build_model(run.config, run.tokenizer.vocab_size)
    at = Fidelity.full(run.model.config)
    embed = {
        name: tf.function(lambda batch, m=model: encode(m, at, batch), autograph=False)
        for name, model in (("learner", learner), ("reference", run.model))
    }
    errors, shared = [], []
    batches = pipeline.super_batches(
        manifest,
        run.tokenizer,
        super_batch=spec.super_batch,
        image_size=run.config.data.image_size,
        seed=0,
        reference_cache=cache,
    )
    for batch in itertools.islice(batches, n_steps):
        truth = _of_model(run.model, embed["reference"](batch))
        cached = Embeddings(
            batch["reference_zimg"], batch["reference_ztxt"], truth.scale, truth.bias
        )
        keep = batch["valid"].numpy()
        difference = _logits(cached)[keep][:, keep] - _logits(truth)[keep][:, keep]
        errors.append(abs(difference).max())
        mine = _of_model(learner, embed["learner"](batch))
        picked = [
            select(spec, mine, reference, batch["valid"], tf.constant(SEED)).positions.numpy()
            for reference in (truth, cached)
        ]
        shared.append(len(np.intersect1d(*picked)) / spec.sub_batch)
    return {
        "largest_logit_error": float(max(errors)),
        "picks_shared": float(np.mean(shared)),
    }


def _of_model(model, embedded: tuple[tf.Tensor, tf.Tensor]) -> Embeddings:
    return Embeddings(*embedded, model.scale, tf.convert_to_tensor(model.bias))


def _logits(z: Embeddings) -> np.ndarray:
    """float64 [B, B]: all of them, for these sizes are small."""
    products = z.zimg.numpy().astype(np.float64) @ z.ztxt.numpy().astype(np.float64).T
    return float(z.scale) * products + float(z.bias)
