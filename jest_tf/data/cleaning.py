"""What `prepare` asks of an image and a caption before it stores them."""

import collections
import io
import warnings

from PIL import Image, ImageOps

from jest_tf.data.preprocess import MAX_PIXELS, MAX_SIDE, MIN_SIDE

# No caption needs more; web data has some of a megabyte.
MAX_CAPTION_BYTES = 10_000
# Formats that training decodes; others are written anew as JPEG.
KEPT_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
JPEG_QUALITY = 92


def check_image(
    image: bytes, max_side: int | None = None
) -> tuple[bytes, tuple[int, int], str | None]:
    """Judges an image, and shrinks it if it should be.

    Args:
        image: encoded, any format that Pillow reads.
        max_side: where the shorter side is longer than this, the image is shrunk to it and stored
            as JPEG; None keeps the bytes as they are.

    Returns:
        (bytes to store, (width, height), None), or (b"", (0, 0), why it cannot be used).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own bound on pixels: ours is judged below
            picture = Image.open(io.BytesIO(image))
            width, height = picture.size
            if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
                allowed = f"at most {MAX_PIXELS:,} in all and {MAX_SIDE:,} along a side"
                return b"", (0, 0), f"{width}x{height} pixels; {allowed}"
            if min(width, height) < MIN_SIDE:
                return b"", (0, 0), f"{width}x{height} pixels carry no content"
            shrink = max_side is not None and min(width, height) > max_side
            if not shrink and picture.format in KEPT_FORMATS:
                return image, (width, height), None
            return _as_jpeg(picture, max_side if shrink else None)
    except Exception as error:  # Pillow raises many types; each means one unusable image
        start = f" (it starts with {image[:12]!r})" if "identify" in str(error) else ""
        reason = "cannot identify image file" if start else str(error)[:120]
        return b"", (0, 0), f"not a readable image: {reason}{start}"


def _as_jpeg(picture: Image.Image, max_side: int | None) -> tuple[bytes, tuple[int, int], None]:
    if max_side is not None:
        # JPEG only: decoded at the smallest fraction that is still twice the target.
        scale = 2 * max_side / min(picture.size)
        picture.draft("RGB", [round(scale * side) for side in picture.size])
    picture = _on_white(ImageOps.exif_transpose(picture))
    if max_side is not None:
        scale = max_side / min(picture.size)
        target = [max(1, round(side * scale)) for side in picture.size]
        picture = picture.resize(target, Image.Resampling.BICUBIC)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue(), picture.size, None


def _on_white(picture: Image.Image) -> Image.Image:
    """RGB, with what is transparent painted white."""
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def clean_captions(captions: list[bytes], counts: collections.Counter) -> list[bytes]:
    """Usable captions as stripped UTF-8; adds to `counts` what was dropped, repaired or cut."""
    cleaned = []
    for caption in captions:
        if len(caption) > MAX_CAPTION_BYTES:
            counts["captions_cut"] += 1
            caption = caption[:MAX_CAPTION_BYTES]
        else:
            try:
                caption.decode("utf-8")
            except UnicodeDecodeError:
                counts["captions_not_utf8"] += 1
        text = caption.decode("utf-8", "ignore").strip()
        if text:
            cleaned.append(text.encode())
        else:
            counts["captions_empty"] += 1
    return cleaned
