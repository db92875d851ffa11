"""Data sets: what is read, from which layouts, and what each kind of bad input is told."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from robustbench_lite.errors import DataError, MissingDependency, UnknownNameError
from robustbench_lite.sources.datasets import check_data, load_dataset

PIXELS = np.arange(5 * 6 * 4, dtype=np.uint8).reshape(5, 6, 4)
LABELS = np.array([0, 1, 2, 1, 0])


@pytest.fixture(autouse=True)
def _no_data_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RBL_DATA_DIR", raising=False)


def _npz(folder: Path, **arrays: np.ndarray) -> str:
    np.savez(folder / "data.npz", **arrays)
    return f"npz:{folder / 'data.npz'}"


def test_the_bundled_slice_is_a_thousand_labelled_images() -> None:
    data = load_dataset("fashion_mnist")
    assert data.x.shape == (1000, 1, 28, 28)
    assert (data.name, data.split, data.partial, data.classes) == ("fashion_mnist", "test[:1000]", False, 10)
    assert data.y[:5].tolist() == [9, 2, 1, 1, 6]
    assert data.ids.tolist() == list(range(1000))
    assert data.x.max() == 1


def test_the_bundled_training_images_are_others() -> None:
    data = load_dataset("fashion_mnist", split="train")
    assert (data.x.shape, data.split, data.partial, data.classes) == ((1000, 1, 28, 28), "train[:1000]", False, 10)
    assert data.y[:5].tolist() == [9, 0, 0, 3, 0]
    assert data.fingerprint == "f4cfee99b67a56edd52bcb2d8b64c3a9749834276274fb80568a03f7ad09bd93"


def test_a_limit_keeps_the_first_samples_and_marks_the_set_partial() -> None:
    whole, part = load_dataset("fashion_mnist"), load_dataset("fashion_mnist", limit=7)
    assert part.partial
    assert part.full_size == 1000
    assert torch.equal(part.x, whole.x[:7])
    assert part.fingerprint != whole.fingerprint


def test_a_limit_beyond_the_bundled_slice_says_how_to_get_the_rest() -> None:
    with pytest.raises(DataError, match="--download, or --data-dir"):
        load_dataset("fashion_mnist", limit=1001)


@pytest.mark.parametrize("limit", [0, -3, 6])
def test_a_limit_outside_the_set_is_refused(tmp_path: Path, limit: int) -> None:
    with pytest.raises(DataError, match="5 images"):
        load_dataset(_npz(tmp_path, x=PIXELS, y=LABELS), limit=limit)


@pytest.mark.parametrize(
    "x",
    [PIXELS, PIXELS[:, None], PIXELS[..., None], PIXELS.astype(np.float32) / 255, (PIXELS / 255.0)],
    ids=["NHW", "NCHW", "NHWC", "float32", "float64"],
)
def test_every_layout_of_an_npz_gives_the_same_data_set(tmp_path: Path, x: np.ndarray) -> None:
    data = load_dataset(_npz(tmp_path, x=x, y=LABELS))
    assert data.x.shape == (5, 1, 6, 4)
    assert torch.equal(data.x, torch.from_numpy(PIXELS[:, None].astype(np.float32) / 255))
    assert data.classes is None
    reference = load_dataset(_npz(tmp_path, x=PIXELS, y=LABELS))
    assert data.fingerprint == reference.fingerprint


def test_an_npz_with_two_splits_gives_the_one_that_is_asked_for(tmp_path: Path) -> None:
    spec = _npz(tmp_path, x_train=PIXELS[:3], y_train=LABELS[:3], x_test=PIXELS[3:], y_test=LABELS[3:])
    assert len(load_dataset(spec, split="train")) == 3
    assert load_dataset(spec, split="test").y.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": PIXELS}, "lacks the array"),
        ({"x": PIXELS.astype(np.float32), "y": LABELS}, "divide by 255"),
        ({"x": PIXELS.astype(np.int64), "y": LABELS}, "int64"),
        ({"x": PIXELS, "y": LABELS.astype(np.float32)}, "whole numbers"),
        ({"x": PIXELS[:4], "y": LABELS}, "4 images and 5 labels"),
        ({"x": PIXELS[:0], "y": LABELS[:0]}, "no samples"),
    ],
)
def test_an_unusable_npz_says_what_is_wrong(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(_npz(tmp_path, **arrays))


def test_a_truncated_npz_and_a_missing_one_are_data_errors(tmp_path: Path) -> None:
    spec = _npz(tmp_path, x=PIXELS, y=LABELS)
    path = tmp_path / "data.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="no readable npz"):
        load_dataset(spec)
    with pytest.raises(DataError, match="No file is at"):
        load_dataset("npz:nowhere.npz")


def test_pickled_arrays_are_never_unpickled(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="plain arrays"):
        load_dataset(_npz(tmp_path, x=np.array([{}, {}], dtype=object), y=LABELS[:2]))


def test_a_folder_is_a_class_a_sub_folder(tmp_path: Path) -> None:
    for label, name in enumerate(["ant", "bee"]):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 5), 100 * label, dtype=np.uint8)).save(tmp_path / name / "0.png")
    data = load_dataset(f"folder:{tmp_path}")
    assert data.x.shape == (2, 1, 4, 5)
    assert data.y.tolist() == [0, 1]
    assert data.x[1].unique().tolist() == pytest.approx([100 / 255])


def test_classes_are_called_by_their_names_where_there_are_any(tmp_path: Path) -> None:
    for name in ("cat", "ant"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "images" / name / "0.png")
    spec = _npz(tmp_path, x=np.zeros((2, 1, 4, 4), np.float32), y=np.arange(2))
    assert load_dataset("fashion_mnist").class_name(9) == "Ankle boot"
    assert load_dataset(f"folder:{tmp_path / 'images'}").class_name(0) == "ant"
    assert load_dataset(spec).class_name(1) == "1"


def test_images_of_different_sizes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    for size in (4, 5):
        Image.fromarray(np.zeros((size, size, 3), dtype=np.uint8)).save(tmp_path / "ant" / f"{size}.png")
    with pytest.raises(DataError, match="differ in size"):
        load_dataset(f"folder:{tmp_path}")


def test_jpeg_copies_of_cifar_keep_their_own_name(tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(np.full((32, 32, 3), 51, dtype=np.uint8)).save(image)
    (tmp_path / "cifar10-jpeg").mkdir()
    table = pyarrow.table({"img": [{"bytes": image.read_bytes(), "path": ""}], "label": [3]})
    parquet.write_table(table, tmp_path / "cifar10-jpeg" / "test.parquet")
    data = load_dataset("cifar10-jpeg", data_dir=tmp_path)
    assert data.name == "cifar10-jpeg"
    assert data.x.shape == (1, 3, 32, 32)
    assert float(data.x.max()) == pytest.approx(0.2)
    with pytest.raises(DataError, match="cifar-10-batches-py"):
        load_dataset("cifar10", data_dir=tmp_path)


def test_missing_files_are_named_with_their_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="MNIST/raw") as caught:
        load_dataset("mnist", data_dir=tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_the_environment_variable_names_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RBL_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match="FashionMNIST/raw"):
        load_dataset("fashion_mnist")


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'fashion_mnist'"):
        load_dataset("fashion-mnist")


GOOD_X, GOOD_Y = torch.full((2, 1, 3, 3), 0.5), torch.tensor([0, 1])


def _with(value: float) -> torch.Tensor:
    x = GOOD_X.clone()
    x[1, 0, 2, 2] = value
    return x


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (GOOD_X[0], GOOD_Y, "N, C, H, W"),
        (GOOD_X.double(), GOOD_Y, "x.float"),
        ((GOOD_X * 255).to(torch.uint8), GOOD_Y, "divide by 255"),
        (_with(float("nan")), GOOD_Y, "first in image 1"),
        (_with(float("inf")), GOOD_Y, "first in image 1"),
        (_with(1.5), GOOD_Y, "divide by 255"),
        (_with(-0.5), GOOD_Y, "normalisation"),
        (GOOD_X[:0], GOOD_Y[:0], "no samples"),
        (GOOD_X, GOOD_Y[:1], "2 images and 1 labels"),
        (GOOD_X, GOOD_Y.int(), "y.long"),
        (GOOD_X, GOOD_Y - 1, "0 to 1 is allowed"),
        (GOOD_X, GOOD_Y + 1, "0 to 1 is allowed"),
    ],
)
def test_each_kind_of_bad_data_is_told_the_likely_fix(x: torch.Tensor, y: torch.Tensor, message: str) -> None:
    check_data(GOOD_X, GOOD_Y, 2)
    with pytest.raises(DataError, match=message):
        check_data(x, y, 2)


def test_images_that_are_not_there_are_missed_before_the_library_that_reads_them(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"No file is at .*--data-dir"):
        load_dataset("cifar10-jpeg", data_dir=tmp_path)
    (tmp_path / "cifar10-jpeg").mkdir()
    (tmp_path / "cifar10-jpeg" / "test.parquet").write_bytes(b"")
    with pytest.raises(MissingDependency, match="parquet"):
        load_dataset("cifar10-jpeg", data_dir=tmp_path)
