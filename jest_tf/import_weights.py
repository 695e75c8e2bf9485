"""Makes a run at step 0 from public SigLIP weights: a start, a reference, a model to evaluate.

    python -m jest_tf.import_weights --from=siglip-base-patch16-224 --out=runs/siglip
    python -m jest_tf.import_weights --from=webli_en_b16_224.npz --vocab=sentencepiece.model \
        --out=runs/siglip --check=stored_embeddings.npz

Reads Hugging Face folders (config.json, model.safetensors), big_vision .npz files, open_clip / timm
safetensors and keras-hub weights (docs/weights.md). Downloads nothing and reads no pickle.
"""

from jest_tf import cli, config_flag
from jest_tf.errors import UserError

FLAGS, _flag = cli.own_flags()
_FROM = _flag("string", "from", None, "File or folder of the weights.")
_OUT = _flag("string", "out", None, "Workdir to write; it must not exist.")
_flag("string", "vocab", "", "SentencePiece file, where none lies beside the weights.")
_flag("string", "check", "", ".npz of images, tokens, zimg, ztxt to equal within 1e-5.")
_flag("string", "trim_vocab", "", "Data set: keep only token rows that its captions use.")
_HEADS = _flag("list", "heads", [], "IMAGE,TEXT attention heads, where no file tells.")
_flag(
    "integer", "image_size", 0, "Side of the pictures in pixels, if no file tells.", lower_bound=0
)
_flag(
    "enum", "resize", "", "How pictures are resized (`data.resize`), instead of what the files "
    "say.", enum_values=["", "bilinear", "bicubic", "bilinear_plain"],
)  # fmt: skip
_flag(
    "enum", "text", "", "How text is tokenized, instead of what the files say.",
    enum_values=["", "siglip", "siglip2", "plain"],
)  # fmt: skip
_flag("string", "data_dir", None, "Where TFDS keeps its sets.")


def main(argv: list[str]) -> None:
    config_flag.refuse_extra(argv)
    if not _FROM.value or not _OUT.value:
        raise UserError("give --from (weights that you downloaded) and --out (a new workdir)")
    heads = _HEADS.value
    if heads and (len(heads) != 2 or not all(n.strip().isdecimal() and int(n) for n in heads)):
        raise UserError(f"--heads={','.join(heads)}: expected IMAGE,TEXT, such as 12,12")
    from jest_tf.training.run.imported import Options, import_run  # TensorFlow: after the flags

    given = {name: FLAGS[name].value for name in FLAGS if name not in ("from", "out")}
    given["heads"] = (int(heads[0]), int(heads[1])) if heads else None
    import_run(_FROM.value, _OUT.value, Options(**given))


if __name__ == "__main__":
    cli.run(main, FLAGS)
