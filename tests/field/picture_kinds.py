"""Pictures as people bring them, each with the pixels that a person sees."""

import io
import struct

import numpy as np
from PIL import Image

SIZE = (96, 64)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def upright() -> Image.Image:
    """Smooth, and different in each corner, so that every turn shows."""
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]].astype(float)
    pixels = [255 * y / SIZE[1], 255 * x / SIZE[0], 200 * (x > SIZE[0] / 2)]
    return Image.fromarray(np.stack(pixels, -1).astype(np.uint8))


def transparent() -> Image.Image:
    """A dark bar on transparent black."""
    image = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    image.paste((10, 20, 60, 255), (20, 10, 70, 50))
    return image


def bar_on_white() -> Image.Image:
    image = Image.new("RGB", SIZE, "white")
    image.paste((10, 20, 60), (20, 10, 70, 50))
    return image


def deep_ramp() -> Image.Image:
    row = b"".join(struct.pack("<H", x * 65535 // (SIZE[0] - 1)) for x in range(SIZE[0]))
    return Image.frombytes("I;16", SIZE, row * SIZE[1])


def ramp() -> Image.Image:
    row = bytes(x * 255 // (SIZE[0] - 1) for x in range(SIZE[0]))
    return Image.frombytes("L", SIZE, row * SIZE[1]).convert("RGB")


def sideways(orientation: int, kind: str, **options) -> bytes:
    """`upright`, stored so that EXIF's orientation turns it back."""
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x10F] = "a maker"
    exif[0x112] = orientation
    turned = upright().transpose(stored[orientation])
    return encode(turned, kind, exif=exif, **options)


def _grey_hidden() -> bytes:
    """Grey without an alpha channel; one of its values stands for transparent."""
    grey = Image.new("L", SIZE, 0)
    grey.paste(30, (20, 10, 70, 50))
    return encode(grey, "PNG", transparency=0)


def _grey_on_white() -> Image.Image:
    image = Image.new("RGB", SIZE, "white")
    image.paste((30, 30, 30), (20, 10, 70, 50))
    return image


def _moving(kind: str, first: Image.Image, **options) -> bytes:
    second = Image.new(first.mode, SIZE, "green")
    return encode(first, kind, save_all=True, append_images=[second], duration=100, **options)


def readable_in_place() -> dict[str, tuple[bytes, Image.Image]]:
    """name -> (file, what is seen): what a data set read in place may hold."""
    return {f"jpeg-{n}.jpg": (sideways(n, "JPEG", quality=97), upright()) for n in range(2, 9)} | {
        "sideways.png": (sideways(6, "PNG"), upright()),
        "sideways.webp": (sideways(8, "WEBP", lossless=True), upright()),
        "rgba.png": (encode(transparent(), "PNG"), bar_on_white()),
        "palette.png": (encode(transparent().quantize(8), "PNG"), bar_on_white()),
        "grey.png": (_grey_hidden(), _grey_on_white()),
        "still.webp": (encode(transparent(), "WEBP", lossless=True), bar_on_white()),
        "still.gif": (encode(transparent(), "GIF"), bar_on_white()),
        "moving.webp": (_moving("WEBP", upright(), lossless=True), upright()),
        "moving-cropped.webp": (_moving("WEBP", transparent(), quality=97), bar_on_white()),
        "moving.gif": (_moving("GIF", transparent()), bar_on_white()),
        "deep.png": (encode(deep_ramp(), "PNG"), ramp()),
        "cmyk.jpg": (encode(upright().convert("CMYK"), "JPEG", quality=97), upright()),
        "plain.jpg": (encode(upright(), "JPEG", quality=97), upright()),
        "plain.bmp": (encode(upright(), "BMP"), upright()),
    }


def readable_by_prepare() -> dict[str, tuple[bytes, Image.Image]]:
    """What `prepare` and the index take besides: formats that TensorFlow cannot decode."""
    floats = Image.fromarray((np.asarray(ramp())[..., 0] / 255).astype(np.float32))
    few = bar_on_white().quantize(4)
    return readable_in_place() | {
        "float.tiff": (encode(floats, "TIFF"), ramp()),
        "deep.tif": (encode(deep_ramp(), "TIFF"), ramp()),
        "photo.AVIF": (encode(upright(), "AVIF", quality=97), upright()),
        "photo.JFIF": (encode(upright(), "JPEG", quality=97), upright()),
        "palette.bmp": (encode(few, "BMP"), few.convert("RGB")),
        "UPPER.PNG": (encode(upright(), "PNG"), upright()),
    }


def unreadable() -> dict[str, bytes]:
    """Broken downloads, and values of which nobody knows what white is."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    jpeg, png = (encode(Image.fromarray(noise), kind) for kind in ("JPEG", "PNG"))
    heights = Image.fromarray(np.linspace(-3, 900, 96 * 64).reshape(64, 96).astype(np.float32))
    return {
        "cut.jpg": jpeg[: len(jpeg) * 3 // 4],
        "cut2.png": png[: len(png) * 3 // 4],
        "heights.tiff": encode(heights, "TIFF"),
        "page.png": b"<!DOCTYPE html>",
    }


def distance(pixels: np.ndarray, seen: Image.Image) -> float:
    """Mean difference of uint8 [S, S, 3] from what is seen, of 255."""
    side = pixels.shape[0]
    expected = np.asarray(seen.resize((side, side), Image.Resampling.BILINEAR), float)
    return float(abs(pixels - expected).mean())
