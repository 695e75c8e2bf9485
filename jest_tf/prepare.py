"""Turns your image-text pairs into what training reads: TFRecord shards and a manifest.

    python -m jest_tf.prepare folder      photos/            --out=data/mine --max_side=256
    python -m jest_tf.prepare webdataset  'tars/*.tar'       --out=data/web
    python -m jest_tf.prepare csv         train.tsv          --out=data/csv
    python -m jest_tf.prepare parquet     'hub/*.parquet'    --out=data/hub
    python -m jest_tf.prepare webdataset  'tars/*.tar'       --out=data/web  --in_place
    python -m jest_tf.prepare img2dataset 'out/*.tfrecord'   --out=data/web   (in place)

Paths may be files, folders, 'globs*' and {00000..00099}; local or gs://. Rerunning goes on where it
stopped. On several machines: --runner=FlinkRunner -- and options of Apache Beam. Records that
cannot be used are left out, counted, and listed with the reason in rejected.jsonl.
docs/your_data.md says what is read of each format.
"""

from jest_tf import cli
from jest_tf.data import units
from jest_tf.errors import UserError

KINDS = ("folder", "webdataset", "csv", "parquet", "img2dataset")

FLAGS, _flag = cli.own_flags()
_flag("string", "out", None, "Folder to write, local or gs://.")
_flag("string", "name", None, "Of the source, in logs and ids; default: its folder's.")
_flag("integer", "max_side", None, "Pixels of the shorter side; larger ones shrink.", lower_bound=2)
_flag(
    "boolean", "in_place", False, "webdataset: no copy of the pictures. --out gets captions, ids "
    "and where each picture lies; training reads it from the tar.",
)  # fmt: skip
_flag("integer", "records_per_shard", 1000, "Records of a file that is written.", lower_bound=1)
_flag("integer", "workers", 8, "Threads.", lower_bound=1)
units.runner_flag(_flag)
_flag(
    "string", "captions", None, "folder: its caption file: .csv, .tsv, .jsonl, COCO's or "
    "Karpathy's .json, Flickr's .token. By default metadata.jsonl, metadata.csv, captions.csv … "
    "in any of its folders.",
)  # fmt: skip
_flag("list", "split", [], "folder: splits of Karpathy's JSON, e.g. train,restval; default: all.")
_flag("string", "image_column", None, "Column with pictures or their paths; default: a usual name.")
_flag("string", "caption_column", None, "Column or field with the captions; default: a usual name.")
_flag("string", "label_column", None, "Column or field of the class; default: cls or label.")
_flag(
    "boolean", "classes_from_folders", False, "folder: the folder that holds a picture names its "
    "class. Where a picture has no caption, the name of its class is its caption.",
)  # fmt: skip
_flag("string", "separator", None, "Of a table's columns, e.g. ';', or '\\t'; default: found.")
_flag(
    "boolean", "quotes", True, "Cells of a table may be \"quoted\". --noquotes: a quotation mark "
    "is a character like others.",
)  # fmt: skip
_flag("boolean", "allow_outside", False, "Read pictures that a table or a link names elsewhere.")
_flag(
    "float", "max_rejected", 0.5, "Share of the records that may be rejected; more is an error.",
    lower_bound=0, upper_bound=1,
)  # fmt: skip
_flag("boolean", "overwrite", False, "Prepare all again into a folder that holds something else.")

# Flags that some kinds alone read: with another one they would change nothing.
_COPIES = ("folder", "webdataset", "csv", "parquet")
READ_BY = {
    **dict.fromkeys(("captions", "split", "classes_from_folders"), ("folder",)),
    **dict.fromkeys(("separator", "quotes"), ("folder", "csv")),
    "image_column": ("folder", "csv", "parquet", "img2dataset"),
    "allow_outside": ("folder", "csv", "parquet"),
    **dict.fromkeys(("label_column", "max_side", "max_rejected", "records_per_shard"), _COPIES),
}


def main(argv: list[str]) -> int:
    argv, beam = units.beam_of(argv, FLAGS.runner)
    kind, paths = (argv[1], tuple(argv[2:])) if len(argv) > 1 else ("", ())
    if kind not in KINDS or not paths:
        raise UserError(
            f"expected a kind ({', '.join(KINDS)}) and files or a folder, found "
            f"{' '.join(argv[1:]) or 'nothing'}; see --help."
        )
    for name, kinds in READ_BY.items():
        if kind not in kinds and FLAGS[name].value != FLAGS[name].default:
            raise UserError(
                f"--{name} is for the kind {' or '.join(kinds)}; {kind} does not read it. Leave it "
                "out."
            )
    if not FLAGS.out:
        raise UserError("--out is missing. Name the folder to write.")
    from jest_tf.data import prepare

    settings = {name: FLAGS[name].value for name in FLAGS if name != "runner"}
    settings |= {"kind": kind, "paths": paths, "split": tuple(FLAGS.split)}
    try:
        prepare.prepare(prepare.Settings(**settings), beam=beam)
    except KeyboardInterrupt:  # it has said what is kept
        return cli.EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    cli.run(main, FLAGS, kept="finished shards are kept; the same command goes on")
