"""Datasets by name: open, draw, import and check."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import filelock
import pytest
import torch
from PIL import Image

from cifar_cli import __version__
from cifar_cli.core.data.config import CIFAR10_CLASSES, CIFAR10_MEAN, CIFAR10_STD, DataConfig, ImportConfig
from cifar_cli.core.data.dataset import check_dataset, import_dataset, open_dataset
from cifar_cli.core.data.sources.mirrors import ARCHIVES
from cifar_cli.core.data.sources.obtain import datasets_in
from cifar_cli.core.data.sources.shapes import draw_shapes
from cifar_cli.core.data.sources.transfer import cannot_write
from cifar_cli.core.data.store import Store, write_store
from cifar_cli.core.progress import Progress
from cifar_cli.errors import ConfigError, DataError, ResourceError


def pets(make_tree, tmp_path: Path, **options) -> ImportConfig:
    data = DataConfig(dataset="pets", data_dir=tmp_path / "data")
    return ImportConfig(data=data, sources=(str(make_tree(**options)),))


class TestOpen:
    @pytest.mark.slow
    def test_shapes_are_drawn_once_and_marked_as_synthetic(self, tmp_path):
        config = DataConfig(dataset="shapes", data_dir=tmp_path)
        store = open_dataset(config)
        assert (len(store.train), len(store.test), store.synthetic) == (50_000, 10_000, True)
        assert store.provenance.source == "drawn by cifar"
        written = config.store_path.stat().st_mtime_ns
        assert torch.equal(open_dataset(config).train.images_NHWC, store.train.images_NHWC)
        assert config.store_path.stat().st_mtime_ns == written

    def test_a_store_file_is_opened_by_its_path(self, make_tree, tmp_path):
        result = import_dataset(pets(make_tree, tmp_path))
        store = open_dataset(DataConfig(dataset=str(result.dataset.path), data_dir=tmp_path / "elsewhere"))
        assert (store.name, len(store.train)) == ("pets", 6)

    def test_a_missing_store_file_is_named(self, tmp_path):
        with pytest.raises(DataError, match=r"there is no dataset at .*missing\.safetensors"):
            open_dataset(DataConfig(dataset=str(tmp_path / "missing.safetensors")))

    @pytest.mark.parametrize(
        "config",
        [
            ImportConfig(data=DataConfig(dataset="nosuch", data_dir=Path("nodir"))),
            ImportConfig(data=DataConfig(dataset="nosuch", data_dir=Path("nodir")), sources=("absent",)),
            ImportConfig(data=DataConfig(dataset="shapes", data_dir=Path("nodir")), sources=("absent",)),
        ],
    )
    def test_a_source_that_does_not_exist_creates_no_folder(self, config, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(DataError):
            import_dataset(config)
        if not config.sources:
            with pytest.raises(DataError, match="there is no dataset named 'nosuch' in nodir"):
                open_dataset(config.data)
        assert list(tmp_path.iterdir()) == []

    def test_an_unknown_name_is_an_error_that_lists_similar_or_existing_datasets(self, make_tree, tmp_path):
        import_dataset(pets(make_tree, tmp_path))
        with pytest.raises(DataError, match="there is no dataset named 'pet'") as caught:
            open_dataset(DataConfig(dataset="pet", data_dir=tmp_path / "data"))
        assert "did you mean pets?" in (caught.value.remedy or "")
        assert "cifar download --dataset pet --from PATH" in (caught.value.remedy or "")
        with pytest.raises(DataError) as caught:
            open_dataset(DataConfig(dataset="zzzzz", data_dir=tmp_path / "data"))
        assert "cifar10, cifar100, pets, shapes" in (caught.value.remedy or "")

    def test_with_fetch_off_a_missing_dataset_is_an_error_that_names_the_command(self, tmp_path):
        with pytest.raises(DataError, match="there is no cifar100 in") as caught:
            open_dataset(DataConfig(dataset="cifar100", data_dir=tmp_path), fetch=False)
        assert "`cifar download --dataset cifar100`" in (caught.value.remedy or "")

    def test_cifar10_is_never_replaced_by_shapes(self, tmp_path):
        write_store(tmp_path / "shapes.safetensors", name="shapes", images=draw_shapes(train_images=10, test_images=10))
        without_mirrors = {"cifar10": replace(ARCHIVES["cifar10"], mirrors=())}
        with pytest.raises(DataError, match="cifar10 can't be downloaded"):
            open_dataset(DataConfig(data_dir=tmp_path), archives=without_mirrors)
        assert datasets_in(tmp_path) == ["shapes"]

    @pytest.mark.slow
    def test_a_first_import_opens_the_store_for_its_header_labels_and_names_and_loads_no_torch(
        self, make_tree, tmp_path
    ):
        """The audit hook sees every open() of Python; safetensors maps the file without one."""
        top = make_tree()
        script = (
            "import sys; from pathlib import Path\n"
            "from cifar_cli.core.data.config import DataConfig, ImportConfig\n"
            "from cifar_cli.core.data.dataset import import_dataset, open_dataset\n"
            "opened = []\n"
            "def hook(event, arguments):\n"
            "    if event == 'open' and str(arguments[0]).endswith('/pets.safetensors'): opened.append(arguments[1])\n"
            "sys.addaudithook(hook)\n"
            f"data = DataConfig(dataset='pets', data_dir=Path({str(tmp_path / 'data')!r}))\n"
            f"import_dataset(ImportConfig(data=data, sources=({str(top)!r},)))\n"
            "assert 'torch' not in sys.modules, 'an import needs no torch'\n"
            "open_dataset(data)\n"
            "print(len(opened))"
        )
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == "5"

    def test_opening_a_damaged_store_is_an_error_and_does_not_replace_it(self, make_tree, tmp_path):
        config = pets(make_tree, tmp_path)
        path = import_dataset(config).dataset.path
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(DataError, match=r"is damaged: it has [\d,]+ bytes instead of [\d,]+") as caught:
            open_dataset(config.data)
        assert "--force" in (caught.value.remedy or "")

    @pytest.mark.parametrize("name", ["", "../x", "a b", "-x", ".hidden", "a/b"])
    def test_a_name_that_is_not_a_valid_file_name_is_rejected(self, name):
        with pytest.raises(ConfigError, match=r"is neither a name nor the path of a \.safetensors file"):
            DataConfig(dataset=name)


class TestImport:
    def test_a_folder_of_images_becomes_a_dataset(self, make_tree, tmp_path):
        result = import_dataset(pets(make_tree, tmp_path, classes=("ant", "bee", "cat")))
        summary = result.dataset
        assert not result.already_there
        assert (summary.name, summary.classes, summary.img_size) == ("pets", ("ant", "bee", "cat"), 32)
        assert (summary.train_images, summary.test_images) == (9, 9)
        assert summary.path == tmp_path / "data" / "pets.safetensors"
        assert summary.provenance.source == str(tmp_path / "pets")
        assert summary.provenance.checksum == summary.content
        assert summary.provenance.tool_version == __version__
        assert datasets_in(tmp_path / "data") == ["pets"]

    def test_the_checksum_of_an_archive_of_images_is_recorded(self, make_tree, tmp_path):
        archive = tmp_path / "pets.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(make_tree(), arcname=".")
        config = ImportConfig(data=DataConfig(dataset="pets", data_dir=tmp_path / "data"), sources=(str(archive),))
        expected = hashlib.sha256(archive.read_bytes()).hexdigest()
        assert import_dataset(config).dataset.provenance.checksum == f"sha256:{expected}"

    def test_an_existing_dataset_is_kept_unless_forced(self, make_tree, tmp_path):
        config = pets(make_tree, tmp_path)
        first = import_dataset(config).dataset
        Image.new("RGB", (32, 32)).save(tmp_path / "pets/train/cat/new.png")
        again = import_dataset(config)
        assert again.already_there
        assert again.dataset == first
        forced = import_dataset(ImportConfig(data=config.data, sources=config.sources, force=True))
        assert not forced.already_there
        assert forced.dataset.train_images == 7

    def test_a_damaged_store_is_imported_again(self, make_tree, tmp_path):
        config = pets(make_tree, tmp_path)
        path = import_dataset(config).dataset.path
        path.write_bytes(b"")
        assert not import_dataset(config).already_there
        assert check_dataset(config.data).intact

    def test_a_failed_import_keeps_the_existing_store(self, make_tree, tmp_path):
        config = pets(make_tree, tmp_path)
        before = import_dataset(config).dataset.path.read_bytes()
        (tmp_path / "pets/test/dog/1.png").write_bytes(b"")
        with pytest.raises(DataError, match="is not a readable image"):
            import_dataset(ImportConfig(data=config.data, sources=config.sources, force=True))
        assert config.data.store_path.read_bytes() == before

    def test_cifar10s_official_archive_and_its_extracted_folder_give_the_same_store(self, tiny_cifar10, tmp_path):
        archives = {"cifar10": tiny_cifar10.archive}
        with tarfile.open(tiny_cifar10.path) as tar:
            tar.extractall(tmp_path, filter="data")
        contents = set()
        for number, source in enumerate((tiny_cifar10.path, tmp_path / tiny_cifar10.archive.folder, tmp_path)):
            config = ImportConfig(data=DataConfig(data_dir=tmp_path / f"data{number}"), sources=(str(source),))
            contents.add(import_dataset(config, archives=archives).dataset.content)
        assert len(contents) == 1

    def test_a_changed_official_archive_is_rejected_with_both_checksums(self, tiny_cifar10, tmp_path):
        config = ImportConfig(data=DataConfig(data_dir=tmp_path), sources=(str(tiny_cifar10.path),))
        actual, official = tiny_cifar10.archive.md5, "c58f30108f718f92721af3b95e74349a"
        with pytest.raises(
            DataError, match=f"is not the official archive: its checksum is md5:{actual}, expected md5:{official}"
        ):
            import_dataset(config)

    def test_an_official_archive_under_another_name_is_rejected(self, tiny_cifar10, tmp_path):
        config = ImportConfig(
            data=DataConfig(dataset="mine", data_dir=tmp_path / "data"), sources=(str(tiny_cifar10.path),)
        )
        with pytest.raises(DataError, match="is cifar10's official archive, not mine") as caught:
            import_dataset(config)
        assert "cifar download --dataset cifar10 --from" in (caught.value.remedy or "")

    def test_images_of_other_classes_are_rejected_as_cifar10(self, make_tree, tmp_path):
        config = ImportConfig(data=DataConfig(data_dir=tmp_path / "data"), sources=(str(make_tree()),))
        with pytest.raises(DataError, match="does not have this dataset's 10 classes") as caught:
            import_dataset(config)
        assert "cifar download --dataset NAME --from" in (caught.value.remedy or "")

    def test_images_with_cifar10s_class_names_get_its_labels(self, make_tree, tmp_path):
        top = make_tree(CIFAR10_CLASSES[::-1], images=1)
        config = ImportConfig(data=DataConfig(data_dir=tmp_path / "data"), sources=(str(top),))
        assert import_dataset(config).dataset.classes == CIFAR10_CLASSES
        reds = open_dataset(config.data).train.images_NHWC[:, 0, 0, 0].tolist()
        assert reds == [180, 160, 140, 120, 100, 80, 60, 40, 20, 0]  # make_tree's order was the reverse

    def test_progress_covers_both_passes_over_the_images(self, make_tree, tmp_path):
        events: list[Progress] = []
        import_dataset(pets(make_tree, tmp_path), on_progress=events.append)
        assert [(event.task, event.done, event.total) for event in events] == [
            ("scan pets", 12, 12),
            ("decode pets", 12, 12),
        ]

    def test_a_second_import_waits_for_the_first(self, make_tree, tmp_path):
        config = pets(make_tree, tmp_path)
        (tmp_path / "data").mkdir()
        holder = filelock.FileLock(tmp_path / "data" / ".pets.lock", is_singleton=False)
        holder.acquire()
        events: list[Progress] = []

        def listen(event: Progress) -> None:
            events.append(event)
            if event.task.startswith("wait"):
                holder.release()

        assert not import_dataset(config, on_progress=listen).already_there
        assert events[0].task == "wait for another cifar to finish with pets"

    @pytest.mark.parametrize(
        ("sources", "message"),
        [
            (("a", "b"), "--from takes one path, or several URLs of the same archive"),
            (("a", "https://b"), "--from takes one path, or several URLs of the same archive"),
        ],
    )
    def test_contradicting_sources_are_rejected(self, sources, message):
        with pytest.raises(ConfigError, match=message):
            ImportConfig(sources=sources)

    def test_official_images_can_not_be_stored_in_another_size(self, tiny_cifar10, tmp_path):
        config = ImportConfig(data=DataConfig(data_dir=tmp_path), sources=(str(tiny_cifar10.path),), img_size=64)
        with pytest.raises(DataError, match="cifar10's images are stored in the size that they have"):
            import_dataset(config, archives={"cifar10": tiny_cifar10.archive})

    def test_a_data_dir_that_is_a_file_is_named(self, make_tree, tmp_path):
        (tmp_path / "file").write_text("")
        config = ImportConfig(data=DataConfig(dataset="pets", data_dir=tmp_path / "file"), sources=(str(make_tree()),))
        with pytest.raises(ResourceError, match=r"--data-dir .*file is a file, not a folder"):
            import_dataset(config)

    def test_a_data_dir_that_can_not_be_created_is_named_with_the_reason(self, make_tree, tmp_path):
        (tmp_path / "file").write_text("")
        data = DataConfig(dataset="pets", data_dir=tmp_path / "file" / "data")
        with pytest.raises(ResourceError, match=r"data can't be created \(Not a directory\)"):
            import_dataset(ImportConfig(data=data, sources=(str(make_tree()),)))

    def test_a_data_dir_that_can_not_be_locked_is_named_with_the_reason(self, make_tree, tmp_path):
        (tmp_path / "data" / ".pets.lock").mkdir(parents=True)
        with pytest.raises(ResourceError, match=r"data can't be written to \(Is a directory\)"):
            import_dataset(pets(make_tree, tmp_path))

    def test_a_full_disk_during_the_download_is_an_error_with_a_remedy(self, tmp_path):
        error = cannot_write(tmp_path / "x.part", OSError(28, "No space left on device"))
        assert error.what == f"{tmp_path / 'x.part'} can't be written (no space left)"
        assert "free some space" in (error.remedy or "")


class TestCheck:
    def test_an_intact_dataset_has_no_problems_and_the_right_counts(self, make_tree, tmp_path):
        config = pets(make_tree, tmp_path)
        import_dataset(config)
        check = check_dataset(config.data)
        assert check.intact
        assert [(c.name, c.train_images, c.test_images) for c in check.per_class] == [("cat", 3, 3), ("dog", 3, 3)]

    def test_one_wrong_pixel_is_detected(self, make_tree, tmp_path):
        config = pets(make_tree, tmp_path)
        path = import_dataset(config).dataset.path
        content = bytearray(path.read_bytes())
        content[-1000] ^= 1
        path.write_bytes(content)
        check = check_dataset(config.data)
        assert not check.intact
        assert check.problems[0].startswith("images and labels hash to sha256:")

    def test_a_damaged_archive_beside_the_store_is_detected(self, tiny_cifar10, tmp_path):
        archives = {"cifar10": tiny_cifar10.archive}
        data = DataConfig(data_dir=tmp_path)
        import_dataset(ImportConfig(data=data, sources=(str(tiny_cifar10.path),)), archives=archives)
        assert check_dataset(data, archives=archives).archive is None
        archive = tmp_path / tiny_cifar10.archive.filename
        archive.write_bytes(tiny_cifar10.path.read_bytes())
        assert check_dataset(data, archives=archives).intact
        archive.write_bytes(b"damaged")
        check = check_dataset(data, archives=archives)
        assert check.archive == archive
        assert "expected md5:" in check.problems[0]

    def test_a_missing_dataset_is_an_error_with_the_command_to_run(self, tmp_path):
        with pytest.raises(DataError, match="there is no dataset at") as caught:
            check_dataset(DataConfig(data_dir=tmp_path))
        assert "cifar download" in (caught.value.remedy or "")


@pytest.mark.slow
class TestRealImages:
    @pytest.mark.slow
    def test_the_official_split_and_counts_are_preserved(self, real_cifar10):
        check = check_dataset(real_cifar10)
        assert check.intact
        assert (check.dataset.train_images, check.dataset.test_images) == (50_000, 10_000)
        assert [count.name for count in check.per_class] == list(CIFAR10_CLASSES)
        assert {(count.train_images, count.test_images) for count in check.per_class} == {(5_000, 1_000)}
        expected = "sha256:ee47d84d74f5f85ed21652acad05eb2103b36c059f0f86d69c9a6b4e75fe34e6"
        assert check.dataset.provenance.checksum == expected
        assert (check.dataset.img_size, check.dataset.provenance.resized_images) == (32, 0)

    def test_the_pixels_have_cifar10s_published_mean_and_std(self, real_cifar10):
        """The images beside the repository went through JPEG, which changes the third digit."""
        store: Store = open_dataset(real_cifar10, fetch=False)
        assert store.mean == pytest.approx(CIFAR10_MEAN, abs=0.002)
        assert store.std == pytest.approx(CIFAR10_STD, abs=0.002)


def test_a_size_that_a_source_can_t_have_is_refused(tmp_path: Path) -> None:
    shapes = ImportConfig(data=DataConfig(dataset="shapes", data_dir=tmp_path), img_size=64)
    with pytest.raises(DataError, match="shapes's images are stored in the size that they have") as caught:
        import_dataset(shapes)
    assert caught.value.remedy == "leave out --img-size here and pass it to `cifar train`"
    assert not (tmp_path / "shapes.safetensors").exists()
