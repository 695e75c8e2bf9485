"""Which weights of the learner a run trains, and at which learning rate."""

import keras
import ml_collections

from jest_tf.errors import UserError
from jest_tf.models.dual_encoder import DualEncoder
from jest_tf.models.lora import PREFIX
from jest_tf.tuning import TOWERS, trained_tower


def choose_trained(model: DualEncoder, config: ml_collections.ConfigDict) -> None:
    """Sets `trainable` of each weight by `config.model`; UserError: `last:K` beyond the tower."""
    scalars = {"log_scale": config.model.train_scale, "bias": config.model.train_bias}
    towers = {name: trained_tower(config, name) for name in TOWERS}
    for name, tower in towers.items():
        depth = getattr(model.config, name).depth
        if (tower.blocks or 0) > depth:
            raise UserError(
                f"model.{name}.train is {config.model[name].train!r}, but the tower has {depth} "
                "blocks."
            )
    for variable in model.variables:
        part, *place = variable.path.split("/")[1:]
        if part in scalars:
            variable.trainable = bool(scalars[part])
            continue
        tower, depth = towers[part], getattr(model.config, part).depth
        adapter = any(name.startswith(PREFIX) for name in place)
        kept = place == ["token_embedding"] and not config.model.text.train_embedding
        reached = _height(place) >= tower.first_block(depth)
        whole = tower.blocks is None
        trains = (whole or reached) and not tower.frozen and not kept
        variable.trainable = trains and adapter == bool(tower.rank)


def _height(place: list[str]) -> int:
    """The block of a weight; -1 for what comes before the first, a large number behind the last."""
    first = place[0]
    if first.startswith("block_"):
        return int(first.removeprefix("block_"))
    return -1 if first in ("embedding", "token_embedding", "positions") else 10**6


def learning_rates(
    variables: list[keras.Variable], config: ml_collections.ConfigDict
) -> list[float]:
    """What multiplies the learning rate of each variable."""
    parts = [variable.path.split("/")[1] for variable in variables]
    return [config.model[p].learning_rate if p in TOWERS else 1.0 for p in parts]
