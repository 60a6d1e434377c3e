"""Start several mirrors at the same time, keep the one that has sent most, and drop the others."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence

import httpx

from cifar_cli.core.data.sources.http_stream import Mirror, MirrorFault, RemoteFile, Transport, stream


class Racer:
    """Reads one mirror chunk by chunk; the next chunk is requested when the one before has been collected."""

    def __init__(self, mirror: Mirror, chunks: AsyncGenerator[bytes]) -> None:
        self.mirror = mirror
        self.received_bytes = 0
        self.fault: MirrorFault | None = None
        self.finished = False
        self._chunks = chunks
        self._buffer: deque[bytes] = deque()
        self.reading = asyncio.create_task(self._next())

    async def _next(self) -> bytes | None:
        return await anext(self._chunks, None)

    async def take(self, timeout_seconds: float) -> bytes | None:
        """The next bytes; b"" after a timeout; None after the last bytes, when `finished` or `fault` is set."""
        if not self._buffer:
            await asyncio.wait({self.reading}, timeout=timeout_seconds)
            self.collect()
        if self._buffer:
            return self._buffer.popleft()
        return None if self.finished or self.fault else b""

    def collect(self) -> None:
        """Buffer the requested chunk if it has arrived, and request the next one."""
        if not self.reading.done() or self.finished or self.fault:
            return
        try:
            chunk = self.reading.result()
        except Exception as error:
            unexpected = MirrorFault(f"failed ({type(error).__name__}: {error})", final=True)
            self.fault = error if isinstance(error, MirrorFault) else unexpected
            self.mirror.note(self.fault)
            return
        if chunk is None:
            self.finished = True
            return
        self._buffer.append(chunk)
        self.received_bytes += len(chunk)
        self.reading = asyncio.create_task(self._next())

    async def stop(self) -> None:
        """Drop the connection."""
        self.reading.cancel()
        await asyncio.gather(self.reading, return_exceptions=True)
        await asyncio.gather(self._chunks.aclose(), return_exceptions=True)  # after the read has ended


async def race(
    http: httpx.AsyncClient, mirrors: Sequence[Mirror], remote: RemoteFile, offset: int, transport: Transport
) -> Racer | None:
    """Read all mirrors from `offset` for a short time and return the one that sent most, still running.

    Returns None when all failed. The reason of each failure is noted on its mirror.
    """
    racers = [Racer(mirror, stream(http, mirror, remote, offset, transport)) for mirror in mirrors]
    leader: Racer | None = None
    try:
        leader = await _leader(racers, transport)
    finally:
        await asyncio.gather(*(racer.stop() for racer in racers if racer is not leader))
    return leader


async def _leader(racers: Sequence[Racer], transport: Transport) -> Racer | None:
    """Wait until one has sent race_bytes or the complete file; after race_seconds, until one has sent anything."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + (transport.race_seconds if len(racers) > 1 else 0.0)
    while running := [racer for racer in racers if racer.fault is None or racer.received_bytes]:
        leader = max(running, key=lambda racer: (racer.finished, racer.received_bytes))
        reading = {racer.reading for racer in racers if not racer.reading.done()}
        late = clock() >= deadline or not reading
        if leader.finished or leader.received_bytes >= transport.race_bytes or (late and leader.received_bytes):
            return leader
        timeout_seconds = None if late else deadline - clock()
        await asyncio.wait(reading, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        for racer in racers:
            racer.collect()
    return None
