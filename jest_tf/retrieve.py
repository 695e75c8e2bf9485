"""Searches images by text or by image, with an exported model.

    python -m jest_tf.retrieve index --images=PHOTOS --model=EXPORT --out=INDEX
    python -m jest_tf.retrieve query --index=INDEX --text="a red apple" -k 10 --out=FOUND

`index` adds to an existing index: it skips known images and replaces changed ones. `query` writes
FOUND/contact_sheet.png and FOUND/results.json. docs/retrieval.md describes the index format.
"""

import sys
import time

from jest_tf import cli
from jest_tf.errors import UserError

STDIN = "-"
FLAGS, _flag = cli.own_flags()
_MODEL = _flag("string", "model", None, "Folder of an export; query: by default the index's own.")
_IMAGES = _flag(
    "string", "images", None, "index: a folder, searched with its subfolders, "
    "tfds:NAME[/CONFIG][:SPLIT], or what `prepare` wrote.",
)  # fmt: skip
_DATA_DIR, _TFDS_MODULE = cli.data_flags(_flag, "index: where TFDS sets are prepared.")
_BATCH_SIZE = _flag("integer", "batch_size", 128, "index: images at a time.", lower_bound=1)
_INDEX = _flag("string", "index", None, "query: folder of the index.")
_TEXT = _flag("multi_string", "text", [], "query: a text, repeatable; -: of stdin, one a line.")
_IMAGE = _flag("multi_string", "image", [], "query: an image file; may be given several times.")
_K = _flag("integer", "k", 10, "query: images to find.", lower_bound=1)
_OUT = _flag("string", "out", None, "index: its folder; query: where to write what was found.")


def main(argv: list[str]) -> None:
    commands = {"index": _index, "query": _query}
    if len(argv) != 2 or argv[1] not in commands:
        raise UserError(
            f"expected one command, index or query, found {argv[1:] or 'none'}; what is looked "
            "for goes into --text or --image, see --help"
        )
    (other,) = commands.keys() - {argv[1]}
    for name in FLAGS:
        text = FLAGS[name].help
        if FLAGS[name].present and text.startswith(f"{other}:") and f"{argv[1]}:" not in text:
            raise UserError(f"--{name} is a flag of `retrieve {other}` alone; leave it out")
    try:
        commands[argv[1]]()
    except OSError as error:
        raise UserError(f"{error.filename or _OUT.value}: {error.strerror or error}") from error


def _index() -> None:
    _require(images=_IMAGES.value, model=_MODEL.value, out=_OUT.value)
    from jest_tf.data.sources import register
    from jest_tf.runtime.strategy import of_machine
    from jest_tf.serving import indexing  # TensorFlow: after the flags
    from jest_tf.serving.encoders import ExportEncoder

    register(_TFDS_MODULE.value)
    started = time.monotonic()
    encoder = ExportEncoder.on_all(_MODEL.value, of_machine())
    report = indexing.add_images(
        _OUT.value, _IMAGES.value, encoder, _BATCH_SIZE.value, _DATA_DIR.value
    )
    seconds = time.monotonic() - started
    print(f"{_OUT.value}: {report.text()} ({seconds:.1f} s)")


def _query() -> None:
    _require(index=_INDEX.value)
    if not _TEXT.value and not _IMAGE.value:
        raise UserError("nothing to look for: give --text or --image")
    if not all(text.strip() for text in _TEXT.value):
        raise UserError("--text is empty; expected the words to look for")
    if STDIN in _TEXT.value and (len(_TEXT.value) > 1 or _IMAGE.value or _OUT.value):
        raise UserError(
            f"--text={STDIN} takes all queries from stdin and only prints: give it without another "
            "--text, --image or --out"
        )
    from jest_tf.serving import querying

    searcher = querying.Searcher(_INDEX.value, _MODEL.value)
    if STDIN in _TEXT.value:
        for text in filter(None, map(str.strip, sys.stdin)):
            _show(searcher.find([text], [], _K.value))
        return
    found = searcher.find(_TEXT.value, _IMAGE.value, _K.value)
    _show(found)
    seconds = found["seconds"]
    print(
        f"loaded in {seconds['load']:.1f} s, answered in {seconds['query']:.2f} s; several --text, "
        f"or --text={STDIN} with one text a line on stdin, load once"
    )
    if _OUT.value:
        sheet, results = searcher.write(_OUT.value, found)
        print(f"contact sheet: {sheet}\nresults: {results}")


def _show(found: dict) -> None:
    for query in found["queries"]:
        print(_line(query.get("text") or query["image"]))
        for hit in query["results"]:
            print(f"  {hit['rank']:3d}  {hit['score']:.4f}  {_line(hit['label'] or hit['id'])}")
    sys.stdout.flush()


def _line(text: str) -> str:
    """A caption on one line, whatever white space it holds."""
    return " ".join(text.split())


def _require(**flags_given: str | None) -> None:
    missing = [f"--{name}" for name, value in flags_given.items() if not value]
    if missing:
        raise UserError(f"{', '.join(missing)} missing; see --help")


if __name__ == "__main__":
    cli.run(main, FLAGS, kept="what an index has committed is kept; the same command goes on")
