"""Download one file from several mirrors: race them, read the winner, switch, resume, verify, rename.

Received bytes are kept in NAME.part. After any interruption the next call continues from there.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cifar_cli.core.data.sources.archive import checksum_of
from cifar_cli.core.data.sources.http_stream import Mirror, MirrorFault, RemoteFile, Transport, client
from cifar_cli.core.data.sources.race import Racer, race
from cifar_cli.core.limits import MAX_DOWNLOAD_BYTES, MAX_HEADER_TEXT, MAX_MARK_BYTES
from cifar_cli.core.progress import OnProgress, Progress
from cifar_cli.core.regular import read_regular
from cifar_cli.errors import DataError, Interrupted, ResourceError


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A complete file."""

    path: Path
    url: str
    """URL of the mirror that sent the last byte, or the path if the file was on disk."""


class Mark(BaseModel):
    """What a partial file without a checksum is a part of."""

    model_config = ConfigDict(strict=True)

    url: str
    validator: str = Field(min_length=1, max_length=MAX_HEADER_TEXT, pattern=r"^[\x20-\x7e]+$")
    size_bytes: int | None = Field(ge=0, le=MAX_DOWNLOAD_BYTES)


@dataclass(eq=False, kw_only=True, slots=True)
class Transfer:
    """The download of one file to `target`."""

    name: str
    """Name for messages."""
    target: Path
    mirrors: list[Mirror]
    remote: RemoteFile
    transport: Transport
    on_progress: OnProgress
    writers: set[Mirror | None] = field(default_factory=set)
    """The mirrors that sent the bytes of the partial file; None stands for an earlier call."""
    single_writer: bool = False
    """One mirror must send the complete file."""
    accept_slow: bool = False
    """All mirrors are slow, so none is replaced for its speed."""
    restarts: int = 0
    """How often the file was begun anew for the server's sake."""

    @property
    def part(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def mark(self) -> Path:
        """Records the URL and the version of a partial file without a checksum."""
        return self.part.with_name(f"{self.part.name}.json")

    def run(self) -> Fetched:
        """Download, verify and rename. Raises DataError, ResourceError, or Interrupted on Ctrl-C."""
        try:
            if not self.part.is_file():  # a pipe would block, and a device take everything
                self.part.unlink(missing_ok=True)
            if not self.remote.byte_identical:
                self.single_writer = True
                self._restore_mark()
            while True:
                last = _run(self._receive())
                if self._verify(last):
                    break
            with self.part.open("rb") as file:
                os.fsync(file.fileno())
            self.part.replace(self.target)
            self.mark.unlink(missing_ok=True)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; {self.offset() / 1e6:,.1f} MB of {self.name} are kept in {self.part}",
                remedy="run the same command again to continue from there",
            ) from None
        except OSError as error:
            raise cannot_write(self.part, error) from error
        return Fetched(path=self.target, url=last.public_url if last else str(self.target))

    def offset(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _restore_mark(self) -> None:
        """Continue an earlier partial file if its URL and version are known; otherwise start over."""
        try:
            mark = Mark.model_validate_json(read_regular(self.mark, MAX_MARK_BYTES))
        except (OSError, ValidationError):
            self._start_over()
            return
        self.writers = {mirror for mirror in self.mirrors if mirror.url == mark.url}
        self.remote.validator, self.remote.size_bytes = mark.validator, mark.size_bytes
        most = MAX_DOWNLOAD_BYTES if mark.size_bytes is None else mark.size_bytes
        if not self.writers or not 0 < self.offset() <= most:
            self._start_over()

    def _restart(self) -> None:
        """Start over for a server that can't continue the file, or has another one. Raises DataError after a few."""
        self.restarts += 1
        self._start_over()
        if self.restarts > self.transport.restarts:
            raise self._failure()

    def _start_over(self) -> None:
        self.part.unlink(missing_ok=True)
        self.mark.unlink(missing_ok=True)
        self.writers = set()
        if not self.remote.byte_identical:
            self.remote.size_bytes = self.remote.validator = None

    def _verify(self, last: Mirror | None) -> bool:
        """Whether the complete part has the right checksum; if not, exclude the mirror at fault and start over."""
        checksum = self.remote.checksum
        if checksum is None:
            return True
        actual = checksum_of(self.part, checksum.split(":")[0], self.on_progress)
        if actual == checksum:
            return True
        if self.writers == {last} and last is not None:
            reason = f"sent wrong bytes: their checksum is {actual}, expected {checksum}"
            last.note(MirrorFault(reason, final=True))
        else:  # several mirrors wrote and any may be wrong: from now on one mirror sends the complete file
            self.single_writer = True
        self._start_over()
        return False

    async def _receive(self) -> Mirror | None:
        """Complete the part; return the mirror that sent the last byte. Raises DataError when no mirror can."""
        rounds = interruptions = furthest = 0
        last: Mirror | None = None
        if self.offset() and not self.writers:
            self.writers = {None}
        async with client(self.transport) as http:
            while self.remote.size_bytes is None or self.offset() < self.remote.size_bytes:
                furthest = max(furthest, self.offset())
                last, finished = await self._receive_from_winner(http)
                if finished:
                    break
                gained = self.offset() - furthest
                rounds = 0 if gained > 0 else await self._pause(rounds + 1)
                if gained >= self.transport.fair_bytes:
                    interruptions = 0
                elif gained > 0:
                    interruptions = await self._pause_after(interruptions + 1)
        return last

    async def _pause_after(self, interruptions: int) -> int:
        """Wait after connections that broke one after the other and sent little. Raises DataError after too many."""
        if interruptions > self.transport.interruptions:
            raise self._failure()
        if interruptions > 1:
            seconds = self._backoff(interruptions - 1)
            self._report(self.offset(), f"connections break early; retrying in {seconds:g} s")
            await asyncio.sleep(seconds)
        return interruptions

    def _backoff(self, failures: int) -> float:
        return min(self.transport.backoff_seconds * 2.0 ** (failures - 1), self.transport.backoff_limit_seconds)

    async def _receive_from_winner(self, http: httpx.AsyncClient) -> tuple[Mirror | None, bool]:
        """Race the mirrors and read the winner; return it, and whether the end of the file was reached."""
        if self.offset() and not self.remote.byte_identical and not self.remote.validator:
            self._restart()  # nothing tells whether the server still has the same version
        contenders = self._contenders()
        if not contenders and not all(mirror.failed for mirror in self.mirrors):
            self._start_over()  # the only mirror that may continue this part has failed: another one starts over
            contenders = self._contenders()
        if not contenders:
            raise self._failure()
        offset = self.offset()
        self._report(offset, contenders[0].host if len(contenders) == 1 else f"trying {len(contenders)} mirrors")
        racer = await race(http, contenders, self.remote, offset, self.transport)
        if racer is None:
            self.accept_slow = any(mirror.slow for mirror in self.mirrors)  # a slow mirror is better than none
            if any(mirror.fault and mirror.fault.changed for mirror in contenders):
                self._restart()
            return None, False
        try:
            await self._read(racer, offset)
        finally:
            await racer.stop()
        if racer.fault and racer.fault.changed:
            self._restart()
        return racer.mirror, racer.finished

    async def _read(self, racer: Racer, offset: int) -> None:
        """Write the bytes of a mirror until it ends, fails, or is so slow that another should replace it."""
        clock = asyncio.get_running_loop().time
        mirror = racer.mirror
        self.writers.add(mirror)
        self._save_mark(mirror)
        if self.remote.size_bytes is not None and not self.remote.byte_identical:  # the size is known only now
            require_space(self.part.parent, self.remote.size_bytes - offset)
        seconds = self.transport.slow_seconds
        with self.part.open("ab") as file:
            window_start, window_offset = clock(), offset
            while (chunk := await racer.take(max(0.0, window_start + seconds - clock()))) is not None:
                file.write(chunk)
                file.flush()  # bytes in Python's buffer would be lost on a kill
                offset += len(chunk)
                self._report(offset, mirror.host)
                elapsed = clock() - window_start
                if elapsed < seconds:
                    continue
                speed = (offset - window_offset) / elapsed
                if speed < self.transport.slow_bytes_per_second and self._others(mirror):
                    mirror.slow = True
                    mirror.note(MirrorFault(f"slowed to {speed / 1e3:,.0f} kB/s"))
                    return
                window_start, window_offset = clock(), offset

    def _contenders(self) -> list[Mirror]:
        """The mirrors to try now: all that have not failed, and slow ones only if there are no others."""
        alive = [mirror for mirror in self.mirrors if not mirror.failed]
        if self.single_writer and self.offset():
            return [mirror for mirror in alive if mirror in self.writers]
        if not self.remote.byte_identical:
            return alive[:1]
        quick = [mirror for mirror in alive if not mirror.slow]
        self.accept_slow = self.accept_slow or not quick
        return alive if self.accept_slow else quick

    def _others(self, mirror: Mirror) -> bool:
        return not self.accept_slow and any(other is not mirror for other in self._contenders())

    async def _pause(self, rounds: int) -> int:
        """Wait after `rounds` rounds without a byte and return the new count; after too many, exclude the mirrors."""
        contenders = self._contenders()
        unreachable = all(mirror.fault and mirror.fault.unreachable for mirror in contenders)
        if rounds >= (self.transport.unreachable_rounds if unreachable else self.transport.fruitless_rounds):
            for mirror in contenders:
                mirror.failed = True
            return 0  # other mirrors may start over, if there are any
        if contenders:
            seconds = self._backoff(rounds)
            self._report(self.offset(), f"no mirror responds; retrying in {seconds:g} s")
            await asyncio.sleep(seconds)
        return rounds

    def _save_mark(self, mirror: Mirror) -> None:
        if not self.remote.byte_identical and self.remote.validator:
            mark = Mark(url=mirror.url, validator=self.remote.validator, size_bytes=self.remote.size_bytes)
            self.mark.write_text(mark.model_dump_json(), encoding="utf-8")

    def _report(self, done: int, detail: str) -> None:
        total = self.remote.size_bytes
        self.on_progress(Progress(task=f"download {self.name}", done=done, total=total, unit="bytes", detail=detail))

    def _failure(self) -> DataError:
        tried = "; ".join(f"{mirror.host} {mirror.fault or 'was not tried'}" for mirror in self.mirrors)
        return DataError(
            f"{self.name} can't be downloaded: {tried}",
            remedy="`cifar download --from PATH` if you have a copy, `--from URL` if you know another mirror, or "
            "`--dataset shapes`, which needs no network",
        )


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raise ResourceError unless a folder's disk has that much free space."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise ResourceError(
            f"{folder} has {free_bytes / 1e6:,.0f} MB free but {needed_bytes / 1e6:,.0f} MB are needed",
            remedy="free some space, or pass --data-dir for another disk",
        )


def cannot_write(part: Path, error: OSError) -> ResourceError:
    reason = "no space left" if error.errno == errno.ENOSPC else error.strerror or str(error)
    return ResourceError(
        f"{part} can't be written ({reason})",
        remedy="free some space, or pass --data-dir for a folder you may write to; received bytes are kept",
    )


def _run(work: Coroutine[Any, Any, Mirror | None]) -> Mirror | None:
    """Run a coroutine; in a notebook, whose thread has a running event loop, in another thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, work).result()
