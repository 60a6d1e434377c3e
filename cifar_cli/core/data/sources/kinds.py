"""The kinds of files that hold images: which are read, by their suffix, and what must be installed for some of them."""

from __future__ import annotations

from functools import cache

from PIL import Image, features

SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    ".webp": "WEBP",
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    ".gif": "GIF",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".avif", ".avifs"), "AVIF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
    **dict.fromkeys((".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"), "JPEG2000"),
    ".tga": "TGA",
    **dict.fromkeys((".heic", ".heif"), "HEIF"),
}
"""Suffix → Pillow's name of the format."""
ARCHIVES = frozenset((".7z", ".rar", ".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2"))
_FEATURES = {"WEBP": "webp", "AVIF": "avif", "TIFF": "libtiff", "JPEG2000": "jpg_2000", "JPEG": "jpg", "PNG": "zlib"}
HEIF_REMEDY = "install the extra `photos` for HEIC photographs: `pip install cifar-cli[photos]`"


@cache
def readable_formats() -> tuple[str, ...]:
    """The formats that this installation decodes. HEIF needs the package pillow-heif, some others a library."""
    formats = {name for name in SUFFIXES.values() if name != "HEIF" and features.check(_FEATURES.get(name, "zlib"))}
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        pass
    else:
        register_heif_opener()
        formats.add("HEIF")
    Image.init()
    return tuple(sorted(formats))


def suffix_of(name: str) -> str:
    """The suffix of a path in small letters, with its dot; "" if it has none."""
    last = name.rpartition("/")[2]
    stem, dot, suffix = last.rpartition(".")
    return f".{suffix.lower()}" if stem and dot else ""


def is_image(name: str) -> bool:
    """Whether a path has the suffix of an image that can be decoded here, and isn't hidden."""
    return SUFFIXES.get(suffix_of(name)) in readable_formats() and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether a path is hidden, or lies in a hidden folder, by the names that systems give to what users don't see."""
    return hidden_part(name) is not None


def hidden_part(name: str) -> str | None:
    """The beginning of a path, up to the first hidden file or folder; None if nothing in it is hidden."""
    parts = name.rstrip("/").split("/")
    for at, part in enumerate(parts):
        if (part.startswith(".") and part not in (".", "..")) or part.lower() in _NOT_SHOWN:
            return "/".join(parts[: at + 1])
    return None


_NOT_SHOWN = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}
