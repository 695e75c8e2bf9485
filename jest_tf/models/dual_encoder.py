"""The model: an image and a text tower into one space, with the scale and bias of its logits."""

import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf

from jest_tf.config import flat
from jest_tf.errors import UserError
from jest_tf.model_record import PixelRule
from jest_tf.models.text_transformer import TextTransformer
from jest_tf.models.transformer import Adapter, Lora, TowerConfig, kernel_of
from jest_tf.models.vit import VisionTransformer


@dataclasses.dataclass(frozen=True)
class DualEncoderConfig:
    """Sizes of both towers, image sizes in pixels, text in tokens; UserError if they do not divide.

    The logits start as init_scale·<zimg, ztxt> + init_bias. SigLIP's -10 suits batches of tens of
    thousands, -log(sub_batch) small ones.
    """

    image_size: int
    patch_size: int
    n_tokens: int
    vocab_size: int
    embed_dim: int
    image: TowerConfig
    text: TowerConfig
    init_scale: float = 10.0
    init_bias: float = -10.0

    def __post_init__(self) -> None:
        for name, value in flat(dataclasses.asdict(self)).items():
            is_size = not name.startswith("init_")
            if is_size and (not isinstance(value, int) or value < 1):
                raise UserError(f"model.{name} = {value!r}: expected a whole number of 1 or more")
        if self.image_size % self.patch_size:
            raise UserError(
                f"model.image_size = {self.image_size} is not divisible by model.patch_size = "
                f"{self.patch_size}: change one of them"
            )
        for name, tower in (("image", self.image), ("text", self.text)):
            if tower.width % tower.heads:
                raise UserError(
                    f"model.{name}.width = {tower.width} is not divisible by model.{name}.heads = "
                    f"{tower.heads}: change one of them"
                )
        if self.init_scale <= 0:
            raise UserError(f"model.init_scale = {self.init_scale}: expected a number above 0")

    @classmethod
    def from_variant(cls, variant: str, **overrides: Any) -> "DualEncoderConfig":
        """A named size (`VARIANTS`) with fields replaced; `image` and `text` also in part.

        `custom`: all sizes are given, as `dataclasses.asdict` gives them.
        """
        if variant not in (*VARIANTS, CUSTOM):
            raise UserError(f"model variant {variant!r}: expected one of {', '.join(VARIANTS)}")
        base = {} if variant == CUSTOM else dataclasses.asdict(VARIANTS[variant])
        values, known = base | overrides, {field.name for field in dataclasses.fields(cls)}
        if unknown := set(values) - known:
            raise UserError(
                f"unknown model setting {', '.join(sorted(unknown))}: expected some of "
                f"{', '.join(sorted(known))}"
            )
        if missing := {"image", "text", "embed_dim", "vocab_size"} - set(values):
            raise UserError(
                f"model.variant = custom needs all sizes; model.sizes lacks {sorted(missing)}. It "
                "is what jest_tf.import_weights writes: start from such a workdir instead."
            )
        expected = {field.name for field in dataclasses.fields(TowerConfig)}
        for name in ("image", "text"):
            if isinstance(values[name], TowerConfig):
                continue
            tower = base.get(name, {}) | values[name]
            if set(tower) != expected:
                raise UserError(
                    f"model.{name} has settings {sorted(tower)}: expected {sorted(expected)}"
                )
            values[name] = TowerConfig(**tower)
        return cls(**values)


def _siglip(width: int, depth: int, heads: int) -> DualEncoderConfig:
    """Both towers alike, 256 px images, 64 tokens of a 32,000 word vocabulary (JEST, section 4)."""
    tower = TowerConfig(width=width, depth=depth, heads=heads, mlp_dim=4 * width)
    return DualEncoderConfig(
        image_size=256, patch_size=16, n_tokens=64, vocab_size=32_000, embed_dim=width,
        image=tower, text=tower,
    )  # fmt: skip


CUSTOM = "custom"  # all sizes are given, as for an imported model
# Ti, S, B, L: the sizes of the ViT literature. mu: trains in minutes on a laptop's processor. nano:
# for experiments of many runs.
VARIANTS: dict[str, DualEncoderConfig] = {
    "nano": DualEncoderConfig(
        image_size=48, patch_size=12, n_tokens=16, vocab_size=4_096, embed_dim=64,
        image=TowerConfig(width=64, depth=3, heads=2, mlp_dim=256),
        text=TowerConfig(width=64, depth=2, heads=2, mlp_dim=256),
    ),
    "mu": DualEncoderConfig(
        image_size=48, patch_size=8, n_tokens=16, vocab_size=4_096, embed_dim=128,
        image=TowerConfig(width=128, depth=4, heads=4, mlp_dim=512),
        text=TowerConfig(width=128, depth=2, heads=4, mlp_dim=512),
    ),
    "Ti": _siglip(width=192, depth=12, heads=3),
    "S": _siglip(width=384, depth=12, heads=6),
    "B": _siglip(width=768, depth=12, heads=12),
    "L": _siglip(width=1024, depth=24, heads=16),
}  # fmt: skip


class DualEncoder(keras.Model):
    """SigLIP's dual encoder (arXiv 2303.15343). All weights exist once it is constructed.

    seed: the same initial weights on any device and strategy. dtype: Keras dtype policy of the
    towers; embeddings are float32 always. recompute: keep only the input of each block and run it
    again backwards: far less memory for a third more time. pixels: how pictures are resized for
    these weights. lora: adapters in all blocks. log_scale, bias: float32 scalar weights of the
    logits.
    """

    def __init__(
        self,
        config: DualEncoderConfig,
        seed: int = 0,
        dtype: str | keras.DTypePolicy | None = None,
        name: str = "dual_encoder",
        recompute: bool = False,
        pixels: PixelRule = PixelRule(),
        lora: Lora | None = None,
    ) -> None:
        super().__init__(dtype=dtype, name=name)
        self.config, self.pixels, self.lora = config, pixels, lora
        how = {"embed_dim": config.embed_dim, "dtype": self.dtype_policy, "lora": lora}
        how["recompute"] = recompute
        with keras.name_scope(self.name):
            sizes = {"image_size": config.image_size, "patch_size": config.patch_size}
            self.image_tower = VisionTransformer(config.image, seed, name="image", **sizes, **how)
            sizes = {"n_tokens": config.n_tokens, "vocab_size": config.vocab_size}
            self.text_tower = TextTransformer(config.text, seed, name="text", **sizes, **how)
        constant = keras.initializers.Constant
        self.log_scale = self.add_weight(
            shape=(), initializer=constant(math.log(config.init_scale)), dtype="float32",
            autocast=False, name="log_scale",
        )  # fmt: skip
        self.bias = self.add_weight(
            shape=(), initializer=constant(config.init_bias), dtype="float32",
            autocast=False, name="bias",
        )  # fmt: skip
        self.built = True

    @property
    def scale(self) -> tf.Tensor:
        """exp(log_scale), float32 []."""
        return tf.exp(tf.convert_to_tensor(self.log_scale))

    def encode_image(
        self, images: tf.Tensor, patch_size: int | None = None, depth: int | None = None
    ) -> tf.Tensor:
        """Images float [n, h, w, 3] in [-1, 1] -> zimg float32 [n, embed_dim], of unit norm.

        Any h and w divisible by `patch_size` (default: the config's): patches and positions are
        resized as in FlexiViT. `depth`: only the first so many blocks. UserError: patches or depth
        do not fit.
        """
        depth = _checked_depth(depth, self.config.image.depth, "image")
        return _unit(self.image_tower(images, patch_size=patch_size, depth=depth))

    def encode_text(self, tokens: tf.Tensor, depth: int | None = None) -> tf.Tensor:
        """Tokens int [n, L' <= n_tokens] -> ztxt float32 [n, embed_dim], of unit norm.

        Make shorter rows with `shorten_tokens`. `depth`: only the first so many blocks.
        """
        depth = _checked_depth(depth, self.config.text.depth, "text")
        return _unit(self.text_tower(tokens, depth=depth))

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """(images, tokens) -> (zimg, ztxt) at full resolution and depth."""
        images, tokens = inputs
        return self.encode_image(images), self.encode_text(tokens)

    def merged(self) -> "DualEncoder":
        """The same function with each adapter added to its kernel; itself if it has none."""
        if self.lora is None:
            return self
        plain = DualEncoder(self.config, dtype=self.dtype_policy, pixels=self.pixels)
        ours = {v.path: v.value for v in self.variables}
        for layer in self._flatten_layers():
            if isinstance(layer, Adapter):
                path = kernel_of(layer)
                ours[path] = layer.merged_into(ours[path])
        for variable in plain.variables:
            variable.assign(ours[variable.path])
        return plain


def _checked_depth(depth: int | None, blocks: int, tower: str) -> int:
    if depth is None:
        return blocks
    if not 1 <= depth <= blocks:
        raise UserError(f"{tower} depth = {depth}: expected 1 to {blocks}, the tower's blocks")
    return depth


def _unit(x: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(tf.cast(x, tf.float32), axis=-1)
