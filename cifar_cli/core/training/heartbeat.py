"""Signs of life of the processes of a run, in the store that they share: a launcher may not say which of them died."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from torch.distributed.distributed_c10d import Store

BEAT_SECONDS = 5.0
# Without a beat, after which a process is taken for dead. Busy ones beat too, on a thread of their own.
SILENT_SECONDS = 20.0


class Heartbeat:
    """Beats for this process, on a thread, until `stop`."""

    def __init__(self, store: Store, rank: int) -> None:
        self._store, self._rank = store, rank
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        with suppress(RuntimeError):  # the store is gone, and the run with it
            while True:
                self._store.add(_key(self._rank), 1)
                if self._stopped.wait(BEAT_SECONDS):
                    return

    def stop(self) -> None:
        """End the beats."""
        self._stopped.set()
        self._thread.join(BEAT_SECONDS)


class Watch:
    """Looks for processes that no longer beat, during one wait. ranks: those that are looked at."""

    def __init__(self, store: Store, ranks: range) -> None:
        self._store, self._ranks = store, ranks
        self._seen: dict[int, tuple[int, float]] = {}
        self._next = time.monotonic() + BEAT_SECONDS

    def silent(self) -> int | None:
        """The rank of a process without a beat for SILENT_SECONDS; None for none. One that never beat is not here yet.

        The store is asked every BEAT_SECONDS, however often this is called. Raises DistError where it is gone.
        """
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + BEAT_SECONDS
        for rank in self._ranks:
            beats = self._store.add(_key(rank), 0)
            known, since = self._seen.get(rank, (0, now))
            if beats == 0 or beats != known:
                self._seen[rank] = beats, now
            elif now - since >= SILENT_SECONDS:
                return rank
        return None


def _key(rank: int) -> str:
    return f"alive-{rank}"
