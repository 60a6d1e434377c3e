"""Images in a folder or a tar archive, laid out as train/CLASS/IMAGE and test/CLASS/IMAGE.

There are two passes. The first collects names and sizes, so that a wrong layout is reported before any decoding.
The second decodes into arrays of the final size. Small sources are kept in memory between the passes; large ones
are read again.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cifar_cli.core.data.config import SPLITS
from cifar_cli.core.data.results import Provenance
from cifar_cli.core.data.sources.archive import checksum_of, clean_name, read_members
from cifar_cli.core.data.sources.images import SourceImages
from cifar_cli.core.data.sources.layout import Layout, is_image, lay_out
from cifar_cli.core.limits import MAX_MEMBER_BYTES, MAX_NAMES_BYTES, MAX_PIXELS, MAX_SCANNED_PIXELS
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.core.regular import read_regular
from cifar_cli.errors import DataError, ResourceError

FORMATS = ("JPEG", "PNG")
MAX_KEPT_BYTES = 64 << 20  # of encoded images, kept in memory between the two passes
REPORT_EVERY = 500  # images
WHITE = (255, 255, 255, 255)


def import_images(
    path: Path,
    *,
    source: str | None = None,
    img_size: int | None = None,
    skip_bad: bool = False,
    expected_classes: tuple[str, ...] | None = None,
    max_kept_bytes: int = MAX_KEPT_BYTES,
    on_progress: OnProgress = silent,
) -> SourceImages:
    """Decode every image in a folder or a tar archive.

    source: its origin, for the provenance; by default the path.
    img_size: side of the square result in pixels; None takes the most common size (its shorter side).
    Images of another size are scaled to cover the square and cropped at the centre. Greyscale, palette,
    CMYK and 16-bit images are converted to 8-bit RGB; transparent pixels become white.
    skip_bad: leave out unreadable images and count them. expected_classes: see `lay_out`.
    max_kept_bytes: sources with more bytes of encoded images are read twice instead of kept in memory.
    Raises DataError for a source that can't be read, has another layout, or contains an unreadable image;
    ResourceError when the pixels don't fit into memory.
    """
    names, sizes, kept = _scan(path, max_kept_bytes, on_progress)
    layout = lay_out(str(path), names, expected_classes=expected_classes)
    size = img_size or _most_common_size(path, sizes)
    try:
        images = {split: np.zeros((len(layout.labels[split]), size, size, 3), dtype=np.uint8) for split in SPLITS}
    except MemoryError as error:
        raise ResourceError(
            f"{len(layout.places):,} images of {size}×{size} pixels don't fit into memory",
            remedy="pass a smaller --img-size",
        ) from error
    entries = _entries(path) if kept is None else iter(kept)
    resized, bad = _decode_all(path, entries, layout, images, skip_bad=skip_bad, on_progress=on_progress)
    labels = {split: np.array(layout.labels[split], dtype=np.int64) for split in SPLITS}
    for split, indices in bad.items():
        images[split] = np.delete(images[split], indices, axis=0)
        labels[split] = np.delete(labels[split], indices)
        _require_every_class(path, split, labels[split], layout.classes)
    provenance = Provenance.now(
        source=source or str(path),
        checksum="" if path.is_dir() else checksum_of(path, "sha256", on_progress),
        resized_images=resized,
        skipped_images=sum(map(len, bad.values())),
    )
    train, test = ((images[split], labels[split]) for split in SPLITS)
    return SourceImages(layout.classes, *train, *test, provenance=provenance)


def decode(content: bytes, size: int, *, max_pixels: int = MAX_PIXELS) -> tuple[NDArray[np.uint8], bool]:
    """Decode a JPEG or PNG to uint8 [size, size, 3]; also returns whether it had another size.

    Raises ValueError, with the reason, for anything but a complete image of at most `max_pixels`.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            if opened.width * opened.height > max_pixels:
                raise ValueError(f"{opened.width}×{opened.height} pixels are more than {max_pixels:,}")
            _require_few_scans(opened, content)
            image = _to_rgb(ImageOps.exif_transpose(opened) if "exif" in opened.info else opened)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more
        reason = "not a JPEG or PNG" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ValueError(reason) from error
    resized = image.size != (size, size)
    if resized:
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)
    return np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(size, size, 3), resized


def _require_few_scans(image: Image.Image, content: bytes) -> None:
    """Raise ValueError for a JPEG that takes minutes to decode. Every scan may change all pixels."""
    if image.format == "JPEG":
        scans = content.count(b"\xff\xda")  # start of scan (ITU-T T.81, annex B)
        if scans * image.width * image.height > MAX_SCANNED_PIXELS:
            raise ValueError(f"{scans:,} scans of {image.width}×{image.height} pixels take too long to decode")


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
    """Name and content of every file; the name of a folder ends in `/` and its content is empty."""
    return _folder_entries(path) if path.is_dir() else read_members(path)


def _folder_entries(top: Path) -> Iterator[tuple[str, bytes]]:
    for folder, subfolders, files in os.walk(top):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        here = Path(folder)
        if here != top:
            yield clean_name(f"{here.relative_to(top).as_posix()}/"), b""
        for file in (here / name for name in sorted(files) if is_image(name)):
            try:
                content = read_regular(file, MAX_MEMBER_BYTES)
            except OSError as error:
                raise DataError(f"{file} can't be read ({error.strerror})", remedy="check its permissions") from error
            yield clean_name(file.relative_to(top).as_posix()), content


def _scan(
    path: Path, max_kept_bytes: int, on_progress: OnProgress
) -> tuple[list[str], Counter[tuple[int, int]], list[tuple[str, bytes]] | None]:
    """The first pass.

    Returns the names of all entries, the number of images by (width, height), and names and contents of all images,
    or None if they are too large to keep.
    """
    names: list[str] = []
    sizes: Counter[tuple[int, int]] = Counter()
    kept: list[tuple[str, bytes]] | None = []
    seen: set[str] = set()
    kept_bytes = names_bytes = 0
    task = f"scan {path.name}"
    for name, content in _entries(path):
        names.append(name)
        names_bytes += len(name)
        if names_bytes > MAX_NAMES_BYTES:
            raise DataError(f"{path} has more names than fit into memory", remedy="import fewer or shorter names")
        if not is_image(name):
            continue
        if name in seen:
            raise DataError(f"{path} contains {name} twice", remedy="pack each image once")
        seen.add(name)
        if size := _size_of(content):
            sizes[size] += 1
        kept_bytes += len(content)
        if kept_bytes > max_kept_bytes:
            kept = None
        elif kept is not None:
            kept.append((name, content))
        if len(seen) % REPORT_EVERY == 0:
            on_progress(Progress(task=task, done=len(seen), unit="images"))
    on_progress(Progress(task=task, done=len(seen), total=len(seen), unit="images"))
    return names, sizes, kept


def _size_of(content: bytes) -> tuple[int, int] | None:
    """Width and height from the header; None if it has none (decoding then reports the reason).

    This takes a tenth of the time that Pillow needs. PNG: IHDR comes first (W3C PNG, section 11.2.1).
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


def _most_common_size(path: Path, sizes: Counter[tuple[int, int]]) -> int:
    if not sizes:
        raise DataError(f"no image in {path} can be read", remedy="convert the images to PNG or JPEG")
    most = max(sizes.values())
    return max(1, min(min(size) for size, count in sizes.items() if count == most))  # the smallest of equally common


def _decode_all(
    path: Path,
    entries: Iterator[tuple[str, bytes]],
    layout: Layout,
    images: dict[str, NDArray[np.uint8]],
    *,
    skip_bad: bool,
    on_progress: OnProgress,
) -> tuple[int, dict[str, list[int]]]:
    """Fill `images`; return how many were resized, and the indices of the unreadable ones by split."""
    size = images["train"].shape[1]
    resized, done, total = 0, 0, len(layout.places)
    bad: dict[str, list[int]] = {split: [] for split in SPLITS}
    for name, content in entries:
        if name not in layout.places:
            continue
        split, index = layout.places[name]
        try:
            images[split][index], other_size = decode(content, size)
            resized += other_size
        except ValueError as error:
            if not skip_bad:
                where = path / name if path.is_dir() else f"{path}: {name}"
                raise DataError(
                    f"{where} is not a readable image ({error})",
                    remedy="replace it, or pass --skip-bad to leave unreadable images out",
                ) from error
            bad[split].append(index)
        done += 1
        if done % REPORT_EVERY == 0 or done == total:
            on_progress(Progress(task=f"decode {path.name}", done=done, total=total, unit="images"))
    if done != total:
        raise DataError(f"{path} changed during the import", remedy="import it again")
    return resized, {split: indices for split, indices in bad.items() if indices}


def _require_every_class(path: Path, split: str, labels: NDArray[np.int64], classes: tuple[str, ...]) -> None:
    for index in np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0):
        raise DataError(
            f"{path}: no image of {split}/{classes[index]} can be read",
            remedy="replace them, or remove the class from train/ and test/",
        )
