"""The search page's HTTP: answers against numpy, bounds, and nothing of a client's is opened."""

import io
import json
import socket
import types

import commands
import numpy as np
import pytest
from PIL import Image
from small_pictures import SmallEncoder, write_pictures

from jest_tf import serve
from jest_tf.serving import querying, web
from jest_tf.serving.indexing import add_images
from jest_tf.serving.querying import Searcher


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def searchers(folder):
    """`a` and `b` have one model, `c` has another."""
    encoders, found = {one.fingerprint: one for one in map(SmallEncoder, range(2))}, {}
    for name, model, n in (("a", "f0", 60), ("b", "f0", 5), ("c", "f1", 7)):
        encoder = encoders[model]
        write_pictures(folder / f"{name} <i>", n, seed=ord(name))
        add_images(folder / name, str(folder / f"{name} <i>"), encoder)
        found[name] = Searcher(folder / name, encoders=encoders)
    return found


@pytest.fixture(scope="module")
def client(searchers):
    return web.make_app(searchers, serve.LOOPBACK).test_client()


def truth(searcher, z, k):
    scores = searcher.index.embeddings() @ z
    order = np.argsort(-scores, kind="stable")[:k]
    return order.tolist(), scores[order]


def rows(section):
    return [hit["row"] for hit in section["results"]]


def test_a_text_is_answered_as_numpy_would_for_every_index(client, searchers):
    answer = client.get("/search?text=a red dog&k=4").json
    assert [section["index"] for section in answer["indexes"]] == ["a", "b", "c"]
    for section in answer["indexes"]:
        searcher = searchers[section["index"]]
        order, scores = truth(searcher, searcher.encoder.encode_text(["a red dog"])[0], 4)
        assert rows(section) == order
        np.testing.assert_allclose([h["score"] for h in section["results"]], scores, atol=1e-5)
        assert section["n_images"] == len(searcher.index)
    for names in ("index=b&index=c", "index=b,c"):
        answer = client.get(f"/search?text=dog&{names}").json
        assert [section["index"] for section in answer["indexes"]] == ["b", "c"]


def test_a_picture_becomes_an_address_that_finds_it(client, searchers, folder):
    picture = (folder / "b <i>" / "003.png").read_bytes()
    for sent in (
        {"data": {"picture": (io.BytesIO(picture), "x.png")}},
        {"data": picture, "content_type": "image/png"},
    ):
        answer = client.post("/embed", **sent).json
        models = {model["fingerprint"]: model["embedding"] for model in answer["models"]}
        for name in ("b", "c"):
            encoder = searchers[name].encoder
            expected = encoder.encode_image_bytes([picture])[0][0]
            np.testing.assert_allclose(models[encoder.fingerprint], expected, atol=1e-5)
        found = client.get("/search" + answer["url"][1:]).json["indexes"]
        assert [section["index"] for section in found] == ["a", "b", "c"]
        assert found[1]["results"][0]["row"] == 3
        assert found[1]["results"][0]["score"] == pytest.approx(1, abs=2e-3)  # half precision
    text = client.post("/embed", json={"text": "dog"}).json["models"][0]["embedding"]
    np.testing.assert_allclose(text, searchers["a"].encoder.encode_text(["dog"])[0], atol=1e-5)


def test_neighbours_leave_the_picture_itself_out(client, searchers):
    (section,) = client.get("/search?index=a&row=5&k=10").json["indexes"]
    order, _ = truth(searchers["a"], searchers["a"].index.embeddings()[5], 11)
    assert rows(section) == [row for row in order if row != 5]


def test_pictures_are_small_jpegs_and_the_page_escapes_their_names(client):
    for size, longest in (("small", 480), ("large", 2000)):
        answer = client.get(f"/picture/a/3?size={size}")
        assert answer.mimetype == "image/jpeg"
        assert max(Image.open(io.BytesIO(answer.data)).size) <= longest
    page = client.get("/?text=<script>alert(1)</script>").text
    assert page.count("<script") == 1 and "&lt;script&gt;alert(1)" in page
    assert 'src="/picture/a/' in page and "http" not in page
    assert "default-src 'none'" in client.get("/").headers["Content-Security-Policy"]
    assert "addEventListener" in client.get("/search.js").text


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("/search", "nothing to look for"),
        ("/search?text=x&k=0", "k=0: expected a whole number from 1 to 200"),
        ("/search?text=x&k=1e9", "k=1e9"),
        ("/search?text=x&index=d", "no index 'd'"),
        ("/search?text=x&row=1&index=a", "expected one of text, row and z"),
        ("/search?row=1", "row belongs to one index"),
        ("/search?row=60&index=a", "row=60: expected a whole number from 0 to 59"),
        ("/search?row=-1&index=a", "row=-1"),
        ("/search?row=0000000000060&index=a", "expected a whole number from 0 to 59"),
        ("/search?z=none.AAAA", "made with another model"),
        ("/search?z={model}.AAAA", "cut or changed"),
        ("/search?z={model}.AAAAAAAAAAAAAAAAAAAAAA", "cut or changed"),  # zeros have no direction
        ("/search?z={model}.AH4AfgB-AH4AfgB-AH4Afg", "cut or changed"),  # not a number
        ("/search?text=" + "x" * 1001, "1,001 characters"),
    ],
)
def test_what_cannot_be_answered_is_said(client, searchers, address, said):
    answer = client.get(address.format(model=searchers["a"].encoder.fingerprint))
    assert answer.status_code == 400 and said in answer.json["error"]


def test_a_wrong_page_address_is_a_page_that_says_so(client):
    answer = client.get("/?row=77&index=a")
    assert answer.status_code == 400 and "row=77: expected" in answer.text


@pytest.mark.parametrize(
    "address",
    [
        "/picture/a/60", "/picture/a/-1", "/picture/d/0", "/picture/a/0?size=huge",
        "/picture/a/../../etc/passwd", "/picture/a/%2Fetc%2Fpasswd", "/picture/..%2Fa/0",
        "/templates/style.css", "/static/search.js",
    ],
)  # fmt: skip
def test_only_rows_of_an_index_are_served(client, address):
    answer = client.get(address)
    assert answer.status_code == 404 and "error" in json.loads(answer.text)


def test_uploads_are_bounded_in_bytes_and_pixels(client):
    answer = client.post("/embed", data=b"x" * (web.MAX_UPLOAD_BYTES + 1))
    assert answer.status_code == 413 and "larger than 16 MiB" in answer.json["error"]
    huge = io.BytesIO()
    Image.new("1", (2**13, 2**13 + 1)).save(huge, "PNG")  # a few kilobytes, 67 million pixels
    for picture, said in (
        (huge.getvalue(), "8192x8193 pixels; at most"),
        (b"no", "no known format"),
    ):
        answer = client.post("/embed", data=picture, content_type="image/png")
        assert answer.status_code == 400 and said in answer.json["error"]
    assert "no picture came" in client.post("/embed").json["error"]


@pytest.mark.parametrize(
    "body", ["{", "[]", "5", "null", "{}", '{"text": 5}', '{"text": " "}', "[" * 100_000]
)
def test_other_json_than_a_text_is_refused(client, body):
    answer = client.post("/embed", data=body, content_type="application/json")
    assert answer.status_code == 400 and 'expected JSON {"text": …}' in answer.json["error"]


def test_a_long_text_is_refused_and_not_cut(client):
    for sent in ({"json": {"text": "x" * 1001}}, {"data": {"text": "x" * 1001}}):
        answer = client.post("/embed", **sent)
        assert answer.status_code == 400 and "1,001 characters" in answer.json["error"]


def test_indexes_of_one_name_are_all_served(searchers, monkeypatch, tmp_path):
    monkeypatch.setattr(web, "make_app", lambda found, hosts: found)
    monkeypatch.setattr(
        querying, "Searcher", lambda folder, *_: types.SimpleNamespace(index=[folder])
    )
    serve.FLAGS.mark_as_parsed()
    folders = ["x/a~2", "y/a", "z/a", "y/a"]
    app, n = serve.make_app(folders)
    assert n == 4 and [one.index[0] for one in app.values()] == folders
    assert list(app) == ["a~2", "a", "a~3", "a~4"]


def test_another_site_cannot_ask_under_its_own_name(client, searchers):
    assert client.get("/search?text=x", headers={"Host": "evil.example"}).status_code == 400
    for host in ("localhost:8501", "127.0.0.1:1"):
        assert client.get("/search?text=x", headers={"Host": host}).status_code == 200
    everyone = web.make_app(searchers).test_client()
    assert everyone.get("/", headers={"Host": "photos.example"}).status_code == 200


def test_a_file_that_is_gone_is_no_picture(searchers, folder):
    client = web.make_app(searchers).test_client()
    (folder / "c <i>" / "002.png").unlink()
    assert client.get("/picture/c/2").status_code == 404
    assert client.get("/search?text=x&index=c").status_code == 200


def test_wrong_commands_are_one_message(folder, capsys):
    assert commands.run(serve, []) == 2
    assert "--index is missing" in capsys.readouterr().err
    assert commands.run(serve, [f"--index={folder / 'none'}"]) == 2
    assert "no image index in" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        assert commands.run(serve, [f"--index={folder / 'none'}", f"--port={port}"]) == 2
    told = capsys.readouterr().err
    assert f"cannot listen at --host=127.0.0.1 --port={port}" in told, "before it loads"
