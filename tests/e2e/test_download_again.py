"""Partial files, concurrent downloads and kills, against a real server: the file ends up complete."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
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
from cifar_cli.core.data.dataset import check_dataset, import_dataset
from cifar_cli.core.data.results import DownloadResult
from cifar_cli.core.data.sources.http_stream import Transport
from cifar_cli.errors import CifarError, ResourceError

# The command line with a small archive of the official format in place of CIFAR-10.
CLI = """
import json, sys
from dataclasses import replace
from cifar_cli.core.data.sources.mirrors import ARCHIVES
changes = json.loads(sys.argv.pop(1))
changes["mirrors"] = tuple(changes["mirrors"])
ARCHIVES["cifar10"] = replace(ARCHIVES["cifar10"], **changes)
from cifar_cli.start import main
main()
"""


def test_a_part_with_wrong_bytes_is_discarded(server, route, fetch, body, tmp_path, tiny_cifar10, assert_complete):
    part = tmp_path / "data" / f"{tiny_cifar10.archive.filename}.part"
    part.parent.mkdir()
    part.write_bytes(bytes(10_000))
    fetch(server.add("/a", route(body=body)))
    assert_complete(tmp_path / "data")


def test_a_part_longer_than_the_file_is_discarded(server, route, fetch, body, tmp_path, tiny_cifar10, assert_complete):
    part = tmp_path / "data" / f"{tiny_cifar10.archive.filename}.part"
    part.parent.mkdir()
    part.write_bytes(body + b"more")
    fetch(server.add("/a", route(body=body)))
    assert_complete(tmp_path / "data")


def test_a_complete_part_is_verified_without_any_request(
    server, route, fetch, body, tmp_path, tiny_cifar10, assert_complete
):
    part = tmp_path / "data" / f"{tiny_cifar10.archive.filename}.part"
    part.parent.mkdir()
    part.write_bytes(body)
    idle = route(body=body)
    fetch(server.add("/a", idle))
    assert idle.starts == []
    assert_complete(tmp_path / "data")


def test_a_verified_archive_on_disk_is_not_downloaded_again(
    server, route, fetch, body, tmp_path, tiny_cifar10, assert_complete
):
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(tiny_cifar10.path, folder)
    idle = route(body=body)
    fetch(server.add("/a", idle))
    assert idle.starts == []
    assert_complete(folder)


def test_missing_space_is_detected_before_the_first_request(server, route, fetch, body, tiny_cifar10):
    idle = route(body=body)
    huge = replace(tiny_cifar10.archive, size_bytes=10**18)
    with pytest.raises(ResourceError, match=r"has [\d,]+ MB free but [\d,]{10,} MB are needed"):
        fetch(server.add("/a", idle), archive=huge)
    assert idle.starts == []


def test_from_adds_a_mirror_to_the_known_ones(server, route, fetch, body, tmp_path, assert_complete):
    gone = server.add("/gone", route(body=b"", always=404))
    result = fetch(gone, sources=(server.add("/mine", route(body=body)),))
    assert result.dataset.provenance.source == server.url("/mine")
    assert_complete(tmp_path / "data")


def test_a_password_or_token_in_a_url_is_not_stored(server, route, fetch, body):
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
        assert time.monotonic() < deadline, "the download did not get that far"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_killed_download_continues_where_it_stopped(
    ending, status, server, route, body, tmp_path, tiny_cifar10, assert_complete
):
    slow = route(body=body, bytes_per_second=150_000)
    url = server.add("/a", slow)
    data_dir = tmp_path / "data"
    part = data_dir / f"{tiny_cifar10.archive.filename}.part"
    words = command(tiny_cifar10, url, data_dir)
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored when run in the background
    ) as process:
        wait_for_part(part, len(body) // 3, process)
        process.send_signal(ending)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == status, errors
    reached = part.stat().st_size
    assert len(body) // 3 <= reached < len(body)
    assert sorted(path.name for path in data_dir.glob("[!.]*")) == [part.name], "a partial file has its final name"
    if ending == signal.SIGINT:
        assert "interrupted; 0." in errors
        assert "run the same command again" in errors
    slow.bytes_per_second = None
    again = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert slow.starts == [0, reached]
    assert_complete(data_dir)


@pytest.mark.slow
def test_two_downloads_into_one_folder_download_once(server, route, body, tmp_path, tiny_cifar10, assert_complete):
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
    assert_complete(tmp_path / "data")


def test_without_a_terminal_progress_is_plain_lines_that_name_the_mirror(
    server, route, body, tmp_path, tiny_cifar10, quick
):
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


@pytest.fixture
def fetch_pets(tmp_path: Path, quick: Transport) -> Callable[..., DownloadResult]:
    """Import an archive of images from its URL into tmp_path / "data"."""

    def run(url: str, **options: Any) -> DownloadResult:
        data = DataConfig(dataset="pets", data_dir=tmp_path / "data")
        return import_dataset(ImportConfig(data=data, sources=(url,), **options), transport=quick)

    return run


def test_an_archive_of_images_is_downloaded_from_its_url(fetch_pets, server, route, images_archive, tmp_path):
    cut = route(body=images_archive, cuts=[20_000, 30_000], etag='"v1"')
    result = fetch_pets(server.add("/pets.tar.gz", cut))
    assert cut.starts == [0, 20_000, 50_000]
    assert (result.dataset.train_images, result.dataset.test_images) == (20, 20)
    assert result.dataset.provenance.source == server.url("/pets.tar.gz")
    assert not list((tmp_path / "data").glob("*.part*"))


def test_an_archive_without_checksum_is_continued_only_if_it_is_unchanged(
    fetch_pets, server, route, images_archive, tmp_path
):
    url = server.add("/pets.tar.gz", route(body=images_archive, cuts=[20_000] + [0] * 20, etag='"v1"'))
    with pytest.raises(CifarError):
        fetch_pets(url)
    part = tmp_path / "data" / "pets-pets.tar.gz.part"
    assert part.stat().st_size == 20_000
    same = route(body=images_archive, cuts=[10_000] + [0] * 20, etag='"v1"')
    server.routes["/pets.tar.gz"] = same
    with pytest.raises(CifarError):
        fetch_pets(url)
    assert same.starts[0] == 20_000
    other = route(body=images_archive, etag='"v2"')
    server.routes["/pets.tar.gz"] = other
    fetch_pets(url)
    assert 0 in other.starts
    assert check_dataset(DataConfig(dataset="pets", data_dir=tmp_path / "data")).intact
    assert (tmp_path / "data" / "pets-pets.tar.gz").read_bytes() == images_archive
