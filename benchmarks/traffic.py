"""What travels between replicas in a step, by formula: payload, and what a chip's links carry."""

import dataclasses
import math

import ml_collections

from jest_tf.data.augmentation import N_DRAWS
from jest_tf.training.assemble import Parts, teacher_dim
from jest_tf.training.resolution import StepPlan


@dataclasses.dataclass(frozen=True)
class Exchange:
    """One collective: `payload` bytes, the same buffer on every replica, `times` a step.

    On TPU an all-gather is the sum of buffers in which each replica fills its own part.
    """

    name: str
    payload: int
    times: float

    @property
    def bytes(self) -> float:
        return self.payload * self.times


def exchanges(
    config: ml_collections.ConfigDict, parts: Parts, plan: StepPlan, n_replicas: int
) -> list[Exchange]:
    """All collectives of a step on TPU, in its order. Empty with one replica."""
    if n_replicas == 1:
        return []
    spec, found = parts.spec, []
    rows, b = spec.super_batch // n_replicas, spec.sub_batch
    m = spec.chunk_size if spec.policy == "joint" else b
    chunks = spec.n_chunks if spec.policy == "joint" else 1
    candidates = min(m, rows) if spec.scope == "global" else m // n_replicas
    found.append(Exchange("best candidates", 8 * n_replicas * candidates, chunks))
    if spec.policy == "joint":
        width = 2 * sum(d for d in _embed_dims(parts))
        found.append(Exchange("picked embeddings", 4 * m * width, chunks))
    image, tokens = 3 * config.data.image_size**2, config.data.n_tokens
    teacher = teacher_dim(config, parts)
    draws = N_DRAWS if config.data.augment else 0
    row = 4 * (math.ceil(image / 4) + tokens + 2 * teacher + draws)
    for part in plan.train:
        buffer = -(-part.n_examples // 16)
        rounds = math.ceil(expected_travellers(part.n_examples, n_replicas) / buffer)
        rounds = 0 if spec.scope == "replica" else rounds
        found.append(Exchange("picked images", buffer * row, rounds))
    found.append(Exchange("embeddings for the loss", 8 * b * parts.learner.embed_dim, 1))
    if teacher:
        found.append(Exchange("reference's embeddings of the chosen", 8 * b * teacher, 1))
    softmaxes = (spec.loss == "softmax" or teacher > 0) + (teacher > 0)
    if softmaxes:
        found.append(Exchange("normalisers of the softmax", 8 * b, softmaxes))
    found.append(Exchange("gradients", 4 * (parts.n_trained + 1), 1))
    found.append(Exchange("picked ids", 8 * b, 1))
    if config.log.ledger_records:
        found.append(Exchange("records and losses", 24 * spec.super_batch, 1))
        n_passed = round(spec.super_batch * (1 / config.data.prefilter - 1))
        found += [Exchange("records passed over", 8 * n_passed, 1)] * (n_passed > 0)
    return found


def expected_travellers(n_picks: int, n_replicas: int) -> float:
    """Σ_r E[(X_r - b/R)+], X_r binomial: picks beyond an even share; normal approximation."""
    return math.sqrt(n_picks * (n_replicas - 1) / (2 * math.pi))


def link_bytes(found: list[Exchange], n_replicas: int) -> float:
    """Bytes that each chip sends in a step: a sum over R chips in a ring passes 2(R-1)/R of it."""
    return sum(e.bytes for e in found) * 2 * (n_replicas - 1) / n_replicas


def _embed_dims(parts: Parts) -> list[int]:
    models = [parts.learner] if parts.spec.scores_learner else []
    models += [parts.reference or parts.learner] if parts.spec.scores_reference else []
    return [model.embed_dim for model in models]
