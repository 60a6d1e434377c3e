"""An image file becomes upright 8-bit RGB: as pixels of one size, or as a file that trains fast."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from cifar_cli.core.data.sources.kinds import readable_formats
from cifar_cli.core.limits import MAX_PIXELS, MAX_SCANNED_PIXELS

Image.MAX_IMAGE_PIXELS = None  # `opened` refuses more than MAX_PIXELS; Pillow would warn of far fewer
WHITE = (255, 255, 255, 255)
EVAL_SHARE = 0.875
"""Of the shorter side of a picture that isn't square, evaluation sees this share: 224 of 256 pixels, as is usual."""
KEPT_FACTOR = 2  # a file is kept as it is up to so many times the store's side
JPEG_QUALITY = 95
XMP_START = b"http://ns.adobe.com/xap/1.0/\0"
_KEPT_MODES = {"JPEG": ("RGB", "L"), "PNG": ("RGB", "L"), "WEBP": ("RGB",)}
_LOSSLESS = ("PNG", "BMP", "GIF", "TIFF", "PPM")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Imported:
    """An image as a store keeps it."""

    content: NDArray[np.uint8] | bytes
    """uint8 [S, S, 3], or a file."""
    resized: bool = False
    """Scaled and cropped to the store's size."""
    reencoded: bool = False
    """Decoded and written again as another file."""
    animated: bool = False
    """The first of several frames or pages."""


def decode(content: bytes, size: int, *, max_pixels: int = MAX_PIXELS) -> tuple[NDArray[np.uint8], bool]:
    """Decode an image to uint8 [size, size, 3]; also returns whether it had another size.

    Raises ValueError, with the reason, for anything but a complete image of at most `max_pixels`.
    """
    found = as_pixels(content, size, max_pixels=max_pixels)
    assert not isinstance(found.content, bytes)
    return found.content, found.resized


def as_pixels(content: bytes, size: int, *, max_pixels: int = MAX_PIXELS) -> Imported:
    """An image as pixels. Raises ValueError as `decode`."""
    try:
        with opened(content, max_pixels) as file:
            animated = _is_animated(file)
            pixels, resized = square(upright(file, content), size)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more
        raise ValueError(reason_of(error)) from error
    return Imported(content=pixels, resized=resized, animated=animated)


def square(image: Image.Image, size: int) -> tuple[NDArray[np.uint8], bool]:
    """Scale an RGB image to cover a square and crop it at the centre; also returns whether it had another size."""
    resized = image.size != (size, size)
    if resized:
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)
    return np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(size, size, 3), resized


def as_file(content: bytes, size: int, *, max_pixels: int = MAX_PIXELS) -> Imported:
    """An image as a file that shows upright 8-bit RGB to every decoder.

    It is the file itself if it is such a JPEG, PNG or WebP whose shorter side has at most twice `size` pixels. Any
    other is decoded and encoded again, scaled down so that evaluation's central square of EVAL_SHARE still has `size`
    pixels.
    Raises ValueError, with the reason, for anything but a complete image of at most `max_pixels`.
    """
    try:
        with opened(content, max_pixels) as original:
            kind, animated = original.format, _is_animated(original)
            large = min(original.size) > KEPT_FACTOR * size
            if large:  # the JPEG decoder then reduces, which takes a fraction of the time
                original.draft(None, (KEPT_FACTOR * size, KEPT_FACTOR * size))
            keep = not large and not animated and _is_plain(original, content)
            image = upright(original, content)
        if keep:
            return Imported(content=content)
        shorter = round(size / EVAL_SHARE)
        scaled = min(image.size) > shorter
        if scaled:
            factor = shorter / min(image.size)
            shape = tuple(max(shorter, round(side * factor)) for side in image.size)
            image = image.resize((shape[0], shape[1]), Image.Resampling.BICUBIC, reducing_gap=3.0)
        file = io.BytesIO()
        if kind in _LOSSLESS and not scaled:
            image.save(file, "PNG")
        else:
            image.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    except Exception as error:
        raise ValueError(reason_of(error)) from error
    return Imported(content=file.getvalue(), reencoded=True, animated=animated)


def from_array(pixels: NDArray[np.uint8], size: int, *, encoded: bool) -> Imported:
    """An image that was never a file, uint8 [H, W, 3]; of an encoded store it becomes a PNG, scaled down as `as_file`.

    Raises ValueError for an image that can't be encoded.
    """
    image = Image.fromarray(pixels)
    if not encoded:
        content, resized = square(image, size)
        return Imported(content=content, resized=resized)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=3)
    return as_file(file.getvalue(), size)


def size_of(content: bytes) -> tuple[int, int] | None:
    """Width and height from the header, before the image is turned upright; None if it has none.

    For JPEG and PNG this takes a tenth of the time that Pillow needs, and a beginning of the file suffices. PNG: IHDR
    comes first (W3C PNG, section 11.2.1). JPEG: segments are skipped up to the frame header (ITU-T T.81, annex B).
    """
    if content.startswith(b"\x89PNG"):
        return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    if content.startswith(b"\xff\xd8"):
        frame = next((at for marker, at in _segments(content) if marker in _FRAMES), None)
        return None if frame is None else _frame_size(content, frame)
    try:
        with Image.open(io.BytesIO(content), formats=readable_formats()) as image:
            return image.size
    except Exception:  # decoding then reports the reason
        return None


def plain_jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG that is shown as it is stored and decoded in one scan; None for any other file.

    Pillow's answer is the same and takes 0.2 ms, a tenth of the time of training's decoder. A file is left to Pillow
    that has EXIF, XMP or several pictures, that isn't YCbCr or grey at 8 bits, or that is progressive.
    """
    size, components = None, 0
    for marker, at in _segments(content) if content.startswith(b"\xff\xd8") else ():
        if marker == 0xE1 or (marker == 0xE2 and content.startswith(b"MPF", at)):  # EXIF or XMP; several pictures
            return None
        if marker == 0xEE and content[at + 11 : at + 12] != b"\1":  # Adobe's: 1 means YCbCr
            return None
        if marker in _FRAMES:
            if size is not None or marker not in (0xC0, 0xC1) or content[at] != 8:
                return None
            components = content[at + 5]
            size = _frame_size(content, at)
        if marker == 0xDA:  # the first scan: with all components, it is the only one
            return size if content[at] == components in (1, 3) and size and min(size) else None
    return None


_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame (ITU-T T.81, table B.1)
_WITH_LENGTH = frozenset(range(0xC0, 0xFF)) - frozenset(range(0xD0, 0xDA))  # restarts, and the file's start and end


def _segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Marker and first byte of the parameters of each segment of a JPEG, up to the first scan."""
    at, marker = 2, 0
    while marker != 0xDA and at + 12 <= len(content) and content[at] == 0xFF and content[at + 1] in _WITH_LENGTH:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4])
        yield marker, at + 4
        at += 2 + length


def _frame_size(content: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(content[at + 3 : at + 5]), int.from_bytes(content[at + 1 : at + 3])


def opened(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image whose header has been read. Raises ValueError beyond the limits, and what Pillow raises."""
    image = Image.open(io.BytesIO(content), formats=readable_formats())
    if image.width * image.height > max_pixels:
        raise ValueError(f"{image.width}×{image.height} pixels are more than {max_pixels:,}")
    if image.format in ("JPEG", "MPO"):
        # A JPEG may take minutes to decode: every scan may change all pixels.
        scans = content.count(b"\xff\xda")  # start of scan (ITU-T T.81, annex B)
        if scans * image.width * image.height > MAX_SCANNED_PIXELS:
            raise ValueError(f"{scans:,} scans of {image.width}×{image.height} pixels take too long to decode")
    return image


def reason_of(error: Exception) -> str:
    """Why an image can't be decoded. Pillow's decoders raise OSError, SyntaxError, struct.error and more."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known kind"
    return str(error) or type(error).__name__


def _is_animated(image: Image.Image) -> bool:
    """Whether there are more frames or pages than the first. A camera's MPO has previews of the same photograph."""
    with suppress(Exception):
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    return False


def _is_plain(image: Image.Image, content: bytes) -> bool:
    """Whether every decoder shows the file as upright 8-bit RGB."""
    deep = image.format == "PNG" and content[24:25] != b"\x08"  # bits per sample, in IHDR
    known = image.mode in _KEPT_MODES.get(image.format or "", ())
    return known and not deep and not image.has_transparency_data and orientation_of(image) == 1


def upright(image: Image.Image, content: bytes) -> Image.Image:
    """A decoded image as upright 8-bit RGB, with transparent pixels white. content: its file."""
    image.load()
    turn = TURNS.get(orientation_of(image))
    deep = image.format == "PNG" and content[24:25] == b"\x10"
    rgb = _to_rgb(image, deep=deep)
    return rgb if turn is None else rgb.transpose(turn)


def orientation_of(image: Image.Image) -> int:
    """1 to 8, as EXIF counts: from EXIF wherever it stands, from ImageMagick's raw profiles, or from XMP.

    Pillow's getexif looks in most of these places, and reads a PNG to its end for it.
    """
    if image.format == "JPEG" and image.info.keys().isdisjoint(("exif", "xmp")):
        return 1  # at once, for the decoders of training
    with suppress(Exception):  # damaged EXIF says nothing about the pixels
        if isinstance(image, PngImagePlugin.PngImageFile) and "exif" not in image.info:
            _keep_raw_profiles(image)
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
        return found if found in TURNS else 1
    return 1


def _keep_raw_profiles(image: PngImagePlugin.PngImageFile) -> None:
    """Give getexif the profiles that it does not know: of type xmp, and EXIF of type APP1."""
    for kind, start, key in (("xmp", b"<", "xmp"), ("APP1", b"Exif\0\0", "exif"), ("APP1", XMP_START, "xmp")):
        lines = image.text.get(f"Raw profile type {kind}", "").split("\n")[3:]
        content = bytes.fromhex("".join(lines))
        if content.startswith(start):
            image.info.setdefault(key, content)


def _bits_of(image: Image.Image) -> int:
    """Bits of a grey value: those that a TIFF names, such as 12 or 32, else 16."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))
        return int(bits[0] if isinstance(bits, tuple) else bits)
    return 16


def _to_rgb(image: Image.Image, *, deep: bool) -> Image.Image:
    """deep: a PNG of 16 bits per sample, whose transparent colour Pillow gives in 16 bits too."""
    transparent = image.info.get("transparency")
    if image.mode == "RGB" and transparent is None:
        return image
    if image.mode.startswith("I"):  # 16-bit greyscale, which Pillow would clip at 255 instead of scaling
        values = np.asarray(image, dtype=np.int64)
        bits = _bits_of(image)
        if bits > 16 or values.min() < 0 or values.max() >= 1 << bits:
            raise ValueError("pixels of 32 bits, whose range is not known")
        grey = (values * 255 // ((1 << bits) - 1)).astype(np.uint8)
        if isinstance(transparent, int):
            grey[values == transparent] = WHITE[0]
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "F":
        raise ValueError("pixels of floating-point numbers, whose range is not known")
    if image.has_transparency_data:
        if deep and isinstance(transparent, tuple):
            image.info["transparency"] = tuple(value >> 8 for value in transparent)
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba).convert("RGB")
    return image.convert("RGB")
