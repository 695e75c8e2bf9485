"""Files are whole or not there, whatever interrupts the writer."""

import os

import pytest

from jest_tf import files


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    files.write_atomically(path, "é")
    files.write_atomically(str(path), b"second")
    assert path.read_bytes() == b"second" and os.listdir(tmp_path) == ["a.json"]


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_atomically(path, "first")
    for call in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, call, lambda *_: (_ for _ in ()).throw(OSError(28, "disk full")))
            with pytest.raises(OSError):
                files.write_atomically(path, "second")
        assert path.read_text() == "first" and os.listdir(tmp_path) == ["a.json"]
    with pytest.raises(ValueError), files.replacing(path) as aside:
        raise ValueError(aside)
    assert path.read_text() == "first"


def test_a_name_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_atomically("a.json", "x")
    assert os.listdir(".") == ["a.json"]


def test_a_bucket_goes_through_gfile():
    import tensorflow as tf

    files.write_atomically("ram://folder/a.json", "x")
    with tf.io.gfile.GFile("ram://folder/a.json") as file:
        assert file.read() == "x"
