# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""Data folders of any name and content: what is read is what is there, and what cannot be read is refused."""

import io
import os
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from PIL import Image

from fqgan_hf.evaluation.data_folder import IMAGE_SUFFIXES, METADATA_NAMES, list_data_folder
from fqgan_hf.evaluation.image_source import ImageDataArguments
from fqgan_hf.evaluation.images import load_images


# Beside each of them lies a folder that it means as a pattern, with three times the data.
ODD_NAMES = {
    "photos [2024]": "photos 2",
    "a?b": "axb",
    "a*b": "axxb",
    "**": "xx",
    "[!a]": "b",
    "{x,y}": "x",
    "!not": "not",
    "hf:": "hf",
    "#1 50%20 ~": "1",
    "фото ☃": "x",
}


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(file, format="png")
    return file.getvalue()


def write_images(folder: Path, number: int) -> None:
    """In two classes, whose names are patterns, too."""
    for i in range(number):
        path = folder / ("cat [1]", "dog*")[i % 2] / f"im[{i}]?.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))


def write_parquet(folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    columns = {
        "image": [{"bytes": png(i), "path": None} for i in range(number)],
        "label": [i % 2 for i in range(number)],
    }
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / "train [0].Parquet")


def write_tar(folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "part [0].TAR", "w") as archive:
        for i in range(number):
            for name, content in ((f"{i:04d}.png", png(i)), (f"{i:04d}.cls", str(i % 2).encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


WRITERS = {"images": write_images, "parquet": write_parquet, "tar": write_tar}


def read(folder: Path, cache_dir: Path, streaming: bool = False, option: str = "train_data_dir"):
    """Number of images, their shades, and the names of the classes."""
    arguments = ImageDataArguments(**{option: str(folder)}, cache_dir=str(cache_dir))
    images = load_images(SimpleNamespace(**vars(arguments), streaming=streaming, streaming_samples=99))
    if not streaming:
        return len(images), sorted(images[i][0].getpixel((0, 0))[0] for i in range(len(images))), images.label_names
    rows = [images.decode(row, i)[0] for i, row in enumerate(images.stream)]
    return len(rows), sorted(picture.getpixel((0, 0))[0] for picture in rows), images.label_names


@pytest.mark.parametrize("streaming", [False, True], ids=["held", "streamed"])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_name_is_no_pattern(kind, streaming, cache_dir, tmp_path):
    for name, meant in ODD_NAMES.items():
        WRITERS[kind](tmp_path / meant, 12)
        WRITERS[kind](tmp_path / name, 4)
        classes = {"images": ["cat [1]", "dog*"], "parquet": ["cat", "dog"], "tar": ["0", "1"]}[kind]
        expected = (4, [0, 1, 2, 3], ["unlabelled"] if kind == "tar" and streaming else classes)
        assert read(tmp_path / name, cache_dir, streaming) == expected, name
        shutil.rmtree(tmp_path / meant)
        shutil.rmtree(tmp_path / name)


@pytest.mark.parametrize("streaming", [False, True], ids=["held", "streamed"])
def test_the_name_of_a_local_dataset_is_no_pattern(streaming, cache_dir, tmp_path):
    for name in ("photos [2024]", "a*b", "{x,y}"):
        for folder, factor in ((ODD_NAMES[name], 3), (name, 1)):
            write_images(tmp_path / folder / "train", 4 * factor)
            write_images(tmp_path / folder / "test", 2 * factor)
        expected = (4, [0, 1, 2, 3], ["cat [1]", "dog*"])
        assert read(tmp_path / name, cache_dir, streaming, "dataset_name") == expected, name
    (tmp_path / "a*b" / "README.md").write_text("---\nconfigs:\n- config_name: x\n  data_files: test/**\n---\n")
    with pytest.raises(ValueError, match=r"dataset with configurations must not hold \*, \? or \["):
        read(tmp_path / "a*b", cache_dir, streaming, "dataset_name")
    (tmp_path / "nothing [1]").mkdir()
    with pytest.raises(ValueError, match=r"dataset_name .*nothing \[1\].* holds no data files"):
        read(tmp_path / "nothing [1]", cache_dir, streaming, "dataset_name")


def test_a_cache_with_an_odd_name(tmp_path):
    write_parquet(tmp_path / "data", 3)
    assert read(tmp_path / "data", tmp_path / "cache [1]")[0] == 3


def test_a_folder_called_like_a_format(cache_dir, tmp_path, monkeypatch):
    write_images(tmp_path / "parquet" / "train", 4)
    monkeypatch.chdir(tmp_path)
    assert read("parquet", cache_dir, option="dataset_name")[0] == 4


@pytest.mark.parametrize("name", ["a::b", "$HOME"])
def test_names_that_mean_something_to_the_library_are_refused(name, cache_dir, tmp_path):
    write_images(tmp_path / name, 2)
    with pytest.raises(ValueError, match="'::' and names of variables in paths have a meaning"):
        read(tmp_path / name, cache_dir)


def test_a_name_that_is_not_utf8(cache_dir, tmp_path):
    write_images(tmp_path, 2)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(png(1))
    with pytest.raises(ValueError, match=r"the name b'.*caf\\xe9\.png' is not in UTF-8"):
        read(tmp_path, cache_dir)


@pytest.mark.parametrize(("one", "other"), [("images", "parquet"), ("images", "tar"), ("parquet", "tar")])
def test_a_stray_file_of_another_kind_is_named(one, other, cache_dir, tmp_path):
    WRITERS[one](tmp_path, 6)
    WRITERS[other](tmp_path / "sub", 1)
    with pytest.raises(ValueError, match="train_data_dir must hold files of one kind, got") as error:
        read(tmp_path, cache_dir)
    for kind in (one, other):
        assert {"images": "im[0]?.png", "parquet": "train [0].Parquet", "tar": "part [0].TAR"}[kind] in str(
            error.value
        )


def test_what_lies_about_does_no_harm(cache_dir, tmp_path, caplog):
    """Texts, hidden files, and what systems leave; unusual files are told of."""
    write_images(tmp_path, 4)
    for name in ("README.md", "LICENSE", ".DS_Store", ".hidden.parquet", "Thumbs.db", "cat [1]/notes.txt"):
        (tmp_path / name).write_bytes(b"?")
    for folder in (".git", "__MACOSX"):
        write_parquet(tmp_path / folder, 1)
    assert read(tmp_path, cache_dir) == (4, [0, 1, 2, 3], ["cat [1]", "dog*"])
    assert not caplog.records
    (tmp_path / "scan.heic").write_bytes(b"?")
    list_data_folder(tmp_path)
    assert "Not read: 1 files in" in caplog.text and "such as scan.heic" in caplog.text


def test_metadata_belongs_to_images(cache_dir, tmp_path):
    write_images(tmp_path, 2)
    lines = "".join(f"{path.relative_to(tmp_path)},{i}\n" for i, path in enumerate(sorted(tmp_path.rglob("*.png"))))
    (tmp_path / "metadata.csv").write_text(f"file_name,label\n{lines}")
    assert read(tmp_path, cache_dir)[2] == ["0", "1"]


def test_links_are_followed_once(cache_dir, tmp_path):
    """A link to the folder, to a class and to a picture; one that leads back up ends there."""
    write_images(tmp_path / "data", 4)
    write_images(tmp_path / "elsewhere", 2)
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere" / "cat [1]")
    (tmp_path / "data" / "linked.png").symlink_to(tmp_path / "elsewhere" / "dog*" / "im[1]?.png")
    (tmp_path / "data" / "cat [1]" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert read(tmp_path / "link", cache_dir)[:2] == (6, [0, 0, 1, 1, 2, 3])
    (tmp_path / "data" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(FileNotFoundError, match=r"lost\.png is a link to a file that is not there"):
        read(tmp_path / "link", cache_dir)


def test_suffixes_in_capitals(cache_dir, tmp_path):
    for i, suffix in enumerate((".PNG", ".Png", ".png")):
        (tmp_path / f"{i}{suffix}").write_bytes(png(i))
    assert read(tmp_path, cache_dir)[:2] == (3, [0, 1, 2])


def test_folders_without_data(cache_dir, tmp_path):
    with pytest.raises(ValueError, match="got the empty folder"):
        read(tmp_path, cache_dir)
    (tmp_path / "a.txt").write_text("?")
    with pytest.raises(ValueError, match=r"got 1 other files such as a\.txt in"):
        read(tmp_path, cache_dir)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read(cache_dir, tmp_path):
    write_images(tmp_path, 4)
    (tmp_path / "cat [1]").chmod(0)
    try:
        with pytest.raises(PermissionError, match=r"cat \[1\]"):
            read(tmp_path, cache_dir)
    finally:
        (tmp_path / "cat [1]").chmod(0o755)


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_a_truncated_file_is_no_traceback(kind, cache_dir, tmp_path):
    WRITERS[kind](tmp_path, 4)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="train_data_dir '.*' cannot be read: ."):
        read(tmp_path, cache_dir)


def test_a_fingerprint_goes_by_names_and_sizes(tmp_path):
    for name in ("a", "b"):
        write_images(tmp_path / name, 3)
    first = list_data_folder(tmp_path / "a").fingerprint()
    assert first == list_data_folder(tmp_path / "b").fingerprint()
    (tmp_path / "b" / "dog*" / "im[1]?.png").rename(tmp_path / "b" / "dog*" / "im[9]?.png")
    assert first != list_data_folder(tmp_path / "b").fingerprint()
    with open(tmp_path / "a" / "dog*" / "im[1]?.png", "ab") as file:
        file.write(b"\0")
    assert first != list_data_folder(tmp_path / "a").fingerprint()


def test_names_are_those_of_the_library():
    assert set(ImageFolder.METADATA_FILENAMES) == set(METADATA_NAMES)
    no_pictures = {".bufr", ".emf", ".eps", ".fit", ".fits", ".grib", ".mpeg", ".mpg", ".ps", ".wmf", ".h5", ".hdf"}
    assert set(ImageFolder.EXTENSIONS) - no_pictures == IMAGE_SUFFIXES
