"""Images in a folder or a tar archive, laid out as train/CLASS/IMAGE and test/CLASS/IMAGE.

The source is gone through twice: once for names and sizes, so that everything about the layout is known
before the first pixel, and once to decode straight into arrays of the final size. Small sources are kept in
memory between the two, large ones are read again.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cifar_cli.core.data.sources.archive import read_members
from cifar_cli.core.data.sources.imported import ImportedImages
from cifar_cli.core.data.sources.layout import SIDES, Layout, is_image, lay_out
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.errors import DataError, ResourceError

FORMATS = ("JPEG", "PNG")
MAX_FILE_BYTES = 256 << 20
MAX_PIXELS = 100_000_000  # of one image; a larger one is a mistake or an attack
KEPT_BYTES = 64 << 20  # of encoded images, held between the two readings
REPORT_EVERY = 500  # images
WHITE = (255, 255, 255, 255)


def import_images(
    path: Path,
    *,
    img_size: int | None = None,
    skip_bad: bool = False,
    expected_classes: tuple[str, ...] | None = None,
    on_progress: OnProgress = silent,
) -> ImportedImages:
    """Decode every image under a folder or in a tar archive.

    img_size: side of the square result, pixels; None takes the size that most images have (its shorter side).
    Images of another size are scaled to cover the square and cropped at the centre; greyscale, palette,
    CMYK and 16-bit images become 8-bit RGB, transparency becomes white.
    skip_bad: leave unreadable images out and count them. expected_classes: see `lay_out`.
    Raises DataError for a source that can't be read, is laid out otherwise, or holds an unreadable image;
    ResourceError when the pixels don't fit into memory.
    """
    looked = _look_through(path, on_progress)
    layout = lay_out(str(path), looked.names, expected_classes=expected_classes)
    side_pixels = img_size or _usual_side(path, looked.sizes)
    try:
        images = {
            side: np.zeros((len(layout.labels[side]), side_pixels, side_pixels, 3), dtype=np.uint8) for side in SIDES
        }
    except MemoryError as error:
        raise ResourceError(
            f"{len(layout.places):,} images of {side_pixels}×{side_pixels} pixels don't fit into memory",
            remedy="pass a smaller --img-size",
        ) from error
    entries = _entries(path) if looked.kept is None else iter(looked.kept)
    resized, bad = _decode_all(path, entries, layout, images, skip_bad=skip_bad, on_progress=on_progress)
    labels = {side: np.array(layout.labels[side], dtype=np.int64) for side in SIDES}
    for side, indices in bad.items():
        images[side] = np.delete(images[side], indices, axis=0)
        labels[side] = np.delete(labels[side], indices)
        _require_every_class(path, side, labels[side], layout.classes)
    return ImportedImages(
        classes=layout.classes,
        train_images=images["train"],
        train_labels=labels["train"],
        test_images=images["test"],
        test_labels=labels["test"],
        resized_images=resized,
        skipped_images=sum(map(len, bad.values())),
    )


def decode(content: bytes, side_pixels: int) -> tuple[NDArray[np.uint8], bool]:
    """Decode a JPEG or PNG: uint8 [side, side, 3], and whether its size had to be changed.

    Raises ValueError, with the reason, for anything that is not a whole image.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"{opened.width}×{opened.height} pixels are more than {MAX_PIXELS:,}")
            image = _to_rgb(ImageOps.exif_transpose(opened) if "exif" in opened.info else opened)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more
        reason = "not a JPEG or PNG" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ValueError(reason) from error
    other_size = image.size != (side_pixels, side_pixels)
    if other_size:
        image = ImageOps.fit(image, (side_pixels, side_pixels), method=Image.Resampling.BICUBIC)
    return np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(side_pixels, side_pixels, 3), other_size


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I"):  # 16-bit greyscale, which Pillow would clip at 255 instead of scaling
        return Image.fromarray((np.asarray(image, dtype=np.uint32) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba).convert("RGB")
    return image.convert("RGB")


def _entries(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every image; folders as names that end in `/`, without content."""
    if path.is_dir():
        yield from _folder_entries(path)
    else:
        yield from read_members(path, max_member_bytes=MAX_FILE_BYTES)


def _folder_entries(top: Path) -> Iterator[tuple[str, bytes]]:
    for folder, subfolders, files in os.walk(top):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        here = Path(folder)
        if here != top:
            yield f"{here.relative_to(top).as_posix()}/", b""
        for name in sorted(files):
            if not is_image(name):
                continue
            file = here / name
            try:
                content = file.read_bytes()
            except OSError as error:
                raise DataError(f"{file} can't be read ({error.strerror})", remedy="check its permissions") from error
            yield file.relative_to(top).as_posix(), content


@dataclass(eq=False, kw_only=True, slots=True)
class _Looked:
    """What the first reading found. sizes: how many images have which (width, height). kept: the images."""

    names: list[str]
    sizes: Counter[tuple[int, int]]
    kept: list[tuple[str, bytes]] | None


def _look_through(path: Path, on_progress: OnProgress) -> _Looked:
    looked = _Looked(names=[], sizes=Counter(), kept=[])
    seen: set[str] = set()
    kept_bytes = 0
    task = f"look through {path.name}"
    for name, content in _entries(path):
        looked.names.append(name)
        if not is_image(name):
            continue
        if name in seen:
            raise DataError(f"{path} holds {name} twice", remedy="pack each image once")
        seen.add(name)
        if size := _size_of(content):
            looked.sizes[size] += 1
        kept_bytes += len(content)
        if kept_bytes > KEPT_BYTES:
            looked.kept = None
        elif looked.kept is not None:
            looked.kept.append((name, content))
        if len(seen) % REPORT_EVERY == 0:
            on_progress(Progress(task=task, done=len(seen), unit="images"))
    on_progress(Progress(task=task, done=len(seen), total=len(seen), unit="images"))
    return looked


def _size_of(content: bytes) -> tuple[int, int] | None:
    """Width and height from the header; None when it doesn't tell (decoding will say why).

    Pillow can tell too, but takes ten times as long for it. PNG: IHDR comes first (W3C PNG, section 11.2.1).
    JPEG: segments are skipped up to the frame header (ITU-T T.81, annex B).
    """
    if content.startswith(b"\x89PNG"):
        return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    at = 2
    while content.startswith(b"\xff\xd8") and at + 9 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(content[at + 7 : at + 9]), int.from_bytes(content[at + 5 : at + 7])
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return None


def _usual_side(path: Path, sizes: Counter[tuple[int, int]]) -> int:
    if not sizes:
        raise DataError(f"no image in {path} can be read", remedy="convert the images to PNG or JPEG")
    most = max(sizes.values())
    return max(1, min(min(size) for size, count in sizes.items() if count == most))


def _decode_all(
    path: Path,
    entries: Iterator[tuple[str, bytes]],
    layout: Layout,
    images: dict[str, NDArray[np.uint8]],
    *,
    skip_bad: bool,
    on_progress: OnProgress,
) -> tuple[int, dict[str, list[int]]]:
    """Fill `images`; return how many were resized, and the indices of the unreadable ones by side."""
    side_pixels = images["train"].shape[1]
    resized, done, total = 0, 0, len(layout.places)
    bad: dict[str, list[int]] = {side: [] for side in SIDES}
    for name, content in entries:
        if name not in layout.places:
            continue
        side, index = layout.places[name]
        try:
            images[side][index], other_size = decode(content, side_pixels)
            resized += other_size
        except ValueError as error:
            if not skip_bad:
                raise DataError(
                    f"{_full_name(path, name)} is not a readable image ({error})",
                    remedy="replace it, or pass --skip-bad to leave unreadable images out",
                ) from error
            bad[side].append(index)
        done += 1
        if done % REPORT_EVERY == 0 or done == total:
            on_progress(Progress(task=f"decode {path.name}", done=done, total=total, unit="images"))
    if done != total:
        raise DataError(f"{path} changed while it was read", remedy="import it again")
    return resized, {side: indices for side, indices in bad.items() if indices}


def _full_name(path: Path, name: str) -> str:
    return str(path / name) if path.is_dir() else f"{path}: {name}"


def _require_every_class(path: Path, side: str, labels: NDArray[np.int64], classes: tuple[str, ...]) -> None:
    for index in np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0):
        raise DataError(
            f"{path}: no image of {side}/{classes[index]} can be read",
            remedy="replace them, or remove the class from train/ and test/",
        )
