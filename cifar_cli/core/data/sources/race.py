"""Start several mirrors at the same time, keep the one that has sent most, and drop the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Sequence

import httpx

from cifar_cli.core.data.sources.http_stream import Mirror, MirrorFault, RemoteFile, Transport, stream


class Racer:
    """Reads one mirror into a bounded buffer; when the buffer is full, reading pauses."""

    def __init__(
        self, mirror: Mirror, chunks: AsyncGenerator[bytes], *, buffer_bytes: int, news: asyncio.Event
    ) -> None:
        self.mirror = mirror
        self.received_bytes = 0
        self.fault: MirrorFault | None = None
        self.finished = False
        self._taken_bytes = 0
        self._buffer: deque[bytes] = deque()
        self._buffer_bytes = buffer_bytes
        self._news = news
        self._room = asyncio.Event()
        self._task = asyncio.create_task(self._pump(chunks))

    async def take(self, timeout_seconds: float) -> bytes | None:
        """The next bytes; b"" after a timeout; None after the last bytes, when `finished` or `fault` is set."""
        if not self._buffer and not self.finished and self.fault is None:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), timeout_seconds)
        if not self._buffer:
            return None if self.finished or self.fault else b""
        chunk = self._buffer.popleft()
        self._taken_bytes += len(chunk)
        self._room.set()
        return chunk

    async def stop(self) -> None:
        """Drop the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _pump(self, chunks: AsyncGenerator[bytes]) -> None:
        try:
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    self._buffer.append(chunk)
                    self.received_bytes += len(chunk)
                    self._news.set()
                    while self.received_bytes - self._taken_bytes >= self._buffer_bytes:
                        self._room.clear()
                        await self._room.wait()
            self.finished = True
        except MirrorFault as fault:
            self.fault = fault
        except Exception as error:  # any failure must wake the reader
            self.fault = MirrorFault(f"failed ({type(error).__name__}: {error})", final=True)
        self._news.set()


async def race(
    http: httpx.AsyncClient, mirrors: Sequence[Mirror], remote: RemoteFile, offset: int, transport: Transport
) -> Racer | None:
    """Read all mirrors from `offset` for a short time and return the one that sent most, still running.

    Returns None when all failed. The reason of each failure is noted on its mirror.
    """
    news = asyncio.Event()
    racers = [
        Racer(mirror, stream(http, mirror, remote, offset, transport), buffer_bytes=transport.race_bytes, news=news)
        for mirror in mirrors
    ]
    leader: Racer | None = None
    try:
        leader = await _leader(racers, news, transport)
    finally:
        await asyncio.gather(*(racer.stop() for racer in racers if racer is not leader))
        for racer in racers:
            if racer is not leader and racer.fault:
                racer.mirror.note(racer.fault)
    return leader


async def _leader(racers: Sequence[Racer], news: asyncio.Event, transport: Transport) -> Racer | None:
    """Wait until one has sent race_bytes or the complete file; after race_seconds, until one has sent anything."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + (transport.race_seconds if len(racers) > 1 else 0.0)
    while running := [racer for racer in racers if racer.fault is None or racer.received_bytes]:
        leader = max(running, key=lambda racer: (racer.finished, racer.received_bytes))
        late = clock() >= deadline
        if leader.finished or leader.received_bytes >= transport.race_bytes or (late and leader.received_bytes):
            return leader
        news.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(news.wait(), None if late else deadline - clock())
    return None
