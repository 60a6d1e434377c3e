"""Download an archive: an official one, verified by its checksum, or an archive of images from a URL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cifar_cli.core.data.sources.archive import checksum_of
from cifar_cli.core.data.sources.http_stream import Mirror, RemoteFile, Transport
from cifar_cli.core.data.sources.mirrors import Archive
from cifar_cli.core.data.sources.transfer import Fetched, Transfer, require_space
from cifar_cli.core.progress import OnProgress

STORE_PER_ARCHIVE = 1.1  # size of the store relative to the archive


def fetch_archive(
    archive: Archive,
    folder: Path,
    *,
    extra_mirrors: Sequence[str],
    transport: Transport,
    on_progress: OnProgress,
) -> Fetched:
    """Download an official archive into a folder, unless a verified copy is there.

    extra_mirrors: URLs to try in addition to the known ones.
    Raises DataError with the failure of each mirror, ResourceError when there is no space, Interrupted on
    Ctrl-C (received bytes are kept for the next call).
    """
    target = folder / archive.filename
    checksum = f"md5:{archive.md5}"
    if (
        target.is_file()
        and target.stat().st_size == archive.size_bytes
        and checksum_of(target, "md5", on_progress) == checksum
    ):
        return Fetched(path=target, url=str(target))
    transfer = Transfer(
        name=archive.dataset,
        target=target,
        mirrors=[Mirror(url=url) for url in dict.fromkeys((*extra_mirrors, *archive.mirrors))],
        remote=RemoteFile(size_bytes=archive.size_bytes, checksum=checksum),
        transport=transport,
        on_progress=on_progress,
    )
    if transfer.offset() > archive.size_bytes:
        transfer.part.unlink()
    require_space(folder, archive.size_bytes - transfer.offset() + int(STORE_PER_ARCHIVE * archive.size_bytes))
    return transfer.run()


def fetch_images_archive(
    urls: Sequence[str],
    folder: Path,
    *,
    name: str,
    transport: Transport,
    on_progress: OnProgress,
) -> Fetched:
    """Download an archive of images, known by its URL only, to DATASET-FILENAME in a folder.

    There is no checksum, so bytes of two servers are never mixed, and a partial file is continued only if the
    server confirms that the file is unchanged. name: of the dataset.
    Raises the same errors as `fetch_archive`.
    """
    last = unquote(urlsplit(urls[0]).path.rsplit("/", 1)[-1])
    return Transfer(
        name=name,
        target=folder / f"{name}-{re.sub(r'[^A-Za-z0-9_.-]', '_', last)}",
        mirrors=[Mirror(url=url) for url in dict.fromkeys(urls)],
        remote=RemoteFile(),
        transport=transport,
        on_progress=on_progress,
    ).run()
