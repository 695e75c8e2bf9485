"""What cannot be opened as a picture is None, whatever Pillow raises."""

import io

import pytest

from jest_tf.data.cleaning import open_image


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n broken"])
def test_open_image_gives_none_for_what_is_no_image(content):
    assert open_image(lambda mode: io.BytesIO(content)) is None


def test_open_image_gives_none_for_a_missing_file(tmp_path):
    assert open_image((tmp_path / "missing.png").open) is None
