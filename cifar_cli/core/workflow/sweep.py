"""`cifar sweep`: each run is a process of `cifar train`, one after another, or one on each GPU."""

from __future__ import annotations

import csv
import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import IO, Any, Protocol

from filelock import FileLock, Timeout

from cifar_cli.core.regular import read_json
from cifar_cli.core.training.launch import started_count
from cifar_cli.core.training.run_dir import RunDir
from cifar_cli.core.workflow.sweep_config import SweepConfig, SweepReport, SweptResult, SweptRun
from cifar_cli.core.write import replacing, write_whole
from cifar_cli.errors import CheckpointError, Interrupted

SCORES = ("val_accuracy", "test_accuracy", "test_accuracy_flip_averaged", "epochs", "train_seconds")


class Process(Protocol):
    """What a sweep needs of a running process."""

    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int, /) -> None: ...


Launch = Callable[[Sequence[str], str | None, IO[str]], Process]


def launch_train(words: Sequence[str], gpus: str | None, log: IO[str]) -> Process:
    """Start `cifar train` on GPUs, as CUDA_VISIBLE_DEVICES names them, or on what it chooses.

    Its output goes to the log. It has a session of its own: Ctrl-C reaches it once, through this process.
    """
    environment = os.environ | ({} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus})
    command = [sys.executable, "-m", "cifar_cli", "train", *words]
    return subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
    )


def visible_gpus() -> tuple[str | None, ...]:
    """The GPUs to use, as CUDA_VISIBLE_DEVICES names them; one None where there is none or one."""
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        return (None,)
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(named[:count] or map(str, range(count)))


def slots(config: SweepConfig, gpus: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """What the runs that train at once train on, from the GPUs there are: one run a GPU, or a group of --devices.

    Runs on the CPU train one after another. Raises ResourceError for more devices than there are.
    """
    named = [gpu for gpu in gpus if gpu is not None]
    if config.device == "cpu" or not named:
        return (None,)
    size = started_count(config.devices, gpus=len(named))
    return tuple(",".join(named[first : first + size]) for first in range(0, len(named) - size + 1, size))


def sweep(
    config: SweepConfig,
    on_note: Callable[[str], None] = lambda note: None,
    *,
    launch: Launch = launch_train,
    gpus: tuple[str | None, ...] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> SweepReport:
    """Train what is left of a sweep. Finished runs stay as they are, interrupted ones are continued.

    Raises CheckpointError where the folder holds another sweep or another process is at work in it, ResourceError for
    more devices than there are, Interrupted on Ctrl-C.
    """
    places = slots(config, visible_gpus() if gpus is None else gpus)
    config.folder.mkdir(parents=True, exist_ok=True)
    _require_same(config)
    lock = FileLock(config.folder / ".lock", timeout=0)
    try:
        with lock:
            return _Sweep(config, on_note, launch, places, clock).run()
    except Timeout:
        raise CheckpointError(
            f"another sweep is at work in {config.folder}", remedy="wait until that ends, or pass another --sweep-dir"
        ) from None


class _Sweep:
    def __init__(
        self,
        config: SweepConfig,
        on_note: Callable[[str], None],
        launch: Launch,
        gpus: tuple[str | None, ...],
        clock: Callable[[], float],
    ) -> None:
        self.config, self.on_note, self.launch, self.clock = config, on_note, launch, clock
        self.gpus: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for gpu in gpus:
            self.gpus.put(gpu)
        self.at_once = len(gpus)
        self.ends = None if config.budget_seconds is None else clock() + config.budget_seconds
        self.running: list[Process] = []
        self.failed: set[str] = set()
        self.logged: dict[str, int] = {}
        """Where in its log the last attempt of a run begins, in bytes."""
        self.stopping = False

    def run(self) -> SweepReport:
        if self.config.searched:
            return self._search()
        runs = self.config.runs()
        left = [run for run in runs if _scores(_directory(self.config, run)) is None]
        with self._pool(lambda: runs) as pool:
            for number, done in enumerate(pool.map(self._train, left), start=len(runs) - len(left) + 1):
                self.on_note(f"{number} of {len(runs)}: {done}")
                self._report(runs)
        return self._report(runs)

    def _search(self) -> SweepReport:
        """Train with values that Optuna chooses, until there are as many trials as were asked for."""
        from cifar_cli.core.workflow.search import Search

        def accuracy_of(run: SweptRun) -> float | None:
            scores = _scores(_directory(self.config, run))
            return None if scores is None else float(scores["val_accuracy"])

        search, turns, trials = Search(self.config, accuracy_of), Lock(), self.config.trials
        busy: dict[str, Lock] = {}

        def one(number: int) -> None:
            with turns:
                if self._is_over():
                    return
                trial = search.next()
            for run in trial.runs:
                with turns:
                    own_turn = busy.setdefault(run.name, Lock())
                with own_turn:  # of two equal trials at once, the second finds the first's run
                    if accuracy_of(run) is None:
                        done = self._train(run)
                        self.on_note(f"trial {number} of {trials}: {done}")
            with turns:
                search.tell(trial)
                self._report(search.runs)

        with self._pool(lambda: search.runs) as pool:
            list(pool.map(one, range(search.done + 1, trials + 1)))
        return self._report(search.runs)

    @contextmanager
    def _pool(self, runs: Callable[[], Sequence[SweptRun]]) -> Iterator[ThreadPoolExecutor]:
        """Threads that train. Ctrl-C interrupts what they train, and everything is saved. runs: of the report."""
        with ThreadPoolExecutor(self.at_once) as pool:
            try:
                yield pool
            except KeyboardInterrupt:
                self.stopping = True
                for process in list(self.running):
                    process.send_signal(signal.SIGINT)
                pool.shutdown(cancel_futures=True)
                self._report(runs())
                raise Interrupted(
                    f"interrupted; finished runs are in {self.config.folder}",
                    remedy="repeat the same command to continue the sweep",
                ) from None

    def _is_over(self) -> bool:
        return self.stopping or self._seconds_left() == 0

    def _train(self, run: SweptRun) -> str:
        """Train one run on the next free GPU. Returns a sentence for the user."""
        if self._is_over():
            return f"{run.name} waits: the budget is used up"
        gpu, directory = self.gpus.get(), _directory(self.config, run)
        if directory.last.is_file():
            words = ["--resume", str(directory.path), *self.config.resumed_words]
        else:
            words = _first_words(run, directory)
        path = _log(self.config, run)
        self.logged[run.name] = path.stat().st_size if path.is_file() else 0
        try:
            with path.open("a", encoding="utf-8") as log:
                process = self.launch(words, gpu, log)
                self.running.append(process)
                status = self._wait(process)
                self.running.remove(process)
        finally:
            self.gpus.put(gpu)
        if status not in (0, Interrupted.exit_code):
            self.failed.add(run.name)
        result = self._result(run)
        found = "" if result.val_accuracy is None else f", validation {result.val_accuracy:.2%}"
        return f"{run.name} {result.status}{found}"

    def _wait(self, process: Process) -> int:
        try:
            return process.wait(timeout=self._seconds_left())
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            return process.wait()

    def _seconds_left(self) -> float | None:
        return None if self.ends is None else max(self.ends - self.clock(), 0.0)

    def _result(self, run: SweptRun) -> SweptResult:
        directory = _directory(self.config, run)
        if (scores := _scores(directory)) is not None:
            return SweptResult(settings=run.settings, status="done", run_dir=directory.path, **scores)
        if run.name in self.failed:
            error = _error_in(_log(self.config, run), self.logged.get(run.name, 0))
            return SweptResult(settings=run.settings, status="failed", run_dir=directory.path, error=error)
        started = directory.path.is_dir()
        return SweptResult(
            settings=run.settings, status="interrupted" if started else "waiting", run_dir=directory.path
        )

    def _report(self, runs: Sequence[SweptRun]) -> SweepReport:
        """Write the table of all runs, as they are now."""
        results, path = tuple(self._result(run) for run in runs), self.config.folder / "sweep.csv"
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*(runs[0].settings if runs else ()), "status", *SCORES, "run_dir"])
            for result in results:
                scores = [getattr(result, name) for name in SCORES]
                writer.writerow([*result.settings.values(), result.status, *scores, result.run_dir])
        return SweepReport(folder=self.config.folder, table=path, results=results)


def _directory(config: SweepConfig, run: SweptRun) -> RunDir:
    return RunDir(config.folder / run.name)


def _scores(directory: RunDir) -> dict[str, Any] | None:
    """The scores of a finished run; None for one whose summary is missing or damaged, which is continued."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        summary = read_json(directory.summary)
        return {name: summary[name] for name in SCORES}
    return None


def _log(config: SweepConfig, run: SweptRun) -> Path:
    return config.folder / f"{run.name}.log"


def _first_words(run: SweptRun, directory: RunDir) -> list[str]:
    """The options of a run's first start. A folder without a checkpoint is of one that ended before it wrote any."""
    if directory.path.is_dir():
        directory.path.rename(_free_name(directory.path))
    return [*run.words, "--run-dir", str(directory.path)]


def _free_name(path: Path) -> Path:
    """A name beside `path` that isn't taken: nothing of a user is deleted."""
    number = 1
    while (candidate := path.with_name(f"{path.name}.unfinished-{number}")).exists():
        number += 1
    return candidate


def _require_same(config: SweepConfig) -> None:
    """Note the shared options in the folder. Raises CheckpointError where it has runs with other ones."""
    path, words = config.folder / "sweep.json", list(config.words)
    if not path.is_file():
        write_whole(path, (json.dumps({"words": words}) + "\n").encode())
        return
    try:
        had = read_json(path)["words"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged", remedy="pass another --sweep-dir") from error
    if had != words:
        raise CheckpointError(
            f"{config.folder} holds a sweep with other options ({' '.join(map(str, had)) or 'none'})",
            remedy="repeat that one's options, or pass another --sweep-dir",
        )


def _error_in(path: Path, start: int) -> str | None:
    """The last error in a log from a byte on, without its remedy; the last line where there is none, as of a crash."""
    lines = path.read_bytes()[start:].decode("utf-8", "replace").split("\n") if path.is_file() else []
    written = [line.strip() for line in lines if line.strip()]
    errors = [line.removeprefix("error: ") for line in written if line.startswith("error: ")]
    return next(reversed(errors or written), None)
