"""A search page for your own pictures, and JSON behind it.

    python -m jest_tf.serve --index=INDEX
    python -m jest_tf.serve --index=PHOTOS,DRAWINGS --port=8600

`jest retrieve index` makes an index. The page searches by text or by a picture that you drop on it.
It is for this machine alone unless --host says otherwise; there is no password. docs/serving.md.
"""

import contextlib
import itertools
import logging
import pathlib
import socket
from collections.abc import Iterator

from jest_tf import cli, config_flag
from jest_tf.errors import UserError, explaining

LOOPBACK = ("127.0.0.1", "localhost")
THREADS = 8
FLAGS, _flag = cli.own_flags()
_INDEX = _flag("multi_string", "index", [], "Folder of an index; repeat it, or commas, for more.")
_MODEL = _flag("string", "model", None, "Folder of the export, if it moved since the index.")
_HOST = _flag("string", "host", "127.0.0.1", "Address; 0.0.0.0: the whole network may ask.")
_PORT = _flag(
    "integer", "port", 8501, "Port; 0: any that is free.", lower_bound=0, upper_bound=65535
)


def main(argv: list[str]) -> None:
    config_flag.refuse_extra(argv)
    folders = [folder for several in _INDEX.value for folder in several.split(",") if folder]
    if not folders:
        raise UserError("--index is missing. Make one: jest retrieve index --images=… --out=…")
    text = "{error}, which the search page needs: pip install 'jest_tf[serve]'"
    with explaining(ImportError, text, lambda error: f"{error.name} is not installed"):
        import flask  # noqa: F401
        import waitress
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # waiting is no fault
    with listening():  # now, and not after the models are loaded
        family = socket.AF_INET6 if ":" in _HOST.value else socket.AF_INET
        socket.create_server((_HOST.value, _PORT.value), family=family).close()
    app, n_images = make_app(folders)
    with listening():
        server = waitress.create_server(
            app, host=_HOST.value, port=_PORT.value, threads=THREADS, ident=None
        )
    if _HOST.value not in LOOPBACK:
        print("everyone who reaches this machine can search these pictures: there is no password")
    host = f"[{_HOST.value}]" if ":" in _HOST.value else _HOST.value
    print(
        f"{n_images:,} pictures at http://{host}:{server.effective_port}/ (Ctrl-C ends it)",
        flush=True,
    )
    server.run()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Explains why this machine does not let the page listen at that address."""
    text = f"cannot listen at --host={_HOST.value} --port={_PORT.value}: {{error}}. Another --port,"
    with explaining((OSError, ValueError), text + " or --port=0 for any that is free.", str):
        yield


def make_app(folders: list[str]):
    """The app for these indexes, and how many pictures they hold."""
    from jest_tf.progress import Counter
    from jest_tf.serving import web
    from jest_tf.serving.querying import Searcher

    searchers, encoders = {}, {}
    with Counter("loading", len(folders), "indexes") as counter:
        for folder in counter.over(folders):
            own = pathlib.Path(folder).resolve().name
            names = itertools.chain([own], (f"{own}~{number}" for number in itertools.count(2)))
            name = next(name for name in names if name not in searchers)
            searchers[name] = Searcher(folder, _MODEL.value, encoders)
    hosts = LOOPBACK if _HOST.value in LOOPBACK else None
    return web.make_app(searchers, hosts), sum(len(one.index) for one in searchers.values())


if __name__ == "__main__":
    cli.run(main, FLAGS, kept="nothing was being written")
