"""The search page, and the JSON behind it, as a Flask app over open indexes.

    GET  /                  the page; its address holds the whole query, so it can be shared
    GET  /search            the same query, answered as JSON
    POST /embed             a picture (form field `picture`, or the body) or a text -> embeddings
    GET  /picture/INDEX/ROW a picture of an index, as JPEG

A query is one of `text`, `row` (of one `index`: its neighbours) and `z` (what /embed gave), with
`k` and any number of `index`. A client names rows, never paths: no path of a client is opened.
"""

import base64
import binascii
import functools
import io
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import flask
import numpy as np
from PIL import Image
from werkzeug.exceptions import HTTPException

from jest_tf.data.cleaning import check_images
from jest_tf.errors import UserError, explaining, nearest
from jest_tf.files import parse_json
from jest_tf.pages.html import render
from jest_tf.serving.querying import Searcher

MAX_UPLOAD_BYTES = 16 * 2**20
MAX_TEXT = 1000  # characters; a model reads 64 tokens or fewer
MAX_K, PAGE_K = 200, 48
SIDES = {"small": 240, "large": 1000}  # pixels of a picture's shorter side, at most
KEPT_PICTURES = 2048  # small ones in memory, 10 kB each
# A picture of 2^26 pixels takes 200 MB while it is decoded: so many at a time.
DECODERS = 2
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def make_app(searchers: Mapping[str, Searcher], hosts: Sequence[str] | None = None) -> flask.Flask:
    """The app over open indexes by name; a model may serve several.

    hosts: names by which a client may call this server; any if None. A page of another site cannot
    then reach a server of this machine under a name of its own.
    """
    app = flask.Flask("jest_tf", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_UPLOAD_BYTES
    app.config["TRUSTED_HOSTS"] = list(hosts) if hosts else None
    desk = Desk(searchers)
    code = (resources.files("jest_tf") / "templates" / "search.js").read_text(encoding="utf-8")

    @app.get("/")
    def page():
        try:
            query = desk.query()
            sections, problem = desk.answer(query), ""
        except UserError as error:
            query, sections, problem = {}, [], str(error)
        text = render(
            "search.html.j2",
            title="Search pictures",
            generated="",
            contents=[],
            names={name: len(one.index) for name, one in searchers.items()},
            chosen=flask.request.args.getlist("index"),
            query=query,
            sections=sections,
            problem=problem,
        )
        return text, 400 if problem else 200

    @app.get("/search")
    def search():
        started = time.monotonic()
        query = desk.query()
        if not query:
            raise UserError("nothing to look for: give text, z (from /embed), or index and row")
        found = {"indexes": desk.answer(query)}
        return query | found | {"seconds": round(time.monotonic() - started, 4)}

    @app.post("/embed")
    def embed():
        return desk.embed()

    @app.get("/picture/<name>/<int:row>")
    def picture(name: str, row: int):
        size = flask.request.args.get("size", "small")
        jpeg = desk.picture(name, row, size) if size in SIDES else None
        if jpeg is None:
            flask.abort(404)
        return flask.Response(jpeg, mimetype="image/jpeg", headers={"Cache-Control": "max-age=600"})

    @app.get("/search.js")
    def script():
        return flask.Response(code, mimetype="text/javascript")

    @app.after_request
    def add_headers(response: flask.Response) -> flask.Response:
        response.headers.update(HEADERS)
        return response

    @app.errorhandler(UserError)
    def refuse(error: UserError):
        return {"error": str(error)}, 400

    @app.errorhandler(HTTPException)
    def fail(error: HTTPException):
        told = {413: f"the picture is larger than {MAX_UPLOAD_BYTES / 2**20:.0f} MiB"}
        return {"error": told.get(error.code, error.description)}, error.code

    return app


class Desk:
    """Answers the requests of one app. Its methods may be called from several threads."""

    def __init__(self, searchers: Mapping[str, Searcher]):
        self._searchers = searchers
        self._encoders = {one.encoder.fingerprint: one.encoder for one in searchers.values()}
        self._decoding = threading.BoundedSemaphore(DECODERS)
        self._small = functools.lru_cache(KEPT_PICTURES)(functools.partial(self._jpeg, "small"))
        out = io.BytesIO()
        Image.new("RGB", (8, 8)).save(out, "PNG")
        self._embed_picture(out.getvalue())  # so that the first client does not wait for tracing

    def query(self) -> dict[str, Any]:
        """What this request asks for: {text}, {z} or {index, row}, and k; empty if nothing."""
        args = flask.request.args
        given = {name: args[name] for name in ("text", "row") if args.get(name, "").strip()}
        if tokens := args.getlist("z"):
            given["z"] = tokens
        if not given:
            return {}
        if len(given) > 1:
            raise UserError(f"expected one of text, row and z, got {' and '.join(given)}")
        _require_short(given.get("text", ""))
        if "row" in given:
            given |= self._row(args.getlist("index"), given["row"])
        return given | {"k": _number("k", args.get("k", str(PAGE_K)), 1, MAX_K)}

    def answer(self, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One section for each index: {index, n_images, results: [{rank, score, row, …}]}."""
        if not query:
            return []
        names = self._chosen(flask.request.args.getlist("index"))
        if "row" in query:
            of_index = self._searchers[query["index"]].index.embeddings()
            embeddings = dict.fromkeys(self._encoders, of_index[query["row"]])
        elif "text" in query:
            models = {self._searchers[name].encoder.fingerprint for name in names}
            embeddings = {m: self._encoders[m].encode_text([query["text"]])[0] for m in models}
        else:
            embeddings = self._embeddings(query["z"])
            names = [n for n in names if self._searchers[n].encoder.fingerprint in embeddings]
        return [self._section(name, embeddings, query) for name in names]

    def embed(self) -> dict[str, Any]:
        """Embeddings of the request's picture or text by every model, and the page's address."""
        request = flask.request
        upload = request.files.get("picture")
        text = request.form.get("text", "")
        if request.is_json:
            told = 'expected JSON {"text": …} with a text that is not blank'
            with explaining(ValueError, told):
                content = parse_json(request.get_data())
            text = content.get("text") if isinstance(content, dict) else None
            if not isinstance(text, str) or not text.strip():
                raise UserError(told)
        if text.strip():
            _require_short(text)
            zs = {m: one.encode_text([text])[0] for m, one in self._encoders.items()}
        else:
            zs = self._embed_picture(upload.read() if upload else request.get_data())
        tokens = {model: _token(model, z) for model, z in zs.items()}
        models = [
            {"fingerprint": model, "embedding": zs[model].tolist(), "z": token}
            for model, token in tokens.items()
        ]
        return {"models": models, "url": "/?" + "&".join(f"z={t}" for t in tokens.values())}

    def picture(self, name: str, row: int, size: str) -> bytes | None:
        """A JPEG; None where there is no such row, or its file cannot be read any more."""
        if name not in self._searchers or row >= len(self._searchers[name].index):
            return None
        return self._small(name, row) if size == "small" else self._jpeg(size, name, row)

    def _jpeg(self, size: str, name: str, row: int) -> bytes | None:
        searcher = self._searchers[name]
        with self._decoding:
            picture = searcher.picture(searcher.index.items[row], SIDES[size])
            if picture is None:
                return None
            picture.thumbnail((2 * SIDES[size], 2 * SIDES[size]), Image.Resampling.LANCZOS)
            out = io.BytesIO()
            picture.save(out, "JPEG", quality=88)
            return out.getvalue()

    def _embed_picture(self, encoded: bytes) -> dict[str, np.ndarray]:
        if not encoded:
            raise UserError("no picture came: expected the form field `picture`, or a file as body")
        with self._decoding:
            ((encoded, _, problem),) = check_images([encoded])
            if problem:
                raise UserError(problem)
            found = {m: one.encode_image_bytes([encoded]) for m, one in self._encoders.items()}
        if not all(ok[0] for _, ok in found.values()):
            raise UserError("not a readable image: the model's decoder refuses it")
        return {model: zimg[0] for model, (zimg, _) in found.items()}

    def _chosen(self, names: Sequence[str]) -> list[str]:
        names = [name for several in names for name in several.split(",") if name]
        for name in names:
            if name not in self._searchers:
                raise UserError(f"there is no index {name!r}{nearest(name, self._searchers)}")
        return list(dict.fromkeys(names)) or list(self._searchers)

    def _row(self, names: Sequence[str], row: str) -> dict[str, Any]:
        chosen = self._chosen(names)
        if len(chosen) != 1:
            raise UserError(f"row belongs to one index; give index, one of {', '.join(chosen)}")
        index = self._searchers[chosen[0]].index
        number = _number("row", row, 0, len(index) - 1)
        return {"index": chosen[0], "row": number, "label": index.items[number].label}

    def _embeddings(self, tokens: Sequence[str]) -> dict[str, np.ndarray]:
        found = {}
        for token in tokens:
            model, _, values = token.partition(".")
            encoder = self._encoders.get(model)
            if encoder is None:
                raise UserError("this address was made with another model: search again")
            found[model] = _unit(values, encoder.info["embed_dim"])
        return found

    def _section(self, name: str, embeddings: Mapping[str, np.ndarray], query: Mapping) -> dict:
        searcher = self._searchers[name]
        z = embeddings[searcher.encoder.fingerprint][None]
        hits = searcher.nearest(z, query["k"] + 1)[0]  # a picture is its own neighbour
        hits = [hit for hit in hits if hit["row"] != query.get("row", -1)][: query["k"]]
        results = [
            {
                "rank": rank,
                "score": round(hit["score"], 6),
                "row": hit["row"],
                "label": hit["label"],
                "picture": flask.url_for("picture", name=name, row=hit["row"]),
                "neighbours": flask.url_for("page", index=name, row=hit["row"]),
            }
            for rank, hit in enumerate(hits, start=1)
        ]
        return {"index": name, "n_images": len(searcher.index), "results": results}


def _require_short(text: str) -> None:
    if len(text) > MAX_TEXT:
        raise UserError(f"the text has {len(text):,} characters; at most {MAX_TEXT:,}")


def _number(name: str, text: str, low: int, high: int) -> int:
    if not text.isdecimal() or len(text) > 12 or not low <= int(text) <= high:
        raise UserError(f"{name}={text[:20]}: expected a whole number from {low} to {high:,}")
    return int(text)


def _token(model: str, z: np.ndarray) -> str:
    """An embedding as a part of an address: half precision changes a cosine by 1e-3 at most."""
    return f"{model}.{base64.urlsafe_b64encode(z.astype('<f2').tobytes()).decode().rstrip('=')}"


def _unit(values: str, dim: int) -> np.ndarray:
    """The embedding float32 [dim] of a token, of unit norm."""
    try:
        z = np.frombuffer(base64.b64decode(values + "==", "-_", validate=True), "<f2")
        z = z.astype(np.float32)
    except (ValueError, binascii.Error):
        z = np.zeros(0, np.float32)
    norm = np.linalg.norm(z)
    if len(z) != dim or not np.isfinite(norm) or not norm:
        raise UserError("the address is cut or changed: its z is no embedding; search again")
    return z / norm
