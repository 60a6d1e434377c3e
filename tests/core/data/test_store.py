"""The store file: written completely or not at all, and readable by this tool and by safetensors."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from cifar_cli.core.data.results import Provenance
from cifar_cli.core.data.sources.images import SourceImages
from cifar_cli.core.data.store import open_store, read_header, write_store
from cifar_cli.core.data.store_check import checksum_of_content
from cifar_cli.errors import DataError, ResourceError

PROVENANCE = Provenance(source="here", checksum="md5:0", imported_at="2026-01-01T00:00:00+00:00", tool_version="0")


def pixels(images: int, size: int = 6) -> np.ndarray:
    return (np.arange(images * size * size * 3) % 251).astype(np.uint8).reshape(images, size, size, 3)


def pets(images: int = 5) -> SourceImages:
    return SourceImages(
        classes=("cat", "dög"),
        train_images=pixels(images),
        train_labels=np.arange(images) % 2,
        test_images=pixels(3),
        test_labels=np.arange(3) % 2,
        provenance=PROVENANCE,
    )


def write(path: Path, images: int = 5) -> Path:
    write_store(path, name="pets", images=pets(images))
    return path


def test_a_written_store_is_read_back_unchanged(tmp_path):
    store = open_store(write(tmp_path / "pets.safetensors"))
    assert (store.name, store.classes, store.img_size) == ("pets", ("cat", "dög"), 6)
    assert store.provenance == PROVENANCE
    assert np.array_equal(store.train.images_NHWC.numpy(), pixels(5))
    assert store.test.labels_N.tolist() == [0, 1, 0]


def test_the_writer_returns_the_summary_that_the_header_gives(tmp_path):
    path = tmp_path / "pets.safetensors"
    assert write_store(path, name="pets", images=pets()) == read_header(path).summary


def test_images_without_an_archive_get_the_checksum_of_their_content(tmp_path):
    images = replace(pets(), provenance=replace(PROVENANCE, checksum=""))
    summary = write_store(tmp_path / "pets.safetensors", name="pets", images=images)
    assert summary.provenance.checksum == summary.content


def test_the_safetensors_library_reads_the_file(tmp_path):
    with safe_open(write(tmp_path / "pets.safetensors"), framework="np") as file:
        assert sorted(file.keys()) == ["test_images", "test_labels", "train_images", "train_labels"]
        assert np.array_equal(file.get_tensor("train_images"), pixels(5))
        assert json.loads(file.metadata()["classes"]) == ["cat", "dög"]


def test_the_header_is_read_without_torch_numpy_or_safetensors(tmp_path):
    path = write(tmp_path / "pets.safetensors")
    script = (
        "import sys; from pathlib import Path; from cifar_cli.core.data.store import read_header\n"
        f"header = read_header(Path({str(path)!r}))\n"
        "assert header.summary.train_images == 5, header\n"
        "print([name for name in ('torch', 'numpy', 'safetensors', 'PIL') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_content_checksum_covers_every_pixel_and_label(tmp_path):
    path = write(tmp_path / "pets.safetensors")
    header = read_header(path)
    assert checksum_of_content(header) == header.summary.content
    for _, (start, end) in header.offsets.items():
        content = bytearray(path.read_bytes())
        content[(start + end) // 2] ^= 1
        path.with_name("changed.safetensors").write_bytes(content)
        assert checksum_of_content(read_header(path.with_name("changed.safetensors"))) != header.summary.content


@pytest.mark.parametrize("length", [0, 4, 8, 100, 500, -1])
def test_a_truncated_store_is_rejected(length, tmp_path):
    path = write(tmp_path / "pets.safetensors")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"is damaged: it has [\d,]+ bytes instead|is not a dataset"):
        open_store(path)


@pytest.mark.parametrize(
    "content",
    [
        b"hello, this is no store at all",
        b"\xff" * 64,
        (2).to_bytes(8, "little") + b"{}",
        (4).to_bytes(8, "little") + b"null",
        (26).to_bytes(8, "little") + b'{"__metadata__":{"a":"b"}}',
    ],
)
def test_another_kind_of_file_is_rejected(content, tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a dataset that `cifar download` wrote"):
        open_store(path)


def test_a_missing_store_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(DataError, match="there is no dataset at") as caught:
        open_store(tmp_path / "none.safetensors")
    assert "cifar download --from PATH" in (caught.value.remedy or "")


def test_a_full_disk_leaves_the_old_store_and_nothing_else(tmp_path, monkeypatch):
    path = write(tmp_path / "pets.safetensors")
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="can't be written \\(No space left on device\\)") as caught:
        write(path, images=9)
    assert "free some space" in (caught.value.remedy or "")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_size_limit_is_an_error_and_leaves_no_partial_file(tmp_path):
    """RLIMIT_FSIZE makes the kernel reject a write half-way, as a full disk does."""
    script = (
        "import resource, signal; from pathlib import Path\n"
        "from cifar_cli.core.data.sources.shapes import draw_shapes\n"
        "from cifar_cli.core.data.store import write_store\n"
        "from cifar_cli.errors import ResourceError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        f"path = Path({str(tmp_path / 'a.safetensors')!r})\n"
        "try: write_store(path, name='a', images=draw_shapes(train_images=100, test_images=100))\n"
        "except ResourceError as error: print(error.what)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "can't be written (File too large)" in result.stdout, result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_opened_store_is_mapped_and_not_read_into_memory(tmp_path):
    """Memory grows by the pages that are touched, not by the size of the file, 200 MB here."""
    path = tmp_path / "large.safetensors"
    large = np.zeros((200_000, 18, 18, 3), dtype=np.uint8)
    small, labels = np.zeros((3, 18, 18, 3), dtype=np.uint8), np.zeros(200_000, dtype=np.int64)
    images = replace(pets(), train_images=large, train_labels=labels, test_images=small)
    write_store(path, name="large", images=images)
    script = (
        "import torch; from pathlib import Path; from cifar_cli.core.data.store import open_store\n"
        "def anonymous():\n"
        "    return int(next(l for l in open('/proc/self/status') if l.startswith('RssAnon')).split()[1])\n"
        f"before = anonymous(); store = open_store(Path({str(path)!r})); store.train.images_NHWC[:100].sum()\n"
        "print(anonymous() - before)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 40_000, "kB of anonymous memory for a mapped file"
