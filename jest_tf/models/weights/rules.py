"""How tensors of another format and our variables become one another, and the check of both sides.

A rule names a few variables of ours, a few tensors of theirs, and the pure functions between their
arrays. The shapes that a file must have follow from the rules themselves: `give` is applied to
arrays of our shapes that hold no memory.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from jest_tf.errors import UserError
from jest_tf.models.dual_encoder import DualEncoder, DualEncoderConfig, TowerConfig
from jest_tf.models.weights.tensors import FLOATS, Tensors

Shape = tuple[int, ...]
# Names that only towers of another kind have: a class token, CLIP's root-level text tower.
CLIP_NAMES = re.compile(
    r"(.*[./])?(class_embedding|cls_token|cls|pre_layrnorm|ln_pre|attn_mask|"
    r"visual_projection|cls_emb)([./].*)?|positional_embedding|text_projection"
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """`take(our shapes, *theirs) -> ours`, `give(*ours) -> theirs`: sequences of arrays."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    take: Callable[..., Sequence[np.ndarray]]
    give: Callable[..., Sequence[np.ndarray]]


def same(
    ours: str, *theirs: str, axes: Sequence[int] | None = None, shape: Shape | None = None
) -> Rule:
    """Equal values: one of ours is one of theirs, or several side by side along its last axis.

    axes: the order in which ours has the axes of theirs. shape: of theirs, if it is another.
    """
    n = len(theirs)

    def take(shapes: Sequence[Shape], *arrays: np.ndarray) -> tuple[np.ndarray]:
        part = shapes[0] if n == 1 else (*shapes[0][:-1], shapes[0][-1] // n)
        parts = [np.reshape(a if axes is None else a.transpose(axes), part) for a in arrays]
        return (parts[0] if n == 1 else np.concatenate(parts, axis=-1),)

    def give(array: np.ndarray) -> list[np.ndarray]:
        parts = [array] if n == 1 else np.split(array, n, axis=-1)
        parts = [a if axes is None else a.transpose(np.argsort(axes)) for a in parts]
        return [np.reshape(a, a.shape if shape is None else shape) for a in parts]

    return Rule((ours,), theirs, take, give)


def norm(ours: str, theirs: str, scale: str = "weight", bias: str = "bias", sep: str = ".") -> list:
    """gamma and beta of a layer normalisation."""
    return [
        same(f"{ours}/gamma", f"{theirs}{sep}{scale}"),
        same(f"{ours}/beta", f"{theirs}{sep}{bias}"),
    ]


def torch_dense(ours: str, theirs: str) -> list[Rule]:
    """kernel and bias; torch keeps kernels as [out, in]."""
    kernel = same(f"{ours}/kernel", f"{theirs}.weight", axes=(1, 0))
    return [kernel, same(f"{ours}/bias", f"{theirs}.bias")]


def mlp(ours: str, theirs: str, up: str, down: str, dense: Callable) -> list[Rule]:
    """The two layers of an MLP, `up` and `down` in theirs."""
    return dense(f"{ours}/up", f"{theirs}{up}") + dense(f"{ours}/down", f"{theirs}{down}")


def plain_dense(ours: str, theirs: str, names: Sequence[str]) -> list[Rule]:
    """kernel and bias as we keep them; `names`: what theirs are called."""
    return [
        same(f"{ours}/{ending}", f"{theirs}{name}")
        for ending, name in zip(("kernel", "bias"), names, strict=True)
    ]


def rows_of(ours: Sequence[str], theirs: str) -> Rule:
    """Kernels of ours that one kernel of torch holds in its rows."""
    return Rule(
        tuple(ours),
        (theirs,),
        lambda _, w: [x.T for x in np.split(w, len(ours))],
        lambda *a: (np.concatenate([x.T for x in a]),),
    )


def per_head_attention(
    block: str, theirs: str, width: int, heads: int, names: Mapping[str, Sequence[str]]
) -> list[Rule]:
    """Self-attention kept as kernels (D, H, h) and biases (H, h), the output's (H, h, D).

    names: part (query, key, value, out) -> how its kernel and bias are called below `theirs`.
    """
    by_head = (width, heads, width // heads)
    kernels, biases = (
        [f"{theirs}{names[part][i]}" for part in ("query", "key", "value")] for i in (0, 1)
    )
    out, out_bias = (f"{theirs}{name}" for name in names["out"])
    return [
        same(f"{block}/qkv_kernel", *kernels, shape=by_head),
        same(f"{block}/qkv_bias", *biases, shape=by_head[1:]),
        same(f"{block}/out/kernel", out, shape=(*by_head[1:], width)),
        same(f"{block}/out/bias", out_bias),
    ]


def per_head_pooling(
    theirs: str, width: int, heads: int, names: Mapping[str, Sequence[str]]
) -> list[Rule]:
    """The MAP head's attention in the same layout. A key bias has no effect: zeros on export."""
    by_head = (width, heads, width // heads)
    zeros = np.broadcast_to(np.float32(0), by_head[1:])
    found = []
    for part in ("query", "key", "value"):
        kernel, bias = (f"{theirs}{name}" for name in names[part])
        found.append(same(f"image/pooling/{part}_kernel", kernel, shape=by_head))
        if part == "key":
            found.append(Rule((), (bias,), lambda _, a: (), lambda: (zeros,)))
        else:
            found.append(same(f"image/pooling/{part}_bias", bias, shape=by_head[1:]))
    out, out_bias = (f"{theirs}{name}" for name in names["out"])
    out = same("image/pooling/out/kernel", out, shape=(*by_head[1:], width))
    return [*found, out, same("image/pooling/out/bias", out_bias)]


def to_ours(
    rules: Sequence[Rule], tensors: Tensors, config: DualEncoderConfig, what: str
) -> Iterator[tuple[str, np.ndarray]]:
    """(our variable's name, float32 array) of every variable, one after the other.

    UserError, before the first is read: all tensors that are missing, left over, or of another
    shape or dtype. `what` names the source.
    """
    check(tensors, expected_shapes(rules, config), what)
    shapes = our_shapes(config)

    def taken(rule: Rule) -> Sequence[np.ndarray]:
        arrays = (tensors[name].floats() for name in rule.theirs)
        return rule.take([shapes[name] for name in rule.ours], *arrays)

    return (pair for rule in rules for pair in zip(rule.ours, taken(rule), strict=True))


def from_ours(
    rules: Sequence[Rule], weights: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """(their name, array) of every tensor; UserError: no place for one of our variables."""
    if homeless := sorted(weights.keys() - {name for rule in rules for name in rule.ours}):
        raise UserError(
            f"this format has no place for {', '.join(homeless)}: its image tower has no "
            "projection. Train with embed_dim equal to the image tower's width, or export as "
            "saved_model."
        )
    for rule in rules:
        arrays = rule.give(*(weights[name] for name in rule.ours))
        # Not np.ascontiguousarray, which makes a scalar a vector.
        yield from zip(rule.theirs, (np.asarray(a, order="C") for a in arrays), strict=True)


def expected_shapes(rules: Sequence[Rule], config: DualEncoderConfig) -> dict[str, Shape]:
    """Shape of each tensor that a file of these sizes holds."""
    ours, expected = our_shapes(config), {}
    for rule in rules:
        blanks = [np.broadcast_to(np.float32(0), ours[name]) for name in rule.ours]
        for name, array in zip(rule.theirs, rule.give(*blanks), strict=True):
            expected[name] = array.shape
    return expected


def check(tensors: Tensors, expected: Mapping[str, Shape], what: str) -> None:
    """Raises UserError that lists everything in which the two differ."""
    problems = [f"missing: {n} {_text(expected[n])}" for n in sorted(expected - tensors.keys())]
    problems += [
        f"left over: {n} {_text(tensors[n].shape)}" for n in sorted(tensors - expected.keys())
    ]
    for name in sorted(expected.keys() & tensors.keys()):
        found = tensors[name]
        if found.shape != tuple(expected[name]):
            problems.append(
                f"shape: {name} is {_text(found.shape)}, expected {_text(expected[name])}"
            )
        if found.dtype not in FLOATS:
            problems.append(f"dtype: {name} is {found.dtype}, expected {', '.join(FLOATS)}")
    if problems:
        raise UserError(
            f"{what} does not hold the weights of a SigLIP; {len(problems)} tensor(s) differ from "
            "what the others imply:\n  " + "\n  ".join(problems)
        )


def refuse_clip(tensors: Tensors, what: str) -> None:
    """Raises UserError for the towers of CLIP and its kin: they are other functions than ours."""
    found = sorted(filter(CLIP_NAMES.fullmatch, tensors))
    if found:
        raise UserError(
            f"{what} is CLIP-like ({found[0]}: class token, causal text tower), and cannot be "
            "trained here. Use it as a cached reference: embed your records with its own code, "
            "write id, zimg and ztxt to .npz or .parquet, then python -m jest_tf.cache_reference "
            "--embeddings=FILES --scale=… --bias=0 --dim=… --data=… --out=CACHE and train with "
            "--config.reference.cache=CACHE."
        )


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the tensors tell. `heads` is None where only a config file can tell (torch layouts)."""

    patch: int
    places: int
    image: tuple[int, int, int]  # width, depth, mlp_dim
    text: tuple[int, int, int]
    n_tokens: int
    vocab_size: int
    embed_dim: int
    heads: tuple[int, int] | None = None  # image, text

    def config(self, heads: tuple[int, int] | None, what: str) -> DualEncoderConfig:
        """The towers' sizes; UserError: positions no square, or unknown or unfit heads."""
        grid = math.isqrt(self.places)
        heads = self.heads or heads
        if grid * grid != self.places:
            raise UserError(f"{what} has {self.places} image positions: expected a square number")
        if heads is None:
            raise UserError(
                f"{what} does not tell the number of attention heads, and no config file beside it "
                "does. Give --heads=IMAGE,TEXT (B: 12,12; L and So400m: 16,16)."
            )
        towers = [
            TowerConfig(width=width, depth=depth, heads=n, mlp_dim=mlp)
            for (width, depth, mlp), n in zip((self.image, self.text), heads, strict=True)
        ]
        return DualEncoderConfig(
            image_size=grid * self.patch,
            patch_size=self.patch,
            n_tokens=self.n_tokens,
            vocab_size=self.vocab_size,
            embed_dim=self.embed_dim,
            image=towers[0],
            text=towers[1],
        )


def axis(tensors: Tensors, pattern: str, index: int) -> int:
    """Length of an axis of the first tensor whose name matches; 1 where there is none.

    So the one that is missing is reported, and not the many that would no longer fit.
    """
    for name in sorted(tensors):
        if re.fullmatch(pattern, name) and -len(tensors[name].shape) <= index < len(
            tensors[name].shape
        ):
            return tensors[name].shape[index]
    return 1


def depth(tensors: Tensors, pattern: str) -> int:
    """Number of blocks: one more than the largest number in the pattern's group."""
    numbers = [int(m[1] or 0) for m in map(re.compile(pattern).fullmatch, tensors) if m]
    return max(numbers, default=0) + 1


@functools.cache
def our_shapes(config: DualEncoderConfig) -> dict[str, Shape]:
    with tf.Graph().as_default():  # no weight takes memory here
        model = DualEncoder(config)
    return {v.path.partition("/")[2]: tuple(v.shape) for v in model.variables}


def _text(shape: Sequence[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
