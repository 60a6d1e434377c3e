"""The store file: what is written is what is read, whole or not at all, by this tool or by safetensors."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from cifar_cli.core.data.config import Provenance
from cifar_cli.core.data.store import Part, open_store, write_store
from cifar_cli.core.data.store_file import checksum_of_content, read_header
from cifar_cli.errors import DataError, ResourceError

PROVENANCE = Provenance(source="here", checksum="md5:0", imported_at="2026-01-01T00:00:00+00:00", tool_version="0")


def part(images: int, side: int = 6) -> Part:
    pixels = torch.arange(images * side * side * 3) % 251
    return Part(images_NHWC=pixels.reshape(images, side, side, 3).to(torch.uint8), labels_N=torch.arange(images) % 2)


def write(path: Path, images: int = 5) -> Path:
    write_store(path, name="pets", classes=("cat", "dög"), train=part(images), test=part(3), provenance=PROVENANCE)
    return path


def test_what_is_written_is_what_is_read(tmp_path):
    store = open_store(write(tmp_path / "pets.safetensors"))
    assert (store.name, store.classes, store.img_size) == ("pets", ("cat", "dög"), 6)
    assert store.provenance == PROVENANCE
    assert torch.equal(store.train.images_NHWC, part(5).images_NHWC)
    assert torch.equal(store.test.labels_N, part(3).labels_N)


def test_the_safetensors_library_reads_the_file_as_its_own(tmp_path):
    with safe_open(write(tmp_path / "pets.safetensors"), framework="np") as file:
        assert sorted(file.keys()) == ["test_images", "test_labels", "train_images", "train_labels"]
        assert np.array_equal(file.get_tensor("train_images"), part(5).images_NHWC.numpy())
        assert json.loads(file.metadata()["classes"]) == ["cat", "dög"]


def test_the_header_is_read_without_torch_numpy_or_safetensors(tmp_path):
    path = write(tmp_path / "pets.safetensors")
    script = (
        "import sys; from pathlib import Path; from cifar_cli.core.data.store_file import read_header\n"
        f"header = read_header(Path({str(path)!r}))\n"
        "assert header.shapes['train_images'] == (5, 6, 6, 3), header\n"
        "print([name for name in ('torch', 'numpy', 'safetensors', 'PIL') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_content_checksum_covers_every_pixel_and_label(tmp_path):
    path = write(tmp_path / "pets.safetensors")
    header = read_header(path)
    assert checksum_of_content(header) == header.content
    for _, (start, end) in header.offsets.items():
        content = bytearray(path.read_bytes())
        content[(start + end) // 2] ^= 1
        path.with_name("changed.safetensors").write_bytes(content)
        assert checksum_of_content(read_header(path.with_name("changed.safetensors"))) != header.content


@pytest.mark.parametrize("length", [0, 4, 8, 100, 500, -1])
def test_a_truncated_store_is_never_taken_for_whole(length, tmp_path):
    path = write(tmp_path / "pets.safetensors")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"is broken: it has [\d,]+ bytes where|is not a dataset that `cifar download`"):
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
def test_another_file_is_not_taken_for_a_store(content, tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a dataset that `cifar download` wrote"):
        open_store(path)


def test_no_store_is_one_sentence_with_its_remedy(tmp_path):
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


def test_a_real_limit_on_file_size_is_an_error_message_and_leaves_nothing(tmp_path):
    """RLIMIT_FSIZE makes the kernel refuse the write half-way, as a full disk does."""
    script = (
        "import resource, signal, sys, torch; from pathlib import Path\n"
        "from cifar_cli.core.data.config import Provenance; from cifar_cli.core.data.store import Part, write_store\n"
        "from cifar_cli.errors import ResourceError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "part = Part(images_NHWC=torch.zeros(100, 32, 32, 3, dtype=torch.uint8),"
        " labels_N=torch.zeros(100, dtype=torch.int64))\n"
        "provenance = Provenance(source='', checksum='', imported_at='', tool_version='')\n"
        f"path = Path({str(tmp_path / 'a.safetensors')!r})\n"
        "try: write_store(path, name='a', classes=('x',), train=part, test=part, provenance=provenance)\n"
        "except ResourceError as error: print(error.what)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "can't be written (File too large)" in result.stdout, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_mapped_and_its_pixels_stay_on_disk(tmp_path):
    """Memory grows by the pages that are touched, not by the file: 200 MB here."""
    path = tmp_path / "large.safetensors"
    large = Part(
        images_NHWC=torch.zeros(200_000, 18, 18, 3, dtype=torch.uint8), labels_N=torch.zeros(200_000, dtype=torch.int64)
    )
    write_store(path, name="large", classes=("x",), train=large, test=part(1), provenance=PROVENANCE)
    script = (
        "import torch; from pathlib import Path; from cifar_cli.core.data.store import open_store\n"
        "def anonymous():\n"
        "    return int(next(l for l in open('/proc/self/status') if l.startswith('RssAnon')).split()[1])\n"
        f"before = anonymous(); store = open_store(Path({str(path)!r})); store.train.images_NHWC[:100].sum()\n"
        "print(anonymous() - before)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 40_000, "kB of memory of its own for a mapped file"
