"""One mirror as a stream of bytes from a given place in the file, with every lie it may tell named."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from cifar_cli import __version__

RETRIED_STATUSES = frozenset({408, 425, 429})  # and all of 500..599
HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body")


@dataclass(frozen=True, kw_only=True, slots=True)
class Transport:
    """Timeouts and thresholds of a download.

    read_seconds: silence after which a connection counts as dead. race_seconds: how long mirrors are tried
    side by side; one that has sent race_bytes wins at once. slow_bytes_per_second over slow_seconds: below
    it another mirror takes over, if there is one. fruitless_rounds: how often in a row all mirrors may fail
    without one new byte (unreachable_rounds: when none could even be connected to); backoff_seconds before
    the second round, doubled each time up to backoff_limit_seconds. interruptions: how many broken
    connections in all.
    """

    connect_seconds: float = 10.0
    read_seconds: float = 15.0
    race_seconds: float = 1.5
    race_bytes: int = 8 << 20
    slow_bytes_per_second: float = 200_000.0
    slow_seconds: float = 8.0
    fruitless_rounds: int = 5
    unreachable_rounds: int = 2
    backoff_seconds: float = 1.0
    backoff_limit_seconds: float = 30.0
    interruptions: int = 500


@dataclass(eq=False, kw_only=True, slots=True)
class Mirror:
    """One place the file lies, and what is known about it by now.

    problem: why it last failed. out: not to be asked again. unreachable: the last failure was to connect.
    changed: it holds another version of the file than the one begun. slow: another mirror may do better.
    """

    url: str
    problem: str = ""
    out: bool = False
    unreachable: bool = False
    changed: bool = False
    slow: bool = False

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc.rpartition("@")[2] or self.url

    @property
    def public_url(self) -> str:
        """The URL without what may be secret in it: a password, a signed query."""
        return urlsplit(self.url)._replace(netloc=self.host, query="", fragment="").geturl()

    def note(self, fault: MirrorFault) -> None:
        """Remember why it failed."""
        self.problem = fault.reason
        self.out = self.out or fault.final
        self.unreachable = fault.unreachable
        self.changed = fault.changed


@dataclass(eq=False, kw_only=True, slots=True)
class Wanted:
    """What is being fetched. size_bytes is None until a server tells it.

    byte_identical: all mirrors carry the same bytes and a checksum will prove it, so one may continue where
    another stopped. validator: of a file without a checksum, the server's mark for its version.
    """

    size_bytes: int | None
    byte_identical: bool
    validator: str | None = None


class MirrorFault(Exception):
    """A mirror did not deliver. final: it won't, however often it is asked. changed: the file there is another."""

    def __init__(self, reason: str, *, final: bool = False, unreachable: bool = False, changed: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final
        self.unreachable = unreachable
        self.changed = changed


def client(transport: Transport) -> httpx.AsyncClient:
    """An HTTP client with the transport's timeouts."""
    timeout = httpx.Timeout(transport.read_seconds, connect=transport.connect_seconds)
    # Compression on the way would change the bytes that ranges count.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"cifar-cli/{__version__}"}
    return httpx.AsyncClient(timeout=timeout, headers=headers, follow_redirects=True)


async def stream(
    http: httpx.AsyncClient, mirror: Mirror, wanted: Wanted, offset: int, transport: Transport
) -> AsyncGenerator[bytes]:
    """Yield the file's bytes from `offset` to its end. Raises MirrorFault unless the end was reached.

    Fills in wanted.size_bytes and wanted.validator when the server is the first to tell them.
    """
    headers = {}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if wanted.validator:
            headers["If-Range"] = wanted.validator
    try:
        async with http.stream("GET", mirror.url, headers=headers) as response:
            position = _judge_head(response, wanted, offset)
            async for chunk in response.aiter_raw():
                if position == 0:
                    _refuse_web_page(chunk)
                start, position = position, position + len(chunk)
                if wanted.size_bytes is not None and position > wanted.size_bytes:
                    raise MirrorFault(f"sends more than the expected {wanted.size_bytes:,} bytes", final=True)
                if position > offset:  # a server without ranges starts at zero: drop what is already here
                    yield chunk[max(0, offset - start) :]
            if wanted.size_bytes is None:
                wanted.size_bytes = position
            elif position < wanted.size_bytes:
                raise MirrorFault(f"ended at byte {position:,} of {wanted.size_bytes:,}")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _fault_of(error, transport) from error


def _judge_head(response: httpx.Response, wanted: Wanted, offset: int) -> int:
    """Check status and headers; return the position in the file of the first byte to come."""
    status = response.status_code
    if status == 416:
        same = wanted.byte_identical
        raise MirrorFault(f"has no byte {offset:,}: its file is shorter", final=same, changed=not same)
    if status not in (200, 206):
        reason = f"answers {status} {response.reason_phrase}".rstrip()
        raise MirrorFault(reason, final=status < 500 and status not in RETRIED_STATUSES)
    if response.headers.get("content-type", "").lower().startswith("text/html"):
        raise _web_page()
    position, size = 0, _number(response.headers.get("content-length"))
    if status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("content-range", ""))
        if not found or int(found[1]) != offset:
            raise MirrorFault("answers with another range than asked for", final=True)
        position, size = offset, _number(found[2])
    validator = _validator(response)
    unsure = wanted.validator != validator or (status == 200 and validator is None)
    if offset and not wanted.byte_identical and unsure:
        raise MirrorFault("holds another version now", changed=True)
    if wanted.size_bytes is None:
        wanted.size_bytes = size
    elif size is not None and size != wanted.size_bytes:
        raise MirrorFault(f"has a file of {size:,} bytes, expected {wanted.size_bytes:,}", final=True)
    if not wanted.byte_identical:
        wanted.validator = validator
    return position


def _validator(response: httpx.Response) -> str | None:
    """A strong ETag, else the modification date (RFC 9110, section 13.1.5); None when there is neither."""
    etag: str | None = response.headers.get("etag")
    if etag and not etag.startswith("W/"):
        return etag
    modified: str | None = response.headers.get("last-modified")
    return modified


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _refuse_web_page(start: bytes) -> None:
    if start[:512].lstrip().lower().startswith(HTML_STARTS):
        raise _web_page()


def _web_page() -> MirrorFault:
    return MirrorFault("sends a web page (HTML) instead of the archive", final=True)


def _fault_of(error: Exception, transport: Transport) -> MirrorFault:
    if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol)):
        return MirrorFault("is not a URL that can be fetched", final=True)
    if isinstance(error, httpx.ConnectTimeout):
        return MirrorFault(f"gives no connection within {transport.connect_seconds:g} s", unreachable=True)
    if isinstance(error, (httpx.ConnectError, httpx.ProxyError)):
        return MirrorFault(f"can't be reached ({error})", unreachable=True)
    if isinstance(error, httpx.ReadTimeout):
        return MirrorFault(f"was silent for {transport.read_seconds:g} s")
    return MirrorFault(f"broke the connection ({str(error) or type(error).__name__})")
