"""Faults of mirrors, against a real server: the file ends up complete, or the message names the fault."""

from __future__ import annotations

import itertools
import random
import socket
from dataclasses import replace

import pytest

from cifar_cli.core.progress import Progress
from cifar_cli.errors import DataError

HTML = b"<!DOCTYPE html><html><body>Please log in to this network.</body></html>"


def test_one_working_mirror_is_read_once_from_the_start(
    server, route, fetch, body, tmp_path, tiny_cifar10, assert_complete
):
    sound = route(body=body)
    result = fetch(server.add("/a", sound))
    assert sound.starts == [0]
    assert sound.sent_bytes == [len(body)]
    assert result.dataset.provenance.source == server.url("/a")
    assert result.dataset.provenance.checksum == f"md5:{tiny_cifar10.archive.md5}"
    assert_complete(tmp_path / "data")


@pytest.mark.parametrize("seed", range(4))
def test_cut_connections_resume_from_the_byte_reached(seed, server, route, fetch, body, tmp_path, assert_complete):
    cuts = [random.Random(seed).randrange(1, len(body) // 4) for _ in range(8)]
    broken = route(body=body, cuts=list(cuts))
    fetch(server.add("/a", broken))
    used = len(broken.starts) - 1
    assert used >= 3
    assert broken.starts == [0, *itertools.accumulate(cuts[:used])]
    assert sum(broken.sent_bytes) == len(body), "a byte was sent twice"
    assert_complete(tmp_path / "data")


@pytest.mark.slow
def test_the_fastest_mirror_is_kept_and_the_slow_one_dropped(
    server, route, fetch, body, tmp_path, assert_complete, quick
):
    slow = route(body=body, bytes_per_second=20_000)
    fast = route(body=body, bytes_per_second=400_000)
    longer_race = replace(quick, race_seconds=0.6)
    result = fetch(server.add("/slow", slow), server.add("/fast", fast), transport=longer_race)
    assert result.dataset.provenance.source == server.url("/fast")
    assert fast.starts == [0]
    assert slow.sent_bytes[0] < len(body) / 4
    assert_complete(tmp_path / "data")


@pytest.mark.slow
def test_another_mirror_continues_when_one_stops_sending(server, route, fetch, body, tmp_path, assert_complete, quick):
    silent = route(body=body, stall_after=100_000)
    other = route(body=body, bytes_per_second=500_000)
    fetch(server.add("/silent", silent), server.add("/other", other), transport=replace(quick, slow_seconds=60))
    assert other.starts[-1] == 100_000
    assert_complete(tmp_path / "data")


@pytest.mark.slow
def test_another_mirror_continues_when_one_becomes_slow(server, route, fetch, body, tmp_path, assert_complete):
    tiring = route(body=body, bytes_per_second=8_000, slow_after=120_000)
    other = route(body=body, bytes_per_second=200_000)
    events: list[Progress] = []
    fetch(server.add("/tiring", tiring), server.add("/other", other), events=events)
    assert other.starts[-1] >= 120_000
    assert sum(tiring.sent_bytes) < len(body)
    done = [event.done for event in events if event.unit == "bytes" and event.task == "download cifar10"]
    assert done == sorted(done), "progress decreased"
    assert_complete(tmp_path / "data")


@pytest.mark.slow
def test_the_download_completes_when_all_mirrors_are_slow(server, route, fetch, body, tmp_path, assert_complete, quick):
    mirrors = [server.add(f"/{name}", route(body=body, bytes_per_second=150_000)) for name in "ab"]
    fetch(*mirrors, transport=replace(quick, slow_bytes_per_second=10_000_000))
    assert_complete(tmp_path / "data")


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_reported_as_one(content_type, server, route, fetch, tmp_path):
    url = server.add("/a", route(body=HTML, content_type=content_type, length=False))
    with pytest.raises(DataError, match=r"127\.0\.0\.1:\d+ sends a web page \(HTML\) instead of the archive") as caught:
        fetch(url)
    assert "cifar download --from PATH" in (caught.value.remedy or "")
    assert "--dataset shapes" in (caught.value.remedy or "")
    assert not list((tmp_path / "data").glob("cifar*"))


def test_a_web_page_from_one_mirror_does_not_affect_another(server, route, fetch, body, tmp_path, assert_complete):
    page = route(body=HTML, content_type="text/html")
    fetch(server.add("/page", page), server.add("/sound", route(body=body)))
    assert_complete(tmp_path / "data")


def test_wrong_bytes_are_rejected_with_both_checksums(server, route, fetch, body, tmp_path, tiny_cifar10):
    wrong = body[:-1000] + bytes(1000)
    with pytest.raises(DataError) as caught:
        fetch(server.add("/a", route(body=wrong)))
    assert "sent wrong bytes: their checksum is md5:" in caught.value.what
    assert f"expected md5:{tiny_cifar10.archive.md5}" in caught.value.what
    assert not list((tmp_path / "data").glob("cifar*"))


@pytest.mark.slow
def test_after_wrong_bytes_the_next_mirror_is_used(server, route, fetch, body, tmp_path, assert_complete):
    wrong = route(body=bytes(len(body)))
    sound = route(body=body, bytes_per_second=500_000)
    fetch(server.add("/wrong", wrong), server.add("/sound", sound))
    assert wrong.starts == [0]
    assert_complete(tmp_path / "data")


@pytest.mark.slow
def test_a_mirror_whose_wrong_bytes_were_mixed_with_right_ones_is_identified(
    server, route, fetch, body, tmp_path, assert_complete
):
    """The wrong mirror wins the race and fails, the right one completes the file; either may be at fault."""
    wrong = route(body=bytes(len(body)), cuts=[200_000, 0])
    sound = route(body=body, bytes_per_second=600_000)
    fetch(server.add("/wrong", wrong), server.add("/sound", sound))
    assert sound.starts[:2] == [0, 200_000]
    assert wrong.sent_bytes == [200_000, 0, len(body)], "it was not tried by itself"
    assert_complete(tmp_path / "data")


def test_wrong_bytes_do_not_replace_an_intact_store(server, route, fetch, body, tmp_path, tiny_cifar10):
    fetch(server.add("/sound", route(body=body)))
    (tmp_path / "data" / tiny_cifar10.archive.filename).unlink()
    before = (tmp_path / "data" / "cifar10.safetensors").read_bytes()
    with pytest.raises(DataError, match="sent wrong bytes"):
        fetch(server.add("/wrong", route(body=bytes(len(body)))), force=True)
    assert (tmp_path / "data" / "cifar10.safetensors").read_bytes() == before


def test_a_missing_file_is_reported_and_not_requested_again(server, route, fetch):
    missing = route(body=b"", always=404)
    with pytest.raises(DataError, match=r"cifar10 can't be downloaded: 127\.0\.0\.1:\d+ answers 404 Not Found"):
        fetch(server.add("/a", missing))
    assert len(missing.starts) == 1


def test_a_busy_server_is_tried_again(server, route, fetch, body, tmp_path, assert_complete):
    busy = route(body=body, statuses=[503, 503])
    fetch(server.add("/a", busy))
    assert len(busy.starts) == 3
    assert_complete(tmp_path / "data")


def test_a_server_that_stays_busy_is_reported_with_its_status(server, route, fetch, quick):
    busy = route(body=b"", always=503)
    with pytest.raises(DataError, match="answers 503 Service Unavailable"):
        fetch(server.add("/a", busy))
    assert len(busy.starts) == quick.fruitless_rounds


def test_a_server_without_ranges_still_completes_a_cut_download(server, route, fetch, body, tmp_path, assert_complete):
    plain = route(body=body, ranges=False, cuts=[50_000, 150_000, 90_000])
    fetch(server.add("/a", plain))
    assert plain.starts == [0, 0, 0, 0]
    assert_complete(tmp_path / "data")


def test_a_short_body_without_a_length_is_detected(server, route, fetch, body):
    with pytest.raises(DataError, match=r"ended at byte 5,000 of [\d,]+"):
        fetch(server.add("/a", route(body=body[:5000], length=False, ranges=False)))


def test_a_file_of_another_size_is_rejected_before_its_body(server, route, fetch, body, tiny_cifar10):
    expected = f"has a file of 5,000 bytes, expected {tiny_cifar10.archive.size_bytes:,}"
    with pytest.raises(DataError, match=expected):
        fetch(server.add("/a", route(body=body[:5000])))


def test_more_bytes_than_expected_are_rejected(server, route, fetch, body):
    with pytest.raises(DataError, match="sends more than the expected"):
        fetch(server.add("/a", route(body=body + b"more", length=False)))


def test_a_redirect_is_followed(server, route, fetch, body, tmp_path, assert_complete):
    server.add("/b", route(body=body))
    fetch(server.add("/a", route(body=b"", redirect="/b")))
    assert_complete(tmp_path / "data")


def test_without_a_network_the_error_lists_remedies(fetch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(DataError, match=rf"127\.0\.0\.1:{port} can't be reached") as caught:
        fetch(f"http://127.0.0.1:{port}/a")
    assert "--dataset shapes" in (caught.value.remedy or "")
