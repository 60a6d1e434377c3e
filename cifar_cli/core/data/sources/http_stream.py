"""One mirror as a stream of bytes from a given offset; every invalid response has an error message."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx

from cifar_cli import __version__
from cifar_cli.core.data.sources.mirrors import without_secrets
from cifar_cli.core.limits import MAX_DOWNLOAD_BYTES, MAX_HEADER_TEXT, MAX_INTERRUPTIONS, MAX_UNANNOUNCED_BYTES

RETRIED_STATUSES = frozenset({408, 425, 429})  # and all of 500..599
WEB_PAGE = "sends a web page (HTML) instead of the archive"
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-[0-9]{1,15}/([0-9]{1,15}|\*)")
HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body")


@dataclass(frozen=True, kw_only=True, slots=True)
class Transport:
    """Timeouts and thresholds of a download."""

    connect_seconds: float = 10.0
    read_seconds: float = 15.0
    """A connection that sends nothing for this long has failed."""
    race_seconds: float = 1.5
    """Mirrors are compared for this long, unless one has sent `race_bytes` before."""
    race_bytes: int = 8 << 20
    slow_bytes_per_second: float = 200_000.0
    """A mirror that is slower than this over `slow_seconds` is replaced, if there is another one."""
    slow_seconds: float = 8.0
    fruitless_rounds: int = 5
    """Rounds without a single new byte from any mirror before the download fails."""
    unreachable_rounds: int = 2
    """The same when no mirror could be connected to."""
    backoff_seconds: float = 1.0
    """Pause before the second round; doubled for each further one, up to `backoff_limit_seconds`."""
    backoff_limit_seconds: float = 30.0
    interruptions: int = MAX_INTERRUPTIONS
    """Broken connections in a row, each after fewer than `fair_bytes`, before the download fails."""
    fair_bytes: int = 1 << 20
    restarts: int = 5
    """How often a file is begun anew because the server can't or won't continue it."""
    unannounced_bytes: int = MAX_UNANNOUNCED_BYTES
    """Largest file whose size the server does not announce."""


@dataclass(eq=False, kw_only=True, slots=True)
class Mirror:
    """One URL of the file, and its state during a download."""

    url: str
    fault: MirrorFault | None = None
    """The last failure."""
    failed: bool = False
    """It is not tried again."""
    slow: bool = False
    """It fell below the minimum speed."""
    no_ranges: bool = False
    """It answered the request for a range with another one, so it is asked for the complete file."""

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc.rpartition("@")[2] or self.url

    @property
    def public_url(self) -> str:
        return without_secrets(self.url)

    def note(self, fault: MirrorFault) -> None:
        """Record a failure."""
        self.fault = fault
        self.failed = self.failed or fault.final


@dataclass(eq=False, kw_only=True, slots=True)
class RemoteFile:
    """The file that is downloaded."""

    size_bytes: int | None = None
    """None until a server reports it."""
    checksum: str | None = None
    """"md5:…" of the complete file, if it is known."""
    validator: str | None = None
    """For a file without a checksum: the server's strong ETag or modification date of its version."""

    @property
    def byte_identical(self) -> bool:
        """All mirrors have the same bytes, verified by the checksum, so one may continue where another stopped."""
        return self.checksum is not None


@dataclass(eq=False)
class MirrorFault(Exception):
    """A mirror failed."""

    reason: str
    final: bool = False
    """A retry would fail too."""
    unreachable: bool = False
    """The failure was to connect."""
    changed: bool = False
    """The mirror has another version of the file than the partial one on disk."""


def client(transport: Transport) -> httpx.AsyncClient:
    """An HTTP client with the transport's timeouts."""
    timeout = httpx.Timeout(transport.read_seconds, connect=transport.connect_seconds)
    # Ranges count the bytes of the file, not of a compressed transfer.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"cifar-cli/{__version__}"}
    return httpx.AsyncClient(timeout=timeout, headers=headers, follow_redirects=True)


async def stream(
    http: httpx.AsyncClient, mirror: Mirror, remote: RemoteFile, offset: int, transport: Transport
) -> AsyncGenerator[bytes]:
    """Yield the file's bytes from `offset` to its end. Raises MirrorFault unless the end was reached.

    Sets remote.size_bytes and remote.validator if they are not known yet.
    """
    headers = {}
    if offset and not mirror.no_ranges:
        headers["Range"] = f"bytes={offset}-"
        if remote.validator:
            headers["If-Range"] = remote.validator
    try:
        async with http.stream("GET", mirror.url, headers=headers) as response:
            position = _check_head(response, mirror, remote, offset)
            async for chunk in response.aiter_raw():
                if position == 0 and chunk[:512].lstrip().lower().startswith(HTML_STARTS):
                    raise MirrorFault(WEB_PAGE, final=True)
                start, position = position, position + len(chunk)
                if remote.size_bytes is not None and position > remote.size_bytes:
                    raise _other_size(f"sends more than the expected {remote.size_bytes:,} bytes", remote, offset)
                if position > transport.unannounced_bytes and remote.size_bytes is None:
                    limit = f"{transport.unannounced_bytes:,} bytes"
                    raise MirrorFault(f"sends more than {limit} without announcing a size", final=True, changed=True)
                if position > offset:  # a server without ranges starts at zero: skip the bytes that are on disk
                    yield chunk[max(0, offset - start) :]
            if remote.size_bytes is None:
                remote.size_bytes = position
            elif position < remote.size_bytes:
                raise MirrorFault(f"ended at byte {position:,} of {remote.size_bytes:,}")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _fault_of(error, transport) from error


def _check_head(response: httpx.Response, mirror: Mirror, remote: RemoteFile, offset: int) -> int:
    """Check status and headers; return the position in the file of the first byte of the body."""
    status = response.status_code
    if status == 416:
        same = remote.byte_identical
        raise MirrorFault(f"has a file shorter than {offset:,} bytes", final=same, changed=not same)
    if status not in (200, 206):
        reason = f"answers {status} {response.reason_phrase[:MAX_HEADER_TEXT]}".rstrip()
        raise MirrorFault(reason, final=status < 500 and status not in RETRIED_STATUSES)
    if response.headers.get("content-type", "").lower().startswith("text/html"):
        raise MirrorFault(WEB_PAGE, final=True)
    position, size = 0, _number(response.headers.get("content-length"))
    if status == 206:
        found = CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if not found or int(found[1]) != offset:
            fault = MirrorFault("sends another range than requested", final=mirror.no_ranges or not offset)
            mirror.no_ranges = True
            raise fault
        position, size = offset, _number(found[2])
    if size is not None and size > MAX_DOWNLOAD_BYTES:
        raise MirrorFault(f"has a file of {size:,} bytes, more than any archive of images", final=True)
    validator = _validator(response)
    if offset and not remote.byte_identical and (validator is None or remote.validator != validator):
        raise MirrorFault("has another version of the file now", changed=True)
    if remote.size_bytes is None:
        remote.size_bytes = size
    elif size is not None and size != remote.size_bytes:
        raise _other_size(f"has a file of {size:,} bytes, expected {remote.size_bytes:,}", remote, offset)
    if not remote.byte_identical:
        remote.validator = validator
    return position


def _other_size(reason: str, remote: RemoteFile, offset: int) -> MirrorFault:
    """The fault of a size that isn't the expected one. That of a partial file may be of another version."""
    stale = bool(offset) and not remote.byte_identical
    return MirrorFault(reason, final=not stale, changed=stale)


def _validator(response: httpx.Response) -> str | None:
    """A strong validator, with which a partial file may be continued (RFC 9110, section 13.1.5), or None.

    An ETag that isn't weak, or a modification date at least a minute before the response was made (section 8.8.2.2):
    within the same second a file could have changed twice.
    """
    etag: str = response.headers.get("etag", "")
    if len(etag) <= MAX_HEADER_TEXT and re.fullmatch(r'"[\x21\x23-\x7e]*"', etag):
        return etag
    modified: str = response.headers.get("last-modified", "")
    try:
        age = parsedate_to_datetime(response.headers.get("date", "")) - parsedate_to_datetime(modified)
    except (ValueError, TypeError, OverflowError):  # a date is missing or invalid, or only one has a time zone
        return None
    return modified if age >= timedelta(minutes=1) and modified.isascii() and modified.isprintable() else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,15}", text) else None


def _fault_of(error: Exception, transport: Transport) -> MirrorFault:
    if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol)):
        return MirrorFault("is not a valid http(s) URL", final=True)
    if isinstance(error, httpx.ConnectTimeout):
        return MirrorFault(f"did not accept a connection within {transport.connect_seconds:g} s", unreachable=True)
    if isinstance(error, (httpx.ConnectError, httpx.ProxyError)):
        return MirrorFault(f"can't be reached ({error})", unreachable=True)
    if isinstance(error, httpx.ReadTimeout):
        return MirrorFault(f"sent nothing for {transport.read_seconds:g} s")
    return MirrorFault(f"broke the connection ({str(error) or type(error).__name__})")
