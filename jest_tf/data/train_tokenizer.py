"""Learns a WordPiece vocabulary from the captions of a data set.

    python -m jest_tf.data.train_tokenizer --data=tfds:emoji_captions/pool:train --out=vocab.txt

Several sets may be joined by commas. Reads captions only; at most --max_captions of them.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from jest_tf.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (2: an error that the message explains)."""
    parser = argparse.ArgumentParser(
        prog="python -m jest_tf.data.train_tokenizer", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", required=True, help="data set, as for training")
    parser.add_argument("--out", required=True, help="vocabulary to write (.txt)")
    parser.add_argument("--vocab_size", type=int, default=4096, help="tokens, at most")
    parser.add_argument("--max_captions", type=int, default=1_000_000)
    parser.add_argument("--data_dir", help="where TFDS keeps its sets")
    args = parser.parse_args(argv)
    # TensorFlow takes seconds to import: after the flags were found to be right.
    from jest_tf.data import records, sources, tokenizer

    try:
        start = time.time()
        manifest = sources.open_source(args.data, args.data_dir)
        captions = records.read_captions(manifest, args.max_captions)
        print(f"{len(captions):,} distinct captions of {manifest.name}", flush=True)
        size = tokenizer.train_wordpiece(captions, args.vocab_size, args.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{size:,} tokens -> {args.out} in {time.time() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
