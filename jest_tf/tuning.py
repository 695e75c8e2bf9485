"""What a config says about starting from trained weights, read without TensorFlow."""

import dataclasses
import math
import os
import re
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from jest_tf.config import AUTO, completed, read_config
from jest_tf.errors import UserError
from jest_tf.model_record import ModelRecord

TOWERS = ("image", "text")
INIT = "model.init"  # as reference.workdir: the same workdir


def follow_init(config: ConfigDict, workdir: str) -> None:
    """Fills in what follows from `model.init`: sizes, and how text and pictures are read.

    A begun run follows its own workdir: it goes on where `model.init` is gone. UserError: no run
    there, damaged files, or a config that needs one.
    """
    if not config.model.init:
        if config.reference.workdir == INIT or not config.model.image_size:
            raise UserError(
                "model.init is empty. This config tunes a trained model: set --config.model.init "
                "to a workdir, of a run or of `python -m jest_tf.import_weights`."
            )
        return
    if config.reference.workdir == INIT:
        config.reference.workdir = config.model.init
    stored = _config_of(workdir) if workdir else None
    began = stored is not None and stored["model"]["init"] == config.model.init
    began = began and ModelRecord.load(workdir) is not None  # else its start failed
    source = workdir if began else config.model.init
    theirs = stored if began else _config_of(config.model.init)
    record = ModelRecord.load(source) if theirs else None  # an export has another model.json
    if record is None:
        raise UserError(
            f"model.init = {config.model.init!r} holds no model: expected a workdir with "
            "config.json and model.json, of a run or of `python -m jest_tf.import_weights`."
        )
    model, data = config.model, config.data
    sizes = dict(record.sizes)
    model.variant = "custom"
    own = {k: sizes[k] for k in ("image", "text", "embed_dim", "vocab_size")}
    model.sizes = ConfigDict(own)
    for name in ("image_size", "patch_size"):
        model[name] = model[name] or sizes[name]
    data.n_tokens = record.n_tokens
    data.vocab = config.model.init
    data.image_size = data.image_size or max(model.image_size, record.image_size)
    data.resize = record.pixels.resize + ("" if record.pixels.antialias else "_plain")


def _config_of(workdir: str) -> dict[str, Any] | None:
    exists = os.path.exists(os.path.join(workdir, "config.json"))
    return completed(read_config(workdir)) if exists else None


def initial_bias(config: ConfigDict) -> float:
    """The bias that a new learner starts with. -log(b): an easy negative then weighs 1/b."""
    bias = config.model.init_bias
    return -math.log(config.selection.sub_batch) if bias == AUTO else float(bias)


@dataclasses.dataclass(frozen=True)
class TrainedTower:
    """What of a tower is trained."""

    blocks: int | None = None  # the last so many and what follows; None: all, embeddings included
    cached: bool = False  # its embeddings come with the data
    rank: int = 0  # of adapters, trained instead of weights

    @property
    def frozen(self) -> bool:
        return self.blocks == 0

    def first_block(self, depth: int) -> int:
        """The lowest block that trains, of `depth` that are run."""
        return 0 if self.blocks is None else depth - self.blocks


def trained_tower(config: ConfigDict, tower: str) -> TrainedTower:
    """What `model.TOWER` (image | text) and `model.lora` say; UserError: a wrong `train`."""
    how = config.model[tower]
    blocks = {"full": None, "frozen": 0}.get(how.train, -1)
    if blocks == -1:
        last = re.fullmatch(r"last:([1-9]\d*)", how.train)
        if not last:
            raise UserError(
                f"model.{tower}.train is {how.train!r}; expected full, frozen, or last:K, such as "
                "last:2 for the last two blocks."
            )
        blocks = int(last[1])
    rank = config.model.lora.rank if blocks != 0 else 0
    return TrainedTower(blocks, bool(how.get("cache")), rank)


def tuning_problems(c: ConfigDict) -> Iterator[str]:
    """All that is wrong with the fields about what is trained, and from where."""
    towers = {}
    for name in TOWERS:
        try:
            towers[name] = trained_tower(c, name)
        except UserError as error:
            yield str(error)
    scalars = c.model.train_scale or c.model.train_bias
    if len(towers) == 2 and all(t.frozen for t in towers.values()) and not scalars:
        yield "nothing is trained: both towers are frozen, and train_scale and train_bias are off."
    if c.model.init_bias != AUTO and not isinstance(c.model.init_bias, int | float):
        yield f"model.init_bias is {c.model.init_bias!r}; expected a number or {AUTO}."
    if c.log.min_score_share and not c.model.init:
        yield (
            "log.min_score_share compares with the scores of model.init, which is empty. Set it to "
            "0, or model.init to a workdir."
        )
    if c.model.init and c.data.vocab not in ("", c.model.init):
        yield (
            f"data.vocab is {c.data.vocab!r}, but the learner of model.init reads text by its own "
            "tokenizer. Leave data.vocab empty."
        )
    if c.reference.calibrate and not c.reference.workdir:
        yield (
            "reference.calibrate embeds other pairs with the reference itself. Set "
            "reference.workdir, also where reference.cache holds its embeddings of data.train."
        )
    if c.model.image.cache:
        yield from _cache_problems(c)


def _cache_problems(c: ConfigDict) -> Iterator[str]:
    what = "model.image.cache holds the embeddings of a frozen image tower"
    if c.model.image.train != "frozen" or not c.model.init:
        yield f"{what}: set model.image.train=frozen and model.init to the workdir of its weights."
    if c.data.augment:
        yield f"{what}, so pictures cannot be changed: set data.augment=()."
    r = c.resolution
    if r.stages or r.random or r.score.resolution or r.score.image_depth:
        yield f"{what} at full resolution and depth: leave resolution.* of images empty."
    if c.reference.workdir and not c.reference.cache:
        yield (
            f"{what}, and no picture is read for a reference: set reference.cache (the same folder "
            "if model.init is the reference too)."
        )
