"""HTML pages that hold everything in themselves: no network, no script, light and dark."""

import base64
import functools
import io
import os
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from jest_tf.config import flat
from jest_tf.progress import duration

THUMBNAIL = 96  # pixels a side; larger pictures are shrunk, so that a page stays below 10 MB


def render(template: str, folder: str | os.PathLike | None = None, **values: Any) -> str:
    """The page of a template of ours, or of `folder`; all values but Markup are escaped."""
    return _environment(folder).get_template(template).render(**values)


def data_uri(image: np.ndarray | Image.Image) -> str:
    """A picture (uint8 [h, w, 3]) as a `data:` address, at most THUMBNAIL pixels a side."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    return png_uri(thumbnail(picture))


def png_uri(png: bytes | None) -> str:
    """A PNG file as a `data:` address; of None, that of nothing."""
    return "data:image/png;base64," + base64.b64encode(png or b"").decode()


def thumbnail(image: Image.Image) -> bytes:
    """A picture as a PNG file, at most THUMBNAIL pixels a side."""
    picture = image.copy()
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@functools.cache
def _environment(folder: str | os.PathLike | None) -> jinja2.Environment:
    ours = jinja2.PackageLoader("jest_tf")
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader([ours, jinja2.FileSystemLoader(folder)]) if folder else ours,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"flat": flat, "duration": duration}
    return made
