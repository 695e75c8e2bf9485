"""HTML pages that hold everything in themselves: no network, no script, light and dark."""

import base64
import functools
import io
from typing import Any

import jinja2
import numpy as np
from PIL import Image

THUMBNAIL = 96  # pixels a side; larger pictures are shrunk, so that a page stays below 10 MB


def render(template: str, **values: Any) -> str:
    """The page of a template in `jest_tf/templates`. Every value is escaped unless it is Markup."""
    return _environment().get_template(template).render(**values)


def data_uri(image: np.ndarray | Image.Image) -> str:
    """A picture (uint8 [h, w, 3]) as a `data:` address, at most THUMBNAIL pixels a side."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image.copy()
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("jest_tf"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
