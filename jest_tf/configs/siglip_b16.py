"""SigLIP ViT-B/16, 256 px, uniform sampling: the baseline of the paper. Not run at this scale.

    python -m jest_tf.check --config=configs/siglip_b16.py --nodata --compile_for=v5p:4x4x8
    python -m jest_tf.train --config=configs/siglip_b16.py:data=gs://BUCKET/laion.json \
        --config.strategy.tpu=NAME --workdir=/mnt/BUCKET/siglip_b16

Arguments: `data=` a manifest of img2dataset TFRecords or `tfds:laion400m/images:train`, `vocab=` a
SentencePiece model, `sub_batch=`, `examples=` (trained, in millions), `seed=`.

A workdir is a mounted folder; records may lie in gs://, where every host can read them.

Where the numbers come from: [P] read in the paper (arXiv 2406.17711) or two independent sources;
[R] recalled from it and unverified; [S] SigLIP (arXiv 2303.15343) and its public code; [own] ours.
"""

from ml_collections import ConfigDict

from jest_tf.config import base_config, evaluation, parse_arg

# C4 English, 32,000 pieces [R, S]. Once, into the mounted bucket:
#   gcloud storage cp gs://t5-data/vocabs/cc_en.32000/sentencepiece.model /mnt/BUCKET/
SENTENCEPIECE = "/mnt/BUCKET/sentencepiece.model"


def get_config(arg: str = "") -> ConfigDict:
    a = parse_arg(
        arg,
        data="tfds:laion400m/images:train",
        vocab=SENTENCEPIECE,
        sub_batch=32_768,  # b [P]
        examples=3_000,  # millions trained, of the ablations; 4,000 in the headline [R]
        seed=0,
    )
    c = base_config()
    c.name = "siglip_b16"
    c.seed = a.seed
    c.loss = "sigmoid"  # [P]
    c.precision = "bfloat16"  # towers; weights, optimizer, norms and selection in float32 [own]
    _data(c, a)
    _model(c)
    _optimizer(c)
    c.selection.sub_batch = c.selection.super_batch = a.sub_batch  # uniform trains on all it loads
    c.total_steps = a.examples * 1_000_000 // a.sub_batch
    c.strategy.kind = "tpu"
    c.strategy.steps_per_loop = 50  # seconds of work a call, so that Python is not in the way [own]
    c.checkpoint.every_minutes = 20.0  # what a preemption costs at most [own]
    c.log.every_steps = 50
    c.log.picks_every_steps = 100  # 32,768 ids of 8 bytes a step would be 24 GB in all [own]
    _evaluations(c)
    return c


def _data(c: ConfigDict, a: ConfigDict) -> None:
    c.data.train = a.data
    c.data.vocab = a.vocab
    c.data.vocab_size = 32_000  # [R]
    c.data.n_tokens = 64  # [R]
    c.data.image_size = 256  # what hosts deliver: the largest resolution [R]
    c.data.n_lanes = 64  # up to 64 hosts (256 chips of v5e); part of the data order [own]


def _model(c: ConfigDict) -> None:
    c.model.variant = "B"  # ViT-B and a text tower of BERT-B's size [P]
    c.model.image_size = 256  # [P]
    c.model.patch_size = 16  # [P]
    c.model.init_scale = 10.0  # [S]
    c.model.init_bias = -10.0  # [S]


def _optimizer(c: ConfigDict) -> None:
    c.optimizer.learning_rate = 1e-3  # [R]
    # 1e-4 of a weight per step at the peak [R]. SigLIP's code applies the decay beside the learning
    # rate [S], Keras multiplies it by the learning rate: hence 1e-4 / 1e-3.
    c.optimizer.weight_decay = 1e-4 / 1e-3
    c.optimizer.beta_1 = 0.9  # [S]
    c.optimizer.beta_2 = 0.95  # [R, S]
    c.optimizer.clip_norm = 1.0  # [R]
    c.optimizer.warmup_steps = 5_000  # linear [R]; its length is ours [own]


def _evaluations(c: ConfigDict) -> None:
    c.evals.imagenet_zero_shot = evaluation(
        "zero_shot", "tfds:imagenet2012:validation", every_steps=10_000
    )
    c.evals.coco_retrieval = evaluation("retrieval", "tfds:coco_captions:test", every_steps=10_000)
    c.evals.imagenet_10_shot = evaluation(
        "few_shot",
        "tfds:imagenet2012:validation",
        train="tfds:imagenet2012:train[:99%]",
        validation="tfds:imagenet2012:train[99%:]",
        shots=(10,),  # the paper's ImageNet column [R]
    )
