"""Labels in CSV files: which images they label, how they may be written, and the sentence for each mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cifar_cli.core.data.sources.label_tables import COLUMNS_REMEDY
from cifar_cli.errors import DataError
from tests.conftest import Cifar
from tests.core.data.streams import Collected, photo
from tests.core.data.test_any_folder import classes_of, imported, put

ROWS = [(number, "cat" if number % 2 else "dög, young") for number in range(10)]


def numbered(folder: Path, name: Callable[[int], str] = "{}.png".format) -> Path:
    for number, _ in ROWS:
        put(folder, name(number), number)
    return folder


def write(folder: Path, text: str, *, encoding: str = "utf-8", name: str = "labels.csv") -> Path:
    (folder / name).write_bytes(text.encode(encoding))
    return folder


def table(header: str = "image,label", *, row: str = '{}.png,"{}"') -> str:
    return "\n".join([header, *(row.format(*each) for each in ROWS)])


def labels_of(made: Collected) -> set[str]:
    return {made.classes[label] for label in (*made.train_labels, *made.test_labels)}


# Which images a table labels


def test_a_table_of_a_few_stray_images_labels_these_only(tmp_path: Path) -> None:
    folder = classes_of(tmp_path, "cat", "dog", images=10)
    put(folder, "x1.png", 50), put(folder, "x2.png", 51)
    write(folder, "image,label\nx1.png,cat\nx2.png,emu\ncat/1.png,dog\n")
    made = imported(folder)
    assert made.classes == ("cat", "dog", "emu")
    assert len(made.train_images) + len(made.test_images) == 22
    assert not made.left_out
    assert "classes are those of the folders, and in labels.csv for images that lie in no class folder" in made.notes
    assert "labels.csv names 1 image that lies in class folders, whose classes are kept" in made.notes


def test_stray_images_without_a_row_are_left_out_and_named(tmp_path: Path) -> None:
    folder = classes_of(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog", images=10)
    put(folder, "train/x1.png", 50), put(folder, "x2.png", 51)
    made = imported(write(folder, "image,label\nx1.png,cat\n"))
    assert [(each.name, each.reason) for each in made.left_out] == [("x2.png", "without a label in labels.csv")]
    assert "1 image without a label left out, such as x2.png" in made.notes
    assert (len(made.train_images), len(made.test_images)) == (21, 20)


def test_a_file_name_that_several_images_have_means_the_stray_one(tmp_path: Path) -> None:
    folder = classes_of(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog", images=5)
    put(folder, "train/1.png", 50)
    made = imported(write(folder, "image,label\n1.png,emu\n"))
    assert made.classes == ("cat", "dog", "emu")
    assert (made.train_images == photo(50, width=24, height=24)).all(axis=(1, 2, 3)).sum() == 1


def test_a_table_of_nearly_all_images_comes_before_the_folders(tmp_path: Path) -> None:
    folder = classes_of(tmp_path, "part1", "part2", images=10)
    rows = [f"part{part}/{number}.png,{'cat' if number % 2 else 'dog'}" for part in (1, 2) for number in range(10)]
    for rest, classes in ((rows[2:], ("cat", "dog")), (rows[3:], ("part1", "part2"))):  # nine tenths, and less
        made = imported(write(folder, "\n".join(["image,label", *rest])))
        assert made.classes == classes
        assert ("classes are those in labels.csv, not those of the folders" in made.notes) == ("cat" in classes)
        assert ("labels.csv is not used for labels" in made.notes) == ("cat" not in classes)
    assert imported(write(folder, "\n".join(["image,width", *rows]))).classes == ("part1", "part2")


@pytest.mark.parametrize("broken", ["notes,of\nno,image", "\x00\x81", "one column\n"])
def test_a_file_that_is_no_table_of_labels_does_not_disturb_class_folders(tmp_path: Path, broken: str) -> None:
    folder = write(classes_of(tmp_path, "cat", "dog"), broken, encoding="latin-1")
    made = imported(folder)
    assert made.classes == ("cat", "dog")
    assert "labels.csv is not used for labels" in made.notes


@pytest.mark.parametrize("other", ["image,width", "image,width,height"])
def test_a_table_of_something_else_beside_one_of_labels_is_not_used(tmp_path: Path, other: str) -> None:
    folder = write(numbered(tmp_path), table())
    write(folder, table(other, row="{}.png,5" + ",6" * (other.count(",") - 1)), name="a.csv")
    made = imported(folder)
    assert labels_of(made) == {"cat", "dög, young"}
    assert "a.csv is not used for labels" in made.notes


@pytest.mark.parametrize("name", ["sample_submission.csv", "sampleSubmission.csv", "submit.csv"])
def test_a_submission_is_never_a_table_of_labels(tmp_path: Path, name: str) -> None:
    folder = write(numbered(tmp_path), table())
    made = imported(write(folder, table(row="{}.png,bird"), name=name))
    assert labels_of(made) == {"cat", "dög, young"}


@pytest.mark.parametrize("name", ["samples.csv", "labels_sampled.csv", "SAMPLE.CSV", "sample.tsv"])
def test_a_table_of_samples_is_a_table_of_labels(tmp_path: Path, name: str) -> None:
    text = table("image\tlabel", row='{}.png\t"{}"') if name.endswith("tsv") else table()
    made = imported(write(numbered(tmp_path), text, name=name))
    assert labels_of(made) == {"cat", "dög, young"}


def test_folders_that_are_the_only_one_of_their_split_are_no_classes(tmp_path: Path) -> None:
    for number, _ in ROWS:
        put(tmp_path, f"train/train/{number}.jpg", number, kind="JPEG")
        put(tmp_path, f"test/test/{number + 10}.jpg", number + 10, kind="JPEG")
    made = imported(write(tmp_path, table("id,has_cactus", row='{}.jpg,"{}"'), name="train.csv"))
    assert labels_of(made) == {"cat", "dög, young"}
    assert "10 images without a label left out, such as test/test/10.jpg" in made.notes


def test_named_columns_label_all_images_though_folders_look_like_classes(tmp_path: Path) -> None:
    folder = classes_of(tmp_path, "part1", "part2", images=10)
    rows = [f"part{part}/{number}.png,{'cat' if number % 2 else 'dog'}" for part in (1, 2) for number in range(10)]
    made = imported(write(folder, "\n".join(["id,breed_of_it", *rows[4:]])), columns=("id", "breed_of_it"))
    assert made.classes == ("cat", "dog")
    assert "4 images without a label left out, such as part1/0.png" in made.notes


def test_a_table_of_all_images_that_is_not_used_is_offered(tmp_path: Path) -> None:
    folder = classes_of(tmp_path, "part1", "part2", images=10)
    rows = [f"part{part}/{number}.png,{number % 2}" for part in (1, 2) for number in range(10)]
    made = imported(write(folder, "\n".join(["id,dx", *rows])))
    assert made.classes == ("part1", "part2")
    assert f"if the labels are in labels.csv, and the folders are no classes: {COLUMNS_REMEDY}" in made.notes


def test_names_that_images_of_several_classes_share_leave_the_folders_classes(tmp_path: Path) -> None:
    folder = classes_of(tmp_path, "cat", "dog", images=10)
    rows = [f"{number}.png,{name}" for name in ("cat", "dog") for number in range(10)]
    made = imported(write(folder, "\n".join(["filename,label", *rows])))
    assert made.classes == ("cat", "dog")
    assert len(made.train_images) + len(made.test_images) == 20
    assert not made.left_out


# How a table may be written


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with BOM"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv"])
def test_encodings_and_delimiters_of_spreadsheets_are_read(
    tmp_path: Path, encoding: str, delimiter: str, name: str
) -> None:
    text = table(
        f"image{delimiter}label", row=f'{{}}.png{delimiter}"{{}}"' if delimiter == "," else f"{{}}.png{delimiter}{{}}"
    )
    folder = numbered(tmp_path)
    if encoding.endswith("BOM"):
        write(folder, "\ufeff" + text, encoding="utf-16-le", name=name)
    else:
        write(folder, text, encoding=encoding, name=name)
    assert labels_of(imported(folder)) == {"cat", "dög, young"}


@pytest.mark.parametrize("spelled", ["{}.png", "{}", "{}.PNG", "train/{}.Png", "./{}.png"])
@pytest.mark.parametrize("on_disk", ["train/{}.png", "train/{}.PNG"])
def test_suffixes_may_differ_in_case_or_be_left_out(tmp_path: Path, spelled: str, on_disk: str) -> None:
    folder = write(numbered(tmp_path, on_disk.format), table(row=f'{spelled},"{{}}"'))
    made = imported(folder)
    assert len(made.train_images) + len(made.test_images) == 10
    assert labels_of(made) == {"cat", "dög, young"}


def test_names_that_differ_in_case_only_are_told_apart_or_not_guessed(tmp_path: Path) -> None:
    put(numbered(tmp_path), "1.PNG", 99)
    made = imported(write(tmp_path, table() + "\n1,emu"))
    assert "emu" not in made.classes
    assert "labels.csv names 1 image that is there several times under this name" in made.notes
    assert "1 image without a label left out, such as 1.PNG" in made.notes


@pytest.mark.parametrize("row", ['{}.png,"{}"', '{},"{}"'])
def test_a_table_without_a_header_loses_no_image(tmp_path: Path, row: str) -> None:
    folder = numbered(tmp_path)
    made = imported(write(folder, table(row=row).partition("\n")[2]))
    assert len(made.train_images) + len(made.test_images) == 10
    said = "labels.csv has no header, and is read with column 1 for the images and column 2 for the labels"
    assert said in made.notes


def test_the_row_numbers_of_pandas_are_no_labels(tmp_path: Path) -> None:
    folder = write(numbered(tmp_path, "a{}.png".format), table(",file,kind", row='{0},a{0}.png,"{1}"'))
    assert labels_of(imported(folder)) == {"cat", "dög, young"}


def one_hot(
    folder: Path, *, row: Callable[[int], str] = lambda number: "01"[number % 2] + "," + "10"[number % 2]
) -> Path:
    """Images and a column for each class in every split, as Roboflow exports them."""
    for split, first in (("train", 0), ("valid", 100), ("test", 200)):
        for number, _ in ROWS:
            put(folder, f"{split}/{number}.jpg", first + number, kind="JPEG")
        write(
            folder / split,
            "\n".join(["filename, cat, Dög", *(f"{n}.jpg, {row(n)}" for n, _ in ROWS)]),
            name="_classes.csv",
        )
    return folder


def test_a_column_for_each_class_is_read(tmp_path: Path) -> None:
    made = imported(one_hot(tmp_path))
    assert made.classes == ("Dög", "cat")
    assert len(made.train_images) == 20
    assert sorted(made.test_labels) == [0] * 5 + [1] * 5
    assert not made.left_out


@pytest.mark.parametrize(("values", "problem"), [("1,1", "several labels"), ("0,0", "no usable label")])
def test_a_row_without_one_label_among_columns_of_classes_is_named(tmp_path: Path, values: str, problem: str) -> None:
    folder = one_hot(tmp_path, row=lambda number: values if number == 3 else "1,0" if number % 2 else "0,1")
    with pytest.raises(DataError, match=f"test/_classes.csv has {problem} for 3.jpg"):
        imported(folder)
    made = imported(folder, skip_bad=True)
    assert {each.name for each in made.left_out} == {"train/3.jpg", "valid/3.jpg", "test/3.jpg"}


def test_columns_of_several_labels_a_row_are_trained_one_at_a_time(tmp_path: Path) -> None:
    folder = one_hot(tmp_path, row=lambda number: "1,1" if number % 2 else "0,1")
    with pytest.raises(DataError, match="none of the columns filename, cat, Dög"):
        imported(folder)
    assert imported(folder, columns=("filename", "cat")).classes == ("0", "1")


def test_rows_without_any_content_are_no_rows(tmp_path: Path) -> None:
    assert labels_of(imported(write(numbered(tmp_path), table() + "\n,\n\n,"))) == {"cat", "dög, young"}


# Columns


@pytest.mark.parametrize("columns", ["name,dx", "Name, DX", "2,4"])
def test_columns_that_can_t_be_found_can_be_named(tmp_path: Path, cifar: Cifar, columns: str) -> None:
    folder = numbered(tmp_path / "pets")
    write(folder, table("age,name,sex,dx", row='5,{}.png,m,"{}"'))
    words = ("download", "--dataset", "pets", "--from", folder, "--data-dir", tmp_path / "data")
    refused = cifar(*words)
    assert refused.exit_code == 1
    said = " ".join(refused.stderr.split())
    assert "none of the columns age, name, sex, dx of labels.csv is surely the label" in said
    assert "pass --columns IMAGE,LABEL" in said
    taken = cifar(*words, "--columns", columns)
    assert taken.exit_code == 0, taken.stderr
    assert "2: cat, dög, young" in taken.stdout
    other = cifar(*words, "--columns", "name,sex")
    assert other.exit_code == 1
    assert "was imported with other columns than name,sex" in " ".join(other.stderr.split())


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (("image", "dx"), r"no CSV file has columns named image and dx \(labels.csv has image, label\)"),
        (("1", "3"), "no CSV file has columns named 1 and 3"),
    ],
)
def test_columns_that_are_not_there_are_refused(tmp_path: Path, columns: tuple[str, str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        imported(write(numbered(tmp_path), table()), columns=columns)


@pytest.mark.parametrize("value", ["image", "image,label,split", "image,image", ","])
def test_columns_are_two(cifar: Cifar, value: str) -> None:
    refused = cifar("download", "--dataset", "pets", "--columns", value)
    assert refused.exit_code == 2
    assert "is not two columns" in refused.stderr


def test_columns_are_refused_where_no_table_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no CSV or parquet file whose columns --columns could name"):
        imported(classes_of(tmp_path, "cat", "dog"), columns=("image", "label"))


# Mistakes


@pytest.mark.parametrize(
    ("change", "said", "lost"),
    [
        (lambda text: text.replace('3.png,"cat"', "3.png,"), "labels.csv has no usable label for 3.png", "3.png"),
        (lambda text: text.replace('3.png,"cat"', "3.png"), "labels.csv has no usable label for 3.png", "3.png"),
        (lambda text: f"{text}\n3.png,dog\n3.png,cat", "labels.csv has two labels for 3.png", "3.png"),
    ],
)
def test_a_row_without_one_label_ends_an_import_or_its_image_is_left_out(
    tmp_path: Path, change: Callable[[str], str], said: str, lost: str
) -> None:
    folder = write(numbered(tmp_path), change(table()))
    with pytest.raises(DataError, match=said) as caught:
        imported(folder)
    assert "--skip-bad" in (caught.value.remedy or "")
    made = imported(folder, skip_bad=True)
    assert [each.name for each in made.left_out] == [lost]
    assert len(made.train_images) + len(made.test_images) == 9


def test_rows_of_images_that_are_not_there_are_counted(tmp_path: Path) -> None:
    made = imported(write(numbered(tmp_path), table() + "\n98.png,cat\n99.png,cat"))
    assert "labels.csv names 2 images that are not there, such as 98.png" in made.notes


def test_a_table_that_names_no_image_is_refused_where_labels_are_needed(tmp_path: Path) -> None:
    folder = write(numbered(tmp_path), "image,label\na.png,cat\nb.png,dog\n")
    with pytest.raises(DataError, match=r"no column of labels.csv names the images \(image, label\)"):
        imported(folder)
    write(folder, "\x00\x81", encoding="latin-1")
    with pytest.raises(DataError, match=r"labels.csv is not a CSV file in UTF-8 or UTF-16"):
        imported(folder)


# Splits


def test_a_column_of_splits_is_followed(tmp_path: Path) -> None:
    rows = [f"{number}.png,{'cat' if number % 2 else 'dog'},{'Test' if number > 5 else ''}" for number, _ in ROWS]
    made = imported(write(numbered(tmp_path), "\n".join(["image,label,split", *rows])))
    assert (len(made.train_images), len(made.test_images)) == (6, 4)


def test_a_split_that_is_none_is_named(tmp_path: Path) -> None:
    rows = [f"{number}.png,{'cat' if number % 2 else 'dog'},{'eval' if number > 7 else 'test'}" for number, _ in ROWS]
    with pytest.raises(DataError, match=r"has the split 'eval' for 8\.png") as caught:
        imported(write(numbered(tmp_path), "\n".join(["image,label,split", *rows])))
    assert "train" in str(caught.value.remedy)


@pytest.mark.parametrize(("name", "split"), [("testLabels.csv", "test"), ("latest.csv", None), ("devices.csv", None)])
def test_the_split_of_a_table_is_a_word_of_its_name(tmp_path: Path, name: str, split: str | None) -> None:
    lines = table(row="{}.png,{}").replace("dög, young", "dog").splitlines()
    numbered(tmp_path)
    write(tmp_path, "\n".join(lines[:6]), name="trainLabels.csv")
    write(tmp_path, "\n".join([lines[0], *lines[6:]]), name=name)
    made = imported(tmp_path)
    said = f"the images in {name} are {split} images, because of its name"
    assert (said in made.notes) == (split is not None)
    assert len(made.test_images) == (5 if split else 2)
