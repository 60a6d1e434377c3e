"""Every way a download can go wrong, against a real server: the file ends whole, or the message names the fault."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_cli.core.data.config import DataConfig, ImportConfig
from cifar_cli.core.data.dataset import check_dataset, import_dataset, open_dataset
from cifar_cli.core.data.results import DownloadResult
from cifar_cli.core.data.sources.http_stream import Transport
from cifar_cli.core.progress import Progress
from cifar_cli.errors import CifarError, DataError, ResourceError

QUICK = Transport(
    connect_seconds=5,
    read_seconds=1.0,
    race_seconds=0.15,
    race_bytes=64 << 10,
    slow_bytes_per_second=50_000,
    slow_seconds=0.4,
    backoff_seconds=0.02,
)
HTML = b"<!DOCTYPE html><html><body>Please log in to this network.</body></html>"
# The command line with a small archive of the official format in CIFAR-10's place.
CLI = """
import json, sys
from dataclasses import replace
from cifar_cli.core.data.sources.mirrors import ARCHIVES
changes = json.loads(sys.argv.pop(1))
changes["mirrors"] = tuple(changes["mirrors"])
ARCHIVES["cifar10"] = replace(ARCHIVES["cifar10"], **changes)
from cifar_cli.app import main
main()
"""


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
        return import_dataset(
            ImportConfig(data=DataConfig(data_dir=tmp_path / "data"), **options),
            transport=transport,
            archives={"cifar10": replace(tiny_cifar10.archive, mirrors=mirrors)},
            on_progress=events.append if events is not None else lambda progress: None,
        )

    return run


def assert_whole(data_dir: Path, tiny: Any) -> None:
    """The store holds the archive's images, the archive is byte-identical, and nothing else lies around."""
    config = DataConfig(data_dir=data_dir)
    store = open_dataset(config, fetch=False)
    assert np.array_equal(store.train.images_NHWC.numpy(), tiny.train_images)
    assert store.train.labels_N.tolist() == tiny.train_labels
    assert check_dataset(config, archives={"cifar10": tiny.archive}).whole
    assert (data_dir / tiny.archive.filename).read_bytes() == tiny.path.read_bytes()
    assert not list(data_dir.glob("*.part*"))


def test_one_sound_mirror_is_read_once_from_the_start(server, route, fetch, body, tmp_path, tiny_cifar10):
    sound = route(body=body)
    result = fetch(server.add("/a", sound))
    assert sound.starts == [0]
    assert sound.sent_bytes == [len(body)]
    assert result.dataset.provenance.source == server.url("/a")
    assert result.dataset.provenance.checksum == f"md5:{tiny_cifar10.archive.md5}"
    assert_whole(tmp_path / "data", tiny_cifar10)


@pytest.mark.parametrize("seed", range(4))
def test_cut_connections_resume_from_the_byte_reached(seed, server, route, fetch, body, tmp_path, tiny_cifar10):
    cuts = [random.Random(seed).randrange(1, len(body) // 4) for _ in range(8)]
    broken = route(body=body, cuts=list(cuts))
    fetch(server.add("/a", broken))
    used = len(broken.starts) - 1
    assert used >= 3
    assert broken.starts == [0, *itertools.accumulate(cuts[:used])]
    assert sum(broken.sent_bytes) == len(body), "a byte was fetched twice"
    assert_whole(tmp_path / "data", tiny_cifar10)


def test_the_fastest_mirror_is_kept_and_the_slow_one_dropped(server, route, fetch, body, tmp_path, tiny_cifar10):
    slow = route(body=body, bytes_per_second=20_000)
    fast = route(body=body, bytes_per_second=400_000)
    patient = replace(QUICK, race_seconds=0.6)
    result = fetch(server.add("/slow", slow), server.add("/fast", fast), transport=patient)
    assert result.dataset.provenance.source == server.url("/fast")
    assert fast.starts == [0]
    assert slow.sent_bytes[0] < len(body) / 4
    assert_whole(tmp_path / "data", tiny_cifar10)


def test_a_mirror_that_falls_silent_is_continued_by_another(server, route, fetch, body, tmp_path, tiny_cifar10):
    silent = route(body=body, stall_after=100_000)
    other = route(body=body, bytes_per_second=500_000)
    fetch(server.add("/silent", silent), server.add("/other", other), transport=replace(QUICK, slow_seconds=60))
    assert other.starts[-1] == 100_000
    assert_whole(tmp_path / "data", tiny_cifar10)


def test_a_mirror_that_becomes_slow_is_continued_by_another(server, route, fetch, body, tmp_path, tiny_cifar10):
    tiring = route(body=body, bytes_per_second=8_000, slow_after=120_000)
    other = route(body=body, bytes_per_second=200_000)
    events: list[Progress] = []
    fetch(server.add("/tiring", tiring), server.add("/other", other), events=events)
    assert other.starts[-1] >= 120_000
    assert sum(tiring.sent_bytes) < len(body)
    done = [event.done for event in events if event.unit == "bytes" and event.task == "download cifar10"]
    assert done == sorted(done), "the download went back"
    assert_whole(tmp_path / "data", tiny_cifar10)


def test_when_all_mirrors_are_slow_the_download_still_ends(server, route, fetch, body, tmp_path, tiny_cifar10):
    mirrors = [server.add(f"/{name}", route(body=body, bytes_per_second=150_000)) for name in "ab"]
    fetch(*mirrors, transport=replace(QUICK, slow_bytes_per_second=10_000_000))
    assert_whole(tmp_path / "data", tiny_cifar10)


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_named_as_such(content_type, server, route, fetch, tmp_path):
    url = server.add("/a", route(body=HTML, content_type=content_type, length=False))
    with pytest.raises(DataError, match=r"127\.0\.0\.1:\d+ sends a web page \(HTML\) instead of the archive") as caught:
        fetch(url)
    assert "cifar download --from PATH" in (caught.value.remedy or "")
    assert "--dataset shapes" in (caught.value.remedy or "")
    assert not list((tmp_path / "data").glob("cifar*"))


def test_a_web_page_beside_a_sound_mirror_does_no_harm(server, route, fetch, body, tmp_path, tiny_cifar10):
    page = route(body=HTML, content_type="text/html")
    fetch(server.add("/page", page), server.add("/sound", route(body=body)))
    assert_whole(tmp_path / "data", tiny_cifar10)


def test_wrong_bytes_are_refused_with_both_checksums(server, route, fetch, body, tmp_path, tiny_cifar10):
    wrong = body[:-1000] + bytes(1000)
    with pytest.raises(DataError) as caught:
        fetch(server.add("/a", route(body=wrong)))
    assert "sent other bytes: their checksum is md5:" in caught.value.what
    assert f"expected md5:{tiny_cifar10.archive.md5}" in caught.value.what
    assert not list((tmp_path / "data").glob("cifar*"))


def test_wrong_bytes_lead_to_the_next_mirror(server, route, fetch, body, tmp_path, tiny_cifar10):
    wrong = route(body=bytes(len(body)))
    sound = route(body=body, bytes_per_second=500_000)
    fetch(server.add("/wrong", wrong), server.add("/sound", sound))
    assert wrong.starts == [0]
    assert_whole(tmp_path / "data", tiny_cifar10)


def test_wrong_bytes_mixed_with_sound_ones_are_sorted_out(server, route, fetch, body, tmp_path, tiny_cifar10):
    """The wrong mirror wins the race and breaks, the sound one ends the file; who lied can't be told from that."""
    wrong = route(body=bytes(len(body)), cuts=[200_000, 0])
    sound = route(body=body, bytes_per_second=600_000)
    fetch(server.add("/wrong", wrong), server.add("/sound", sound))
    assert sound.starts[:2] == [0, 200_000]
    assert wrong.sent_bytes == [200_000, 0, len(body)], "it was not found out by what it sends alone"
    assert_whole(tmp_path / "data", tiny_cifar10)


def test_wrong_bytes_delete_nothing_that_was_good(server, route, fetch, body, tmp_path, tiny_cifar10):
    fetch(server.add("/sound", route(body=body)))
    (tmp_path / "data" / tiny_cifar10.archive.filename).unlink()
    before = (tmp_path / "data" / "cifar10.safetensors").read_bytes()
    with pytest.raises(DataError, match="sent other bytes"):
        fetch(server.add("/wrong", route(body=bytes(len(body)))), force=True)
    assert (tmp_path / "data" / "cifar10.safetensors").read_bytes() == before


def test_a_missing_file_is_named_and_not_asked_for_again(server, route, fetch):
    missing = route(body=b"", always=404)
    with pytest.raises(DataError, match=r"cifar10 can't be fetched: 127\.0\.0\.1:\d+ answers 404 Not Found"):
        fetch(server.add("/a", missing))
    assert len(missing.starts) == 1


def test_a_busy_server_is_asked_again(server, route, fetch, body, tmp_path, tiny_cifar10):
    busy = route(body=body, statuses=[503, 503])
    fetch(server.add("/a", busy))
    assert len(busy.starts) == 3
    assert_whole(tmp_path / "data", tiny_cifar10)


def test_a_server_that_stays_busy_is_given_up_with_its_answer(server, route, fetch):
    busy = route(body=b"", always=503)
    with pytest.raises(DataError, match="answers 503 Service Unavailable"):
        fetch(server.add("/a", busy))
    assert len(busy.starts) == QUICK.fruitless_rounds


def test_a_server_without_ranges_still_completes_a_cut_download(server, route, fetch, body, tmp_path, tiny_cifar10):
    plain = route(body=body, ranges=False, cuts=[50_000, 150_000, 90_000])
    fetch(server.add("/a", plain))
    assert plain.starts == [0, 0, 0, 0]
    assert_whole(tmp_path / "data", tiny_cifar10)


def test_a_short_body_without_a_length_is_recognised(server, route, fetch, body):
    with pytest.raises(DataError, match=r"ended at byte 5,000 of [\d,]+"):
        fetch(server.add("/a", route(body=body[:5000], length=False, ranges=False)))


def test_a_file_of_another_size_is_refused_before_its_body(server, route, fetch, body, tiny_cifar10):
    expected = f"has a file of 5,000 bytes, expected {tiny_cifar10.archive.size_bytes:,}"
    with pytest.raises(DataError, match=expected):
        fetch(server.add("/a", route(body=body[:5000])))


def test_more_bytes_than_expected_are_refused(server, route, fetch, body):
    with pytest.raises(DataError, match="sends more than the expected"):
        fetch(server.add("/a", route(body=body + b"more", length=False)))


def test_a_redirect_is_followed(server, route, fetch, body, tmp_path, tiny_cifar10):
    server.add("/b", route(body=body))
    fetch(server.add("/a", route(body=b"", redirect="/b")))
    assert_whole(tmp_path / "data", tiny_cifar10)


def test_no_network_is_one_sentence_with_its_remedies(fetch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(DataError, match=rf"127\.0\.0\.1:{port} can't be reached") as caught:
        fetch(f"http://127.0.0.1:{port}/a")
    assert "--dataset shapes" in (caught.value.remedy or "")


def test_a_part_that_is_not_the_file_is_thrown_away(server, route, fetch, body, tmp_path, tiny_cifar10):
    part = tmp_path / "data" / f"{tiny_cifar10.archive.filename}.part"
    part.parent.mkdir()
    part.write_bytes(bytes(10_000))
    fetch(server.add("/a", route(body=body)))
    assert_whole(tmp_path / "data", tiny_cifar10)


def test_a_part_longer_than_the_file_is_thrown_away(server, route, fetch, body, tmp_path, tiny_cifar10):
    part = tmp_path / "data" / f"{tiny_cifar10.archive.filename}.part"
    part.parent.mkdir()
    part.write_bytes(body + b"more")
    fetch(server.add("/a", route(body=body)))
    assert_whole(tmp_path / "data", tiny_cifar10)


def test_a_whole_part_is_verified_without_any_request(server, route, fetch, body, tmp_path, tiny_cifar10):
    part = tmp_path / "data" / f"{tiny_cifar10.archive.filename}.part"
    part.parent.mkdir()
    part.write_bytes(body)
    idle = route(body=body)
    fetch(server.add("/a", idle))
    assert idle.starts == []
    assert_whole(tmp_path / "data", tiny_cifar10)


def test_a_verified_archive_on_disk_is_not_fetched_again(server, route, fetch, body, tmp_path, tiny_cifar10):
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(tiny_cifar10.path, folder)
    idle = route(body=body)
    fetch(server.add("/a", idle))
    assert idle.starts == []
    assert_whole(folder, tiny_cifar10)


def test_missing_space_is_found_before_the_first_byte(server, route, fetch, body, monkeypatch):
    idle = route(body=body)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 100_000))
    with pytest.raises(ResourceError, match=r"has 0 MB free where \d+ MB are needed"):
        fetch(server.add("/a", idle))
    assert idle.starts == []


def test_from_adds_a_mirror_beside_the_known_ones(server, route, fetch, body, tmp_path, tiny_cifar10):
    gone = server.add("/gone", route(body=b"", always=404))
    result = fetch(gone, sources=(server.add("/mine", route(body=body)),))
    assert result.dataset.provenance.source == server.url("/mine")
    assert_whole(tmp_path / "data", tiny_cifar10)


def test_a_password_or_token_in_a_url_is_not_kept(server, route, fetch, body):
    url = server.add("/a?token=secret", route(body=body)).replace("http://", "http://me:secret@")
    result = fetch(sources=(url,))
    assert result.dataset.provenance.source == server.url("/a")


def command(tiny: Any, mirror: str, data_dir: Path, *words: str) -> list[str]:
    changes = {
        "size_bytes": tiny.archive.size_bytes,
        "md5": tiny.archive.md5,
        "mirrors": [mirror],
        "train": tiny.archive.train,
        "test": tiny.archive.test,
        "meta": tiny.archive.meta,
    }
    return [sys.executable, "-c", CLI, json.dumps(changes), "download", "--data-dir", str(data_dir), *words]


def wait_for_part(part: Path, least_bytes: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size >= least_bytes):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the download never got so far"
        time.sleep(0.01)


@pytest.mark.parametrize(("ending", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_killed_download_goes_on_where_it_stopped(ending, status, server, route, body, tmp_path, tiny_cifar10):
    slow = route(body=body, bytes_per_second=150_000)
    url = server.add("/a", slow)
    data_dir = tmp_path / "data"
    part = data_dir / f"{tiny_cifar10.archive.filename}.part"
    words = command(tiny_cifar10, url, data_dir)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for_part(part, len(body) // 3, process)
        process.send_signal(ending)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == status, errors
    reached = part.stat().st_size
    assert len(body) // 3 <= reached < len(body)
    assert sorted(path.name for path in data_dir.glob("[!.]*")) == [part.name], "something partial has a final name"
    if ending == signal.SIGINT:
        assert "interrupted; 0." in errors
        assert "run the same command again" in errors
    slow.bytes_per_second = None
    again = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert slow.starts == [0, reached]
    assert_whole(data_dir, tiny_cifar10)


def test_two_downloads_into_one_folder_fetch_once(server, route, body, tmp_path, tiny_cifar10):
    shared = route(body=body, bytes_per_second=200_000)
    words = command(tiny_cifar10, server.add("/a", shared), tmp_path / "data", "--json")
    with contextlib.ExitStack() as stack:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        both = [stack.enter_context(subprocess.Popen(words, **pipes)) for _ in range(2)]
        outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert shared.starts == [0]
    assert sorted(json.loads(output)["already_there"] for output, _ in outputs) == [False, True]
    assert any("wait for another cifar" in errors for _, errors in outputs)
    assert_whole(tmp_path / "data", tiny_cifar10)


def test_without_a_terminal_progress_is_plain_lines_with_the_mirror(server, route, body, tmp_path, tiny_cifar10):
    words = command(tiny_cifar10, server.add("/a", route(body=body)), tmp_path / "data")
    result = subprocess.run(words, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "80"})
    assert result.returncode == 0, result.stderr
    assert f"download cifar10: 0.0/{len(body) / 1e6:.1f} MB, 127.0.0.1:{server.server_port}" in result.stderr
    assert "\x1b" not in result.stdout + result.stderr


@pytest.fixture
def images_archive(tmp_path: Path) -> bytes:
    """A tar.gz of noise images in two classes."""
    import tarfile

    from PIL import Image

    noise = np.random.default_rng(0)
    for side, name, number in itertools.product(("train", "test"), ("cat", "dog"), range(10)):
        file = tmp_path / "pets" / side / name / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file)
    path = tmp_path / "pets.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "pets", arcname="pets")
    return path.read_bytes()


def fetch_pets(data_dir: Path, url: str, **options: Any) -> DownloadResult:
    config = ImportConfig(data=DataConfig(dataset="pets", data_dir=data_dir), sources=(url,), **options)
    return import_dataset(config, transport=QUICK)


def test_an_archive_of_images_is_fetched_from_its_url(server, route, images_archive, tmp_path):
    cut = route(body=images_archive, cuts=[20_000, 30_000], etag='"v1"')
    result = fetch_pets(tmp_path / "data", server.add("/pets.tar.gz", cut))
    assert cut.starts == [0, 20_000, 50_000]
    assert (result.dataset.train_images, result.dataset.test_images) == (20, 20)
    assert result.dataset.provenance.source == server.url("/pets.tar.gz")
    assert not list((tmp_path / "data").glob("*.part*"))


def test_an_archive_without_checksum_is_continued_only_while_it_is_the_same(server, route, images_archive, tmp_path):
    url = server.add("/pets.tar.gz", route(body=images_archive, cuts=[20_000] + [0] * 20, etag='"v1"'))
    with pytest.raises(CifarError):
        fetch_pets(tmp_path / "data", url)
    part = tmp_path / "data" / "pets-pets.tar.gz.part"
    assert part.stat().st_size == 20_000
    same = route(body=images_archive, cuts=[10_000] + [0] * 20, etag='"v1"')
    server.routes["/pets.tar.gz"] = same
    with pytest.raises(CifarError):
        fetch_pets(tmp_path / "data", url)
    assert same.starts[0] == 20_000
    other = route(body=images_archive, etag='"v2"')
    server.routes["/pets.tar.gz"] = other
    fetch_pets(tmp_path / "data", url)
    assert 0 in other.starts
    assert check_dataset(DataConfig(dataset="pets", data_dir=tmp_path / "data")).whole
    assert (tmp_path / "data" / "pets-pets.tar.gz").read_bytes() == images_archive
