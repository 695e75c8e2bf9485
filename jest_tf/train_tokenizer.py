"""Learns a WordPiece vocabulary from the captions of a data set.

    python -m jest_tf.train_tokenizer --data=data/mine --out=vocab.txt

Several sets may be joined by commas. Reads captions only; at most a million of them.
"""

import time

from jest_tf import cli, config_flag
from jest_tf.errors import UserError

MAX_CAPTIONS = 1_000_000
FLAGS, _flag = cli.own_flags()
_DATA = _flag("string", "data", None, "Data set, as for training.")
_OUT = _flag("string", "out", None, "Vocabulary to write (.txt).")
_VOCAB_SIZE = _flag("integer", "vocab_size", 4096, "Tokens, at most.", lower_bound=8)
_DATA_DIR = _flag("string", "data_dir", None, "Where TFDS keeps its sets.")


def main(argv: list[str]) -> None:
    config_flag.refuse_extra(argv)
    if not _DATA.value or not _OUT.value:
        raise UserError("give --data (as for training) and --out (the vocabulary to write)")
    from jest_tf.data import records, sources, tokenizer

    start = time.monotonic()
    manifest = sources.open_source(_DATA.value, _DATA_DIR.value)
    captions = records.read_captions(manifest, MAX_CAPTIONS)
    print(f"{len(captions):,} distinct captions of {manifest.name}", flush=True)
    size = tokenizer.train_wordpiece(captions, _VOCAB_SIZE.value, _OUT.value)
    print(f"{size:,} tokens -> {_OUT.value} in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    cli.run(main, FLAGS)
