"""What a run costs: FLOPs of each part of a step by formula, and the ledger that adds them up.

A FLOP is a multiplication or an addition in a matrix product: m·n·k costs 2·m·n·k. Element-wise
work (softmax, GELU, normalisation, optimizer) is left out, as in the literature. A backward pass
costs each product twice more: once for its input, once for its weight.
"""

import dataclasses
from collections.abc import Mapping

from ml_collections import ConfigDict

from jest_tf.models.dual_encoder import DualEncoderConfig, TowerConfig
from jest_tf.selection.spec import SelectionSpec
from jest_tf.training.resolution import Fidelity, StepPlan
from jest_tf.tuning import TrainedTower, trained_tower

# The phases of a step, in its order; `train` has one entry per fidelity, such as train@256/16.
SCORE_LEARNER, SCORE_REFERENCE = "score_learner", "score_reference"
SELECT, TRAIN = "select", "train"
# Matrix products by which a loss finds the sums that its softmax divides by.
NORMALISER_PRODUCTS = {"sigmoid": 0, "softmax": 2}


def image_tower_flops(model: DualEncoderConfig, at: Fidelity) -> int:
    """One image forward through the image tower."""
    tower, tokens = model.image, at.resolution.n_patches
    patches = 2 * tokens * 3 * at.resolution.patch_size**2 * tower.width
    projection = 2 * tower.width * model.embed_dim if tower.width != model.embed_dim else 0
    blocks = at.image_depth * _block_flops(tower, tokens)
    # The MAP head, with its key and value projections folded (see AttentionPooling).
    pooling = 2 * tokens * tower.width * 2 * tower.heads
    pooling += 2 * 2 * tower.width**2 + 4 * tower.width * tower.mlp_dim
    return patches + blocks + pooling + projection


def text_tower_flops(model: DualEncoderConfig, at: Fidelity) -> int:
    """One text forward through the text tower, whose last block computes only the pooled token."""
    return blocks_flops(model, at, of_image=False) + 2 * model.text.width * model.embed_dim


def forward_flops(model: DualEncoderConfig, at: Fidelity) -> int:
    """One image-text pair forward through both towers."""
    return image_tower_flops(model, at) + text_tower_flops(model, at)


def train_flops(
    model: DualEncoderConfig,
    at: Fidelity,
    image: TrainedTower = TrainedTower(),
    text: TrainedTower = TrainedTower(),
) -> int:
    """One image-text pair forward and backward, of what `image` and `text` say is trained.

    No gradient is taken of the pixels, nor below the lowest block that trains. Frozen kernels pass
    the gradient on and have none of their own.
    """
    tokens = at.resolution.n_patches
    pixels = 2 * tokens * 3 * at.resolution.patch_size**2 * model.image.width
    block = _block_flops(model.image, tokens)
    head = image_tower_flops(model, at) - pixels - at.image_depth * block
    of_image = _backward_flops(image, model.image, tokens, at.image_depth, block, head)
    of_image += pixels if image.blocks is None and not image.rank else 0

    block = _block_flops(model.text, at.n_tokens)
    head = text_tower_flops(model, at) - at.text_depth * block  # with what the last block saves
    of_text = _backward_flops(text, model.text, at.n_tokens, at.text_depth, block, head)
    return scoring_flops(model, at, image, text) + of_image + of_text


def scoring_flops(
    model: DualEncoderConfig, at: Fidelity, image: TrainedTower, text: TrainedTower
) -> int:
    """One image-text pair forward through the learner, with its adapters."""
    tokens = at.resolution.n_patches
    flops = text_tower_flops(model, at)
    flops += at.text_depth * _adapter_flops(model.text, at.n_tokens, text.rank)
    if not image.cached:
        flops += image_tower_flops(model, at)
        flops += at.image_depth * _adapter_flops(model.image, tokens, image.rank)
    return flops


def _backward_flops(
    how: TrainedTower, tower: TowerConfig, tokens: int, depth: int, block: int, head: int
) -> int:
    """Backward through the head and `depth` blocks down to the lowest that trains."""
    if how.frozen:
        return 0
    n = max(depth - how.first_block(tower.depth), 0)
    if not how.rank:
        return 2 * (n * block + head)
    # Of a product of activations both factors have a gradient, of one with a kernel one has.
    attention = 2 * tokens * 2 * tokens * tower.width
    # Nothing before the lowest block's attention trains, not even its norm.
    unread = 2 * tokens * 3 * tower.width**2 if n else 0
    return n * (block + attention + 2 * _adapter_flops(tower, tokens, how.rank)) + head - unread


def _adapter_flops(tower: TowerConfig, tokens: int, rank: int) -> int:
    """The adapters of one block: two narrow products beside each of its four kernels."""
    widths = 8 * tower.width + 2 * tower.mlp_dim  # n_in + n_out of qkv, out, up, down
    return 2 * tokens * rank * widths


def blocks_flops(
    model: DualEncoderConfig, at: Fidelity, of_image: bool = True, of_text: bool = True
) -> int:
    """One image-text pair forward through the transformer blocks alone, of the towers named."""
    patches = at.resolution.n_patches
    image = at.image_depth * _block_flops(model.image, patches)
    text = (at.text_depth - 1) * _block_flops(model.text, at.n_tokens)
    # The last block makes keys and values of all tokens, and one query.
    width, tokens = model.text.width, at.n_tokens
    text += 2 * tokens * 2 * width * width + 2 * (2 * width * width + 2 * tokens * width)
    text += 4 * width * model.text.mlp_dim
    return of_image * image + of_text * text


def resize_flops(stored_size: int, image_size: int) -> int:
    """One image from the side that the host delivers to the side that the model reads."""
    if stored_size == image_size:
        return 0
    return 2 * 3 * image_size * stored_size * (stored_size + image_size)


def loss_flops(batch: int, embed_dim: int, kind: str, n_replicas: int = 1) -> int:
    """The contrastive loss and its gradient over the whole batch, all replicas together."""
    # Logits once and a product per gradient; several replicas make the logits of both directions.
    products = 3 + (n_replicas > 1) + NORMALISER_PRODUCTS[kind]
    return products * 2 * batch**2 * embed_dim


def distillation_flops(
    batch: int, embed_dim: int, reference_dim: int, kind: str, n_replicas: int = 1
) -> int:
    """What `distillation` adds to the loss of `kind`, over the whole batch, all replicas together.

    A softmax loss has made the learner's normalisers already.
    """
    both = NORMALISER_PRODUCTS["softmax"]
    own = loss_flops(batch, embed_dim, "sigmoid", n_replicas)
    own += (both - NORMALISER_PRODUCTS[kind]) * 2 * batch**2 * embed_dim
    logits = 1 + (n_replicas > 1)  # of the reference's no gradient is taken
    return own + (logits + both) * 2 * batch**2 * reference_dim


def select_flops(spec: SelectionSpec, embed_dims: list[int], n_replicas: int = 1) -> int:
    """Selection; `embed_dims` are those of the models that the criterion uses."""
    if spec.policy == "uniform":
        return 0
    products = spec.super_batch  # the diagonal
    if spec.policy == "joint":
        products += 2 * joint_pairs(spec, n_replicas)  # in both directions
    return sum(2 * products * d for d in embed_dims)


def joint_pairs(spec: SelectionSpec, n_replicas: int = 1) -> int:
    """(candidate, picked) pairs that joint selection compares, over all replicas."""
    # Every chunk but the last meets all candidates. The last meets the chosen alone, for their
    # joint score; a replica does not know how many it owns, so it takes as many rows as it might.
    rows = min(spec.sub_batch, spec.super_batch // n_replicas)
    candidates = spec.super_batch * (spec.sub_batch - spec.chunk_size)
    return candidates + n_replicas * rows * spec.chunk_size


def _block_flops(tower: TowerConfig, tokens: int) -> int:
    width = tower.width
    attention = 2 * tokens * (4 * width * width + 2 * tokens * width)
    return attention + 4 * tokens * width * tower.mlp_dim


@dataclasses.dataclass(frozen=True)
class StepCost:
    """One step: FLOPs by phase, and the examples scored and trained, over all replicas."""

    flops: Mapping[str, float]
    examples_scored: int
    examples_trained: int

    @property
    def total_flops(self) -> float:
        return sum(self.flops.values())


@dataclasses.dataclass(frozen=True)
class CostModel:
    """Prices a step plan for one run."""

    learner: DualEncoderConfig
    spec: SelectionSpec
    stored_image_size: int  # side of the images that the host delivers, in pixels
    reference: DualEncoderConfig | None = None  # None: there is none, or its embeddings are cached
    reference_dim: int | None = None  # of cached embeddings; None: the learner's
    n_replicas: int = 1
    micro_batch: int = 0  # as in `config.strategy`
    recompute: bool = False
    distils: bool = False  # from the reference's embeddings of the chosen
    image: TrainedTower = TrainedTower()  # what of the learner's tower is trained
    text: TrainedTower = TrainedTower()

    @classmethod
    def of(
        cls,
        config: ConfigDict,
        learner: DualEncoderConfig,
        spec: SelectionSpec,
        reference: DualEncoderConfig | None,
        n_replicas: int,
        reference_dim: int | None = None,
    ) -> "CostModel":
        return cls(
            learner, spec, config.data.image_size, reference, reference_dim, n_replicas,
            config.strategy.micro_batch, config.strategy.recompute,
            config.reference.distillation > 0,
            trained_tower(config, "image"), trained_tower(config, "text"),
        )  # fmt: skip

    def step(self, plan: StepPlan) -> StepCost:
        spec, flops = self.spec, {}
        scores = spec.policy != "uniform"
        dims = []
        if spec.scores_learner:
            flops[SCORE_LEARNER] = spec.super_batch * self._score(plan.score)
            dims.append(self.learner.embed_dim)
        if self.reference is not None and (spec.scores_reference or self.distils):
            side = plan.reference.resolution.image_size
            one = forward_flops(self.reference, plan.reference)
            one += resize_flops(self.stored_image_size, side)
            flops[SCORE_REFERENCE] = spec.super_batch * one
        if spec.scores_reference:
            dims.append(self._reference_dim())
        if scores:
            flops[SELECT] = select_flops(spec, dims, self.n_replicas)
        for part in plan.train:
            key = f"{TRAIN}@{part.at.resolution}"
            flops[key] = flops.get(key, 0) + part.n_examples * self._train(part.at)
        loss = loss_flops(spec.sub_batch, self.learner.embed_dim, spec.loss, self.n_replicas)
        flops[key] += loss
        if self.distils:
            dims = self.learner.embed_dim, self._reference_dim()
            flops[key] += distillation_flops(spec.sub_batch, *dims, spec.loss, self.n_replicas)
        return StepCost(flops, spec.super_batch if scores else 0, spec.sub_batch)

    def _train(self, at: Fidelity) -> int:
        flops = train_flops(self.learner, at, self.image, self.text) + self._resize(at)
        if 0 < self.micro_batch < self.spec.sub_batch // self.n_replicas:
            flops += self._score(at)  # embedded twice, see `grad_cache`
        if self.recompute:
            flops += blocks_flops(self.learner, at, not self.image.frozen, not self.text.frozen)
        return flops

    def _score(self, at: Fidelity) -> int:
        return scoring_flops(self.learner, at, self.image, self.text) + self._resize(at)

    def _resize(self, at: Fidelity) -> int:
        if self.image.cached:
            return 0
        return resize_flops(self.stored_image_size, at.resolution.image_size)

    def _reference_dim(self) -> int:
        if self.reference is not None:
            return self.reference.embed_dim
        return self.reference_dim or self.learner.embed_dim


def split_seconds(seconds: float, n_steps: int, parts: Mapping[str, float]) -> dict[str, float]:
    """The measured time of `n_steps` steps by phase, under the ledger's names.

    Each of `parts` (see `HostLoop.part_seconds`) counts as long as it took alone; the rest is
    training.
    """
    alone = n_steps * sum(parts.values())
    fits = min(1.0, seconds / alone) if alone else 1.0
    split = {name: fits * n_steps * one for name, one in parts.items()}
    return split | {TRAIN: seconds - sum(split.values())}


@dataclasses.dataclass
class CostLedger:
    """What a run has cost so far. Kept in its checkpoints, so a resumed run goes on counting.

    flops, seconds: by phase. Seconds have one phase for training (see `split_seconds`) and two of
    their own: `input`, waiting for data, and `compile`, first steps and what is timed beside them.
    """

    steps: int = 0
    examples_scored: int = 0
    examples_trained: int = 0
    flops: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def add(self, cost: StepCost, n_steps: int, seconds: Mapping[str, float]) -> None:
        """`n_steps` steps at `cost` each, which took `seconds` in all, by phase."""
        self.steps += n_steps
        self.examples_scored += n_steps * cost.examples_scored
        self.examples_trained += n_steps * cost.examples_trained
        for phase, flops in cost.flops.items():
            self.flops[phase] = self.flops.get(phase, 0.0) + n_steps * float(flops)
        for phase, duration in seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + duration

    @property
    def totals(self) -> dict[str, float]:
        return {
            "examples_scored": self.examples_scored,
            "examples_trained": self.examples_trained,
            "flops": sum(self.flops.values()),
        }

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    def share_of_seconds(self, *phases: str) -> float:
        """Part of the time that the phases took, compiling left out; 0 before the first step."""
        total = self.total_seconds - self.seconds.get("compile", 0.0)
        return sum(self.seconds.get(p, 0.0) for p in phases) / total if total > 0 else 0.0

    def scalars(self) -> dict[str, float]:
        """All entries under one flat name each, with totals: for logs and result tables."""
        scalars = {f"cost/{name}": value for name, value in self.totals.items()}
        scalars |= {"cost/steps": self.steps, "cost/seconds": self.total_seconds}
        scalars |= {f"cost/flops/{phase}": value for phase, value in self.flops.items()}
        scalars |= {f"cost/seconds/{phase}": value for phase, value in self.seconds.items()}
        return scalars
