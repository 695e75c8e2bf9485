"""The benchmark of the search page, on a server in this process: every request is answered."""

import json
import threading

import pytest
import waitress
from small_pictures import SmallEncoder

from benchmarks import serving
from jest_tf.serving.querying import Searcher
from jest_tf.serving.web import make_app


@pytest.fixture
def server(tmp_path, monkeypatch):
    encoder = SmallEncoder()
    info = encoder.info | {"fingerprint": encoder.fingerprint}
    monkeypatch.setattr(serving, "read_info", lambda path: info)
    upload = serving.make_index(tmp_path / "index", "export", 60)
    searcher = Searcher(tmp_path / "index", encoders={encoder.fingerprint: encoder})
    running = waitress.create_server(make_app({"index": searcher}), port=0)
    threading.Thread(target=running.run, daemon=True).start()
    server = serving.Server(tmp_path / "index")
    server.address, server.resident_bytes = ("127.0.0.1", running.effective_port), lambda: 2**20
    yield server, upload
    running.close()


def test_figures_count_every_request(server, capsys):
    server, upload = server
    serving.FLAGS(["bench", "--clients=4", "--seconds=2", "--queries=3"])
    serving.query_row(server, {})
    serving.load_rows(server, upload, {})
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["figure"] for line in lines] == [
        "http_query", "load_errors", "load_requests", "load_memory_growth"
    ]  # fmt: skip
    assert lines[0]["repeats"] == 3 and lines[0]["value"] > 0
    assert lines[1]["value"] == 0 and lines[1]["denominator"] >= 4 and lines[3]["value"] == 0
