"""A real HTTP server with faults that tests switch on, and fixtures that download from it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_cli.core.data.config import DataConfig, ImportConfig
from cifar_cli.core.data.dataset import check_dataset, import_dataset, open_dataset
from cifar_cli.core.data.results import DownloadResult
from cifar_cli.core.data.sources.http_stream import Transport
from cifar_cli.core.progress import Progress

SLICE_BYTES = 4096


@dataclass
class Route:
    """How the server answers requests for one path."""

    body: bytes
    cuts: list[int] = field(default_factory=list)
    """Body bytes after which the connection is cut, one entry for each request; later requests are not cut."""
    statuses: list[int] = field(default_factory=list)
    """Statuses sent instead of the body, one for each request."""
    always: int | None = None
    """The status of every request after those in `statuses`."""
    stall_after: int | None = None
    """Bytes after which the server stops sending without closing the connection."""
    bytes_per_second: float | None = None
    """None for no limit."""
    slow_after: int = 0
    """Bytes sent at full speed before the limit applies."""
    content_type: str = "application/x-gzip"
    ranges: bool = True
    length: bool = True
    """Whether Content-Length is sent."""
    chunked: bool = False
    """Whether the body is sent in chunks, whose last one tells the end."""
    etag: str | None = None
    modified: str | None = None
    """The header Last-Modified."""
    reason: str | None = None
    """The words after the status."""
    rest: bytes | None = None
    """The body of which ranges are sent, if it is another one."""
    shift: int = 0
    """Bytes by which a range is off."""
    endless: bool = False
    """The body is sent again and again."""
    redirect: str | None = None
    starts: list[int] = field(default_factory=list)
    """First byte of each request so far."""
    sent_bytes: list[int] = field(default_factory=list)
    """Bytes sent for each request so far."""


class FaultServer(ThreadingHTTPServer):
    daemon_threads = True
    routes: dict[str, Route]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def add(self, path: str, route: Route) -> str:
        self.routes[path] = route
        return self.url(path)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that close the connection, as these tests make them do."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        self.close_connection = True
        route = self.server.routes[self.path]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        current = self.headers.get("If-Range") in (None, route.etag, route.modified)
        start = int(asked[1]) if asked and route.ranges and current else 0
        number = len(route.starts)
        route.starts.append(start)
        route.sent_bytes.append(0)
        if route.redirect:
            self._head(302, {"Location": route.redirect, "Content-Length": "0"})
            return
        status = route.statuses.pop(0) if route.statuses else route.always
        if status:
            self._head(status, {"Content-Length": "0"}, route.reason)
            return
        if start >= len(route.body) and start:
            self._head(416, {"Content-Length": "0"})
            return
        headers = {"Content-Type": route.content_type, "Connection": "close"}
        if route.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif route.length:
            headers["Content-Length"] = str(len(route.body) - start)
        if route.etag:
            headers["ETag"] = route.etag
        if route.modified:
            headers["Last-Modified"] = route.modified
        if start:
            headers["Content-Range"] = f"bytes {start + route.shift}-{len(route.body) - 1}/{len(route.body)}"
        self._head(206 if start else 200, headers)
        cut = route.cuts.pop(0) if route.cuts else None
        self._send(route, start, number, None if cut is None else start + cut)

    def _head(self, status: int, headers: dict[str, str], reason: str | None = None) -> None:
        self.send_response(status, reason)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, route: Route, start: int, number: int, cut: int | None) -> None:
        position = start
        body = route.rest if start and route.rest is not None else route.body
        while route.endless:
            self.wfile.write(route.body)
            route.sent_bytes[number] += len(route.body)
        while position < len(route.body):
            if route.stall_after is not None and position >= route.stall_after:
                time.sleep(30)
                return
            stops = [len(route.body), position + SLICE_BYTES, cut, route.stall_after]
            piece = body[position : min(stop for stop in stops if stop is not None)]
            if not piece:
                return  # cut
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if route.chunked else piece)
            position += len(piece)
            route.sent_bytes[number] += len(piece)
            if route.bytes_per_second and position > route.slow_after:
                time.sleep(len(piece) / route.bytes_per_second)
        if route.chunked:
            self.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def server() -> Iterator[FaultServer]:
    running = FaultServer(("127.0.0.1", 0), _Handler)
    running.routes = {}
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def route() -> type[Route]:
    return Route


QUICK = Transport(
    connect_seconds=5,
    read_seconds=1.0,
    race_seconds=0.15,
    race_bytes=64 << 10,
    slow_bytes_per_second=50_000,
    slow_seconds=0.4,
    backoff_seconds=0.02,
    backoff_limit_seconds=0.1,
)


@pytest.fixture
def quick() -> Transport:
    """Timeouts and thresholds for a server on this machine."""
    return QUICK


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def body(tiny_cifar10: Any) -> bytes:
    return tiny_cifar10.path.read_bytes()


Fetch = Callable[..., DownloadResult]


@pytest.fixture
def fetch(tmp_path: Path, tiny_cifar10: Any) -> Fetch:
    """Download the small archive from the given mirrors into tmp_path / "data"."""

    def run(*mirrors: str, events: list[Progress] | None = None, **options: Any) -> DownloadResult:
        transport = options.pop("transport", QUICK)
        archive = options.pop("archive", tiny_cifar10.archive)
        return import_dataset(
            ImportConfig(data=DataConfig(data_dir=tmp_path / "data"), **options),
            transport=transport,
            archives={"cifar10": replace(archive, mirrors=mirrors)},
            on_progress=events.append if events is not None else lambda progress: None,
        )

    return run


@pytest.fixture
def assert_complete(tiny_cifar10: Any) -> Callable[[Path], None]:
    """The store has the archive's images, the archive is byte-identical, and no partial file is left."""

    def check(data_dir: Path) -> None:
        config = DataConfig(data_dir=data_dir)
        store = open_dataset(config, fetch=False)
        assert np.array_equal(store.train.images_NHWC.numpy(), tiny_cifar10.train_images)
        assert store.train.labels_N.tolist() == tiny_cifar10.train_labels
        assert check_dataset(config, archives={"cifar10": tiny_cifar10.archive}).intact
        assert (data_dir / tiny_cifar10.archive.filename).read_bytes() == tiny_cifar10.path.read_bytes()
        assert not list(data_dir.glob("*.part*"))

    return check
