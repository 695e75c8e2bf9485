"""Learns a WordPiece vocabulary from the captions of a data set.

    python -m jest_tf.data.train_tokenizer --data=tfds:emoji_captions/pool:train --out=vocab.txt

Several sets may be joined by commas. Reads captions only; at most --max_captions of them.
"""

import sys
import time

from absl import app, flags

_DATA = flags.DEFINE_string("data", None, "Data set, as for training.", required=True)
_OUT = flags.DEFINE_string("out", None, "Vocabulary to write (.txt).", required=True)
_SIZE = flags.DEFINE_integer("vocab_size", 4096, "Tokens, at most.", lower_bound=64)
_MAX = flags.DEFINE_integer("max_captions", 1_000_000, "Captions to learn from, at most.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps its sets.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    # TensorFlow takes seconds to import: after the flags were found to be right.
    from jest_tf.data import records, sources, tokenizer
    from jest_tf.errors import UserError

    try:
        start = time.time()
        manifest = sources.open_source(_DATA.value, _DATA_DIR.value)
        captions = records.read_captions(manifest, _MAX.value)
        print(f"{len(captions):,} captions of {manifest.name}", flush=True)
        size = tokenizer.train_wordpiece(captions, _SIZE.value, _OUT.value)
        print(f"{size:,} tokens -> {_OUT.value} in {time.time() - start:.0f} s")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main)
