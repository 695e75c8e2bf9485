"""The one description of a run: each field, its default and its reason. Imports no TensorFlow.

A file in `configs/` starts from `base_config()` and changes what its experiment is about.
Marks in the comments: [P] the paper's value, [R] recalled from it, unverified.
"""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from jest_tf.errors import UserError, explaining, nearest
from jest_tf.files import read_object

SAME_CAPTION = ("negative", "ignore")
STRATEGIES = ("default", "mirrored", "multi_worker", "tpu")
PRECISIONS = ("float32", "bfloat16")
VARIANTS = ("nano", "mu", "Ti", "S", "B", "L", "custom")
RESIZES = ("bilinear", "bicubic", "bilinear_plain")
AUGMENTATIONS = ("flip", "colour", "cutout", "crop")
AUTO = "auto"  # of model.init_bias, instead of a number: by the size of the batch
HELD_OUT = "held_out"  # data of an evaluation: what `data.eval_share` keeps out of training


_TOWER = {
    "train": "full",  # full | frozen | last:K (the last K blocks and what comes after them)
    "learning_rate": 1.0,  # multiplies optimizer.learning_rate
}
_APPROXIMATION = {
    "resolution": "",  # "IMAGE/PATCH"; empty: that of the training at this step
    "image_depth": 0,  # first blocks of the image tower; 0: all
    "text_depth": 0,  # first blocks of the text tower; 0: all
    "n_tokens": 0,  # of text; 0: all
}
# Every field of a run with its default. Sizes are those of the laptop model (`mu`).
DEFAULTS = {
    "name": "run",  # shown in reports and results
    "seed": 0,  # the only source of randomness: initialisation, data order, selection draws
    "total_steps": 1000,  # gradient steps
    "loss": "sigmoid",  # training loss and pair loss of the scores, sigmoid as in SigLIP [P]
    # Rows of a batch whose captions have the same tokens: negative, as in the paper | ignore (they
    # are no negatives of each other, in the loss and in the selection).
    "same_caption": "negative",
    "precision": "float32",  # bfloat16 on TPU; slower than float32 on CPUs
    "data": {
        "train": "",  # tfds:NAME[/CONFIG][:SPLIT] or the path of a manifest
        # Share of each shard of `train`, at its end, that is kept out of training for the
        # evaluations whose data is `held_out`. 0: none.
        "eval_share": 0.0,
        "prefilter": 1.0,  # share of a lane's records that is decoded, the best by reference.cache
        "tfds_module": "",  # Python module that registers a TFDS builder of your own
        "data_dir": "data/prepared",  # where TFDS sets and vocabularies are prepared once
        "image_size": 64,  # pixels that the host hands to the device; at least all resolutions
        "n_tokens": 16,  # text length [R: 64 in the paper]; emoji captions have 4 words on average
        # .txt (wordpiece), .model (SentencePiece), or a workdir whose tokenizer is taken with all
        # its rules (padding, case, punctuation). Empty: trained from captions.
        "vocab": "",
        "vocab_from": "",  # whose captions, as `train`; empty: those of `train`
        "vocab_size": 4096,  # of a trained vocabulary [R: 32,000 in the paper]
        # How pictures are resized: bilinear | bicubic, antialiased, or bilinear_plain without (as
        # big_vision does). A reference that runs beside the learner must agree.
        "resize": "bilinear",
        "n_lanes": 8,  # data lanes: independent reading orders; a multiple of the number of hosts
        "shuffle": True,  # off only to look at data in file order
        "max_bad_share": 0.05,  # share of unusable records above which the run saves and stops
        # Augmentation of the selected images, drawn by seed, step and row: flip, colour, cutout,
        # crop.
        "augment": (),  # none, as in SigLIP
    },
    "model": {
        "variant": "mu",  # nano | mu | Ti | S | B | L [P: B] | custom: see `sizes`
        "sizes": {},  # custom: image, text, embed_dim, vocab_size
        "image_size": 48,  # pixels, full resolution: where evaluation and export happen
        "patch_size": 8,  # pixels [P: 16 at 256 px]
        # A workdir (of a run or an import) whose weights the learner starts from. Its variant,
        # sizes and text and pixel rules are taken too; an image_size or patch_size of 0 is also its
        # own, and another one resizes its weights as FlexiViT does. The optimizer starts afresh.
        "init": "",
        "init_scale": 10.0,  # SigLIP [P]
        # SigLIP [P]; suits b = 32,768. auto: -log(sub_batch), for a learner with `init` as well.
        "init_bias": -10.0,
        "train_scale": True,  # off: the scale of the logits stays as it starts
        "train_bias": True,  # off: their bias stays
        # cache: folder of a frozen image tower's embeddings of the data, computed where it is
        # missing. The steps then read no pictures.
        "image": {**_TOWER, "cache": ""},
        "text": {**_TOWER, "train_embedding": True},  # off: the token table stays as it starts
        # rank: of low-rank adapters on the kernels of attention and MLP, in the blocks that train;
        # all else of the towers is then frozen. They are merged into the kernels on export. 0:
        # none.
        "lora": {
            "rank": 0,
            "alpha": 16.0,  # an adapter adds alpha / rank times its product
        },
    },
    "reference": {
        "workdir": "",  # a finished run whose newest checkpoint is the frozen reference
        "cache": "",  # folder of its embeddings (jest_tf.cache_reference): no forward pass per step
        # Clean pairs that no run trained on, named as data.train: the reference's scale and bias
        # are fitted to them for the run's loss and sub_batch. Empty: they stay as they are.
        "calibrate": "",
        # Weight of distilling the reference's softmax over the sub-batch, added to the loss (ACED,
        # arXiv 2411.18674); 0: none, as in the paper. It reuses the embeddings that scored the
        # batch.
        "distillation": 0.0,
    },
    "selection": {
        "policy": "uniform",  # joint | independent_top_k | independent_sampled | uniform
        "criterion": "learnability",  # learnability | hard_learner | easy_reference [P]
        # Weight of the learner's loss in `learnability` [P: 1]. At 1, learned and wrong pairs score
        # about 0. Below 1, learned pairs score higher: for data that is seen more than once.
        "learner_weight": 1.0,
        "super_batch": 128,  # examples loaded (and scored) per step, B [P: 163,840]
        "sub_batch": 128,  # examples trained on per step, b [P: 32,768]
        "n_chunks": 16,  # draws of b / n_chunks examples each [P]
        "temperature": 1.0,  # divides the logits before the draw; 1.0 is the paper
        # True: take the best instead of sampling. At a small b, the noise of the draw costs more
        # joint score than the pair terms add (docs/results.md).
        "greedy": False,
        "scope": "global",  # global: a replica may give any number | replica: each gives b / R
    },
    "resolution": {
        "stages": (),  # (fraction of training, "IMAGE/PATCH") in order; empty: full resolution
        "random": (),  # "IMAGE/PATCH" to draw from, as FlexiViT does; not together with stages
        "hold_steps": 1,  # steps for which a drawn resolution stays; a multiple of steps_per_loop
        "score": {**_APPROXIMATION},  # of the learner at scoring [P: 32 px patches instead of 16]
        "reference": {**_APPROXIMATION},  # of the reference at scoring
        # Share of the sub-batch that trains at the scoring resolution, depth and text length.
        # Without it the cheap scores get worse during training. [P: 0.5 for Flexi-JEST]
        "low_share": 0.0,
    },
    "optimizer": {
        "learning_rate": 1e-3,  # peak, AdamW [R]
        "weight_decay": 1e-4,  # decoupled, of matrices only: multiplied by the learning rate [R]
        "beta_1": 0.9,  # Adam's default
        "beta_2": 0.95,  # steadier than 0.999 with a sigmoid loss [R]
        "clip_norm": 1.0,  # of the global gradient, after the all-reduce [R]
        "warmup_steps": 100,  # linear, then cosine to zero
        # Decay of an exponential moving average of the trained weights, which is what is evaluated,
        # exported and used as a reference; 0: none. 0.999 remembers about 1,000 steps.
        "ema": 0.0,
    },
    "strategy": {
        "kind": "default",  # default | mirrored | multi_worker | tpu
        "n_devices": 0,  # mirrored: GPUs, 0: all of them; without GPUs logical CPU devices (tests)
        "tpu": "local",  # tpu: `local` on one TPU VM, or the name of a pod slice
        "steps_per_loop": 1,  # steps per call from the host; 10-100 on TPU keeps Python out
        "jit_compile": True,  # XLA; off starts faster, for tests and debugging
        "deterministic": False,  # bit-identical reruns on one machine, slower on GPUs
        # Examples per replica in one pass; 0: all. It fits any batch; a larger one is embedded
        # twice.
        "micro_batch": 0,
        "recompute": False,  # keep only the inputs of blocks, compute them again for the gradient
    },
    "checkpoint": {
        "every_minutes": 10.0,  # 0: never by time
        "every_steps": 0,  # 0: never by steps; the last step is always saved
        "keep": 3,  # newest checkpoints kept
    },
    "log": {
        "every_steps": 20,  # scalars, JSON lines
        # Keeps selected and rejected examples to look at; a multiple of every_steps. After 100
        # times it gets rarer, so that the log of a long run stays small.
        "samples_every_steps": 100,
        "samples_per_group": 16,  # examples of each group; 16 emoji take 0.1 MB
        "picks_every_steps": 1,  # ids of the selected examples, 8 bytes each; 0: never
        # Records with counts and losses at most, 40 bytes each; of more, every k-th has them. 0:
        # none.
        "ledger_records": 50_000_000,
        "max_refused_steps": 20,  # refused steps in a row after which the run stops
        # With model.init: the run stops once the first metric of an evaluation is below this share
        # of what it was at step 0. 0: never.
        "min_score_share": 0.0,
    },
    "profile": {
        "steps": "",  # "10-15": traces these steps for TensorBoard's Profile tab; a trace is large
    },
    "evals": {},  # name -> evaluation(...)
}


def base_config() -> ConfigDict:
    number_or_text = config_dict.FieldReference(DEFAULTS["model"]["init_bias"], field_type=object)
    return ConfigDict(DEFAULTS | {"model": DEFAULTS["model"] | {"init_bias": number_or_text}})


def profiled_steps(text: str) -> tuple[int, int] | None:
    """First and last step of `profile.steps` ("10-15", "10"), None where empty; else UserError."""
    if not text:
        return None
    first, dash, last = text.partition("-")
    if not (first.isdecimal() and (last.isdecimal() or not dash)):
        raise UserError(f"profile.steps is {text!r}; expected steps such as 10-15, or 10.")
    steps = int(first), int(last or first)
    if not 1 <= steps[0] <= steps[1]:
        raise UserError(f"profile.steps is {text!r}; expected steps from 1 on, the last not lower.")
    return steps


def evaluation(kind: str, data: str, every_steps: int = 0, **options) -> ConfigDict:
    """One evaluation: kind of `KINDS`, data named as for training; every_steps 0: at the end."""
    return ConfigDict({"kind": kind, "data": data, "every_steps": every_steps, **options})


def set_batches(config: ConfigDict, policy: str, sub_batch: int, filter_by: int = 5) -> None:
    """Sets the policy, b, and a super-batch that the lanes of data can share.

    filter_by: B/b of a selecting policy; 5 is filter ratio 0.8, the paper's default. Uniform loads
    6% more than it trains on, so that a step survives a few unusable records.
    """
    loaded = sub_batch * (17 / 16 if policy == "uniform" else filter_by)
    config.selection.policy, config.selection.sub_batch = policy, sub_batch
    config.selection.super_batch = config.data.n_lanes * math.ceil(loaded / config.data.n_lanes)


def settle(config: ConfigDict) -> None:
    """Names the two parts of data that `data.eval_share` splits; a second call changes nothing.

    `data.train` becomes `NAME#all_but=SHARE`; evaluations of `held_out` read `NAME#held_out=…`.
    """
    share, train = config.data.eval_share, config.data.train.partition("#all_but=")[0]
    if share and train:
        config.data.train = f"{train}#all_but={share}"
    for spec in config.evals.values():
        if spec.data == HELD_OUT and share:
            spec.data = f"{train}#held_out={share}"


def parse_arg(arg: str, **defaults) -> ConfigDict:
    """Reads the text behind the colon of `--config=FILE:ARG`: `name=value`s, or `name` for a
    boolean.

    `defaults` are the names that this config knows, and give the types. UserError: an unknown name
    or a wrong type, with the nearest valid name.
    """
    values = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        name, _, text = item.partition("=")
        if name not in defaults:
            hint = nearest(name, defaults)
            raise UserError(
                f"config argument {name!r} is unknown{hint}. Valid: {', '.join(defaults)}."
            )
        kind, default = type(defaults[name]), defaults[name]
        if kind is bool:
            if text not in ("", "1", "0", "true", "false", "True", "False"):
                raise UserError(f"config argument {name}={text!r}: expected true or false.")
            values[name] = text not in ("0", "false", "False")
            continue
        told = f"config argument {name}={text!r}: expected {kind.__name__}, as {default!r}."
        with explaining(ValueError, told):
            values[name] = kind(text)
    if values.get("sub_batch", 1) < 1:  # configs divide by it
        raise UserError(f"config argument sub_batch={values['sub_batch']}: expected at least 1.")
    return ConfigDict(values)


def flat(values: Mapping, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value of all fields of nested dicts or ConfigDicts."""
    found = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping | ConfigDict)
        found |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found


ABSENT = "(absent)"


def differences(*configs: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Dotted field → its value in each config, or ABSENT, of the fields in which they differ."""
    values = [flat(config) for config in configs]
    rows = {name: [v.get(name, ABSENT) for v in values] for name in sorted(set().union(*values))}
    return {name: row for name, row in rows.items() if any(value != row[0] for value in row)}


def needs_reference(config: ConfigDict) -> bool:
    """Whether the policy's scores depend on the reference model, or the learner learns from it."""
    s = config.selection
    scores = s.policy != "uniform" and s.criterion != "hard_learner"
    return scores or config.reference.distillation > 0


# Of config.json. Raised when a field changes its meaning; a new field with a default needs nothing.
SCHEMA = 1
_KEY = "schema"


def to_store(config: Mapping[str, Any]) -> dict[str, Any]:
    return {_KEY: SCHEMA, **config}


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """The config of the run in a workdir, as a nested dict; UserError: none that can be read."""
    file = Path(path) / "config.json"
    if not file.exists():
        raise UserError(f"{path} is not the workdir of a run: it has no config.json.")
    config = read_object(file, "config of a run")
    for problem in _of_another_type(base_config().to_dict(), config):
        raise UserError(f"{file}: {problem} Restore it as the run wrote it.")
    return config


def _of_another_type(defaults: Mapping[str, Any], stored: Mapping[str, Any]) -> Iterator[str]:
    for name, value in stored.items():
        default = defaults.get(name, value)
        kind, expected = _kind(value), _kind(default)
        if kind != expected and (name, value) != ("init_bias", AUTO):
            yield f"{name} is {str(value)[:80]!r}, a {kind}; expected a {expected}."
        elif kind == _kind({}):
            for problem in _of_another_type(default, value):
                yield f"{name}.{problem}"


def _kind(value: Any) -> str:
    kinds = {bool: "truth value", int | float: "number", str: "text", Mapping: "group of fields"}
    return next((name for kind, name in kinds.items() if isinstance(value, kind)), "list")


def completed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of this version, overlaid by `stored`; UserError: a newer one wrote it."""
    schema = stored.get(_KEY, 1)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise UserError(
            f"a newer version of jest_tf wrote this run (config schema {schema}; this one reads "
            f"up to {SCHEMA}). Install that version, or a later one."
        )
    fields = {key: value for key, value in stored.items() if key != _KEY}
    return _overlaid(base_config().to_dict(), fields)


def _overlaid(defaults: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(defaults)
    for key, value in stored.items():
        default = defaults.get(key)
        # Groups that are empty by default hold names of the user's: they are taken as they are.
        is_group = isinstance(value, Mapping) and isinstance(default, Mapping) and default
        found[key] = _overlaid(default, value) if is_group else value
    return found
