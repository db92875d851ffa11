"""Files of images: which layouts are read, and what is refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from robustbench_lite.errors import DataError, MissingDependency
from robustbench_lite.sources.data_files import image_files
from robustbench_lite.sources.load_data import load_dataset


def test_images_that_are_not_there_are_missed_before_the_library_that_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"No file is at .*--data-dir"):
        load_dataset("cifar10-jpeg", data_dir=tmp_path)
    (tmp_path / "cifar10-jpeg").mkdir()
    (tmp_path / "cifar10-jpeg" / "test.parquet").write_bytes(b"")
    with pytest.raises(MissingDependency, match="parquet"):
        load_dataset("cifar10-jpeg", data_dir=tmp_path)


def _picture(path: Path, size: tuple[int, int] = (4, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size).save(path)
    return path


def test_a_picture_is_bounded_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _picture(tmp_path / "ant" / "0.png", (60, 50))
    monkeypatch.setattr("robustbench_lite.sources.data_files.MAX_PIXELS", 2999)
    monkeypatch.setattr(Image.Image, "convert", lambda *rest: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="60 x 50 pixels; at most 2,999"):
        load_dataset(f"folder:{tmp_path}")


def test_pictures_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _picture(tmp_path / "ant" / "0.png", (60, 50))
    monkeypatch.setattr("robustbench_lite.files.reading.ARRAYS_BYTES", 4 * 2999)
    with pytest.raises(DataError, match="unpacks to 12,000 bytes"):
        load_dataset(f"folder:{tmp_path}")


def test_a_picture_is_decoded_by_what_is_inside_and_never_by_another_program(
    tmp_path: Path,
) -> None:
    path = _picture(tmp_path / "ant" / "0.png")
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n")
    with pytest.raises(DataError, match=r"0\.png is no readable image"):
        load_dataset(f"folder:{tmp_path}")


def test_a_folder_that_lies_in_itself_is_refused(tmp_path: Path) -> None:
    _picture(tmp_path / "ant" / "0.png")
    (tmp_path / "ant" / "again").symlink_to(tmp_path / "ant")
    with pytest.raises(DataError, match="link to a folder that it lies in"):
        load_dataset(f"folder:{tmp_path}")


def test_folders_are_read_as_torchvision_reads_them(tmp_path: Path) -> None:
    for name in (
        "bee/9.png",
        "ant/b/1.PNG",
        "ant/b.c/0.png",
        "ant/a.png",
        "ant/b/c/7.png",
        "ant/notes.txt",
        "bee/2.jpeg",
    ):
        if name.endswith("txt"):
            (tmp_path / name).write_text("nothing")
        else:
            _picture(tmp_path / name)
    (tmp_path / "bee" / "more").symlink_to(tmp_path / "ant" / "b")
    (tmp_path / "read.me").write_text("nothing")
    theirs = ImageFolder(str(tmp_path))
    ours = [
        (str(path), label)
        for label, name in enumerate(theirs.classes)
        for path in image_files(tmp_path / name)
    ]
    assert ours == theirs.samples
    assert load_dataset(f"folder:{tmp_path}").y.tolist() == theirs.targets


@pytest.mark.parametrize("odd", ["x.npz", "ant/1.png", "cifar10-jpeg/test.parquet"])
def test_a_pipe_is_refused_and_never_waited_for(tmp_path: Path, odd: str) -> None:
    _picture(tmp_path / "ant" / "0.png")
    (tmp_path / "cifar10-jpeg").mkdir()
    os.mkfifo(tmp_path / odd)
    spec = {"x.npz": f"npz:{tmp_path / odd}", "ant/1.png": f"folder:{tmp_path}"}.get(
        odd, "cifar10-jpeg"
    )
    with pytest.raises(DataError, match="named pipe"):
        load_dataset(spec, data_dir=tmp_path)
