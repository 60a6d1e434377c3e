"""Servers that answer wrongly or without end, and damaged files beside a partial download."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cifar_cli.core.data.config import DataConfig, ImportConfig
from cifar_cli.core.data.dataset import import_dataset, open_dataset
from cifar_cli.core.data.sources.http_stream import Transport
from cifar_cli.errors import CifarError, ConfigError, DataError

Fetch = Callable[..., set[int]]


def archive_of(level: int) -> bytes:
    """An archive of 12 images whose pixels all have the same level. Those of two levels are cut at the same places."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for split in ("train", "test"):
            for number in range(6):
                image = io.BytesIO()
                Image.new("RGB", (32, 32), (level,) * 3).save(image, "PNG", compress_level=0)
                member = tarfile.TarInfo(f"{split}/{'ab'[number % 2]}/{number}.png")
                member.size = image.tell()
                tar.addfile(member, io.BytesIO(image.getvalue()))
    return file.getvalue()


DARK, BRIGHT = archive_of(0), archive_of(255)
MEMBER_BYTES = DARK.index(b"train/b/1.png")
PART = "pets-pets.tar.part"


@pytest.fixture
def fetch_pets(tmp_path: Path, quick: Transport) -> Fetch:
    """Import an archive of images from a URL; returns the levels of all pixels."""

    def run(url: str, **changes: Any) -> set[int]:
        data = DataConfig(dataset="pets", data_dir=tmp_path / "data")
        import_dataset(ImportConfig(data=data, sources=(url,), force=True), transport=replace(quick, **changes))
        store = open_dataset(data, fetch=False)
        return {*store.train.images_NHWC.unique().tolist(), *store.test.images_NHWC.unique().tolist()}

    return run


def keep_part(tmp_path: Path, *, mark: bytes, content: bytes = DARK[:MEMBER_BYTES]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / PART).write_bytes(content)
    (tmp_path / "data" / f"{PART}.json").write_bytes(mark)


def mark_of(url: str, validator: str = r"\"v1\"", size: int = len(DARK)) -> bytes:
    return f'{{"url": "{url}", "validator": "{validator}", "size_bytes": {size}}}'.encode()


WEAK = [
    {},
    {"etag": 'W/"v1"'},
    {"etag": "v1"},
    {"etag": '"vé"'},
    {"modified": formatdate(time.time() + 3600, usegmt=True)},  # not a minute before the reply
    {"modified": "long ago"},
]


@pytest.mark.parametrize("headers", WEAK)  # without ids, which would have the time in them
def test_versions_are_never_mixed_where_the_server_does_not_tell_them_apart(headers, server, route, fetch_pets):
    url = server.add("/pets.tar", route(body=DARK, rest=BRIGHT, cuts=[4 * MEMBER_BYTES], **headers))
    assert fetch_pets(url) == {0}
    assert server.routes["/pets.tar"].starts == [0, 0]


@pytest.mark.parametrize("headers", [{"etag": '"v1"'}, {"modified": formatdate(0, usegmt=True)}], ids=str)
def test_a_strong_validator_continues_a_file(headers, server, route, fetch_pets):
    url = server.add("/pets.tar", route(body=DARK, cuts=[4 * MEMBER_BYTES], **headers))
    assert fetch_pets(url) == {0}
    assert server.routes["/pets.tar"].starts == [0, 4 * MEMBER_BYTES]


def test_after_a_wrong_range_the_complete_file_is_requested(server, route, fetch_pets):
    wrong = route(body=DARK, cuts=[MEMBER_BYTES], etag='"v1"', shift=512)
    assert fetch_pets(server.add("/pets.tar", wrong)) == {0}
    assert wrong.starts == [0, MEMBER_BYTES, 0]


def test_after_a_wrong_range_a_verified_archive_is_completed(server, route, fetch, body, tmp_path, assert_complete):
    wrong = route(body=body, cuts=[50_000], shift=1)
    fetch(server.add("/a", wrong))
    assert wrong.starts == [0, 50_000, 0]
    assert_complete(tmp_path / "data")


MARKS = {
    "empty": b"",
    "not UTF-8": b"\xff\xfe",
    "a list": b"[]",
    "a number": b"17",
    "null": b"null",
    "deep": b"[" * 100_000,
    "large": b" " * 10_000_000,
    "no size": b'{"url": "URL", "validator": "v"}',
    "a size of text": b'{"url": "URL", "validator": "v", "size_bytes": "many"}',
    "a negative size": b'{"url": "URL", "validator": "v", "size_bytes": -1}',
    "a size of NaN": b'{"url": "URL", "validator": "v", "size_bytes": NaN}',
    "a validator that is a list": b'{"url": "URL", "validator": [], "size_bytes": 9}',
    "a validator with a line break": b'{"url": "URL", "validator": "a\\r\\nb", "size_bytes": 9}',
    "a validator that is not ASCII": '{"url": "URL", "validator": "é", "size_bytes": 9}'.encode(),
}


@pytest.mark.parametrize("mark", MARKS)
def test_a_partial_file_with_an_odd_mark_is_begun_anew(mark, server, route, fetch_pets, tmp_path):
    url = server.add("/pets.tar", route(body=BRIGHT, etag='"v1"'))
    keep_part(tmp_path, mark=MARKS[mark].replace(b"URL", url.encode()))
    assert fetch_pets(url) == {255}


@pytest.mark.parametrize(
    ("size", "length"), [(1, 0), (1, 1000), (len(DARK), len(DARK) + 1), (len(DARK) + 9, 1000), (1 << 39, 1000)]
)
def test_a_partial_file_of_another_size_than_its_mark_is_begun_anew(size, length, server, route, fetch_pets, tmp_path):
    url = server.add("/pets.tar", route(body=BRIGHT, etag='"v1"'))
    keep_part(tmp_path, mark=mark_of(url, size=size), content=b"\0" * length)
    assert fetch_pets(url) == {255}


def test_a_damaged_partial_file_blocks_one_import_only(server, route, fetch_pets, tmp_path):
    url = server.add("/pets.tar", route(body=BRIGHT, etag='"v1"'))
    keep_part(tmp_path, mark=mark_of(url), content=b"\xff" * len(DARK))
    with pytest.raises(DataError, match="is neither a tar nor a zip archive"):
        fetch_pets(url)
    assert fetch_pets(url) == {255}


@pytest.mark.parametrize("name", [PART, f"{PART}.json"])
def test_a_pipe_in_place_of_a_partial_file_does_not_block(name, server, route, fetch_pets, tmp_path):
    url = server.add("/pets.tar", route(body=DARK, etag='"v1"'))
    keep_part(tmp_path, mark=mark_of(url))
    (tmp_path / "data" / name).unlink()
    os.mkfifo(tmp_path / "data" / name)
    assert fetch_pets(url) == {0}


@pytest.mark.parametrize("headers", [{}, {"etag": '"v1"'}], ids=str)
def test_replies_that_are_cut_again_and_again_end_in_an_error(headers, server, route, fetch_pets):
    """Also those without ranges, each of which gets a little further."""
    cut = route(body=DARK, cuts=[100 + 10 * number for number in range(400)], chunked=True, **headers)
    with pytest.raises(DataError, match=r"can't be downloaded: 127\.0\.0\.1:\d+ broke the connection"):
        fetch_pets(server.add("/pets.tar", cut), interruptions=6)
    assert len(cut.starts) <= 8


def test_a_chunked_body_is_complete_with_its_last_chunk(server, route, fetch_pets):
    assert fetch_pets(server.add("/pets.tar", route(body=DARK, chunked=True))) == {0}


def test_a_body_without_end_is_an_error_and_its_bytes_are_removed(server, route, fetch_pets, tmp_path):
    endless = route(body=b"\0" * 65_536, endless=True, length=False)
    with pytest.raises(DataError, match="sends more than 1,000,000 bytes without announcing a size"):
        fetch_pets(server.add("/pets.tar", endless), unannounced_bytes=1_000_000)
    assert endless.sent_bytes[0] < 50_000_000
    assert not list((tmp_path / "data").glob("*.part"))


def test_the_words_of_a_server_are_printed_as_text(server, route, fetch_pets):
    url = server.add("/pets.tar", route(body=b"", always=404, reason="\x1b[2Jerror: \u202e".encode().decode("latin-1")))
    with pytest.raises(CifarError) as caught:
        fetch_pets(url)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "url",
    ["http://[::1", "http://", "https://host:99999/a.tar", "http://host:x/a.tar", "http://a\nb/", "http://host:0/"],
)
def test_a_url_that_leads_nowhere_is_refused_at_once(url):
    with pytest.raises(ConfigError, match="is not a valid URL"):
        ImportConfig(data=DataConfig(dataset="pets"), sources=(url,))


@pytest.mark.parametrize("target", ["http://[::1", "http://host:99999/", "file:///etc/passwd", "http://" + "a" * 300])
def test_a_redirect_that_leads_nowhere_is_an_error(target, server, route, fetch_pets):
    with pytest.raises(DataError, match=r"can't be downloaded: 127\.0\.0\.1"):
        fetch_pets(server.add("/pets.tar", route(body=b"", redirect=target)))
