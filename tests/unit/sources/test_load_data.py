"""Data sets: what is read, from which layouts, and what each kind of bad input is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from robustbench_lite.errors import DataError, UnknownNameError, UsageError
from robustbench_lite.sources.load_data import load_dataset, load_named

PIXELS = np.arange(5 * 6 * 4, dtype=np.uint8).reshape(5, 6, 4)
LABELS = np.array([0, 1, 2, 1, 0])


@pytest.fixture(autouse=True)
def _no_data_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RBL_DATA_DIR", raising=False)


def _npz(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "data.npz", **arrays)
    return f"npz:{folder / 'data.npz'}"


def test_the_bundled_slice_is_a_thousand_labelled_images() -> None:
    data = load_dataset("fashion_mnist")
    assert data.x.shape == (1000, 1, 28, 28)
    assert (data.name, data.split, data.partial, data.classes) == (
        "fashion_mnist",
        "test[:1000]",
        False,
        10,
    )
    assert data.y[:5].tolist() == [9, 2, 1, 1, 6]
    assert data.ids.tolist() == list(range(1000))
    assert data.x.max() == 1


def test_the_bundled_training_images_are_others() -> None:
    data = load_dataset("fashion_mnist", split="train")
    assert (data.x.shape, data.split, data.partial, data.classes) == (
        (1000, 1, 28, 28),
        "train[:1000]",
        False,
        10,
    )
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
    spec = _npz(
        tmp_path, x_train=PIXELS[:3], y_train=LABELS[:3], x_test=PIXELS[3:], y_test=LABELS[3:]
    )
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
def test_an_unusable_npz_says_what_is_wrong(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
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
        Image.fromarray(np.full((4, 5), 100 * label, dtype=np.uint8)).save(
            tmp_path / name / "0.png"
        )
    data = load_dataset(f"folder:{tmp_path}")
    assert data.x.shape == (2, 1, 4, 5)
    assert data.y.tolist() == [0, 1]
    assert data.x[1].unique().tolist() == pytest.approx([100 / 255])  # type: ignore[no-untyped-call]


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
        Image.fromarray(np.zeros((size, size, 3), dtype=np.uint8)).save(
            tmp_path / "ant" / f"{size}.png"
        )
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


def test_the_environment_variable_names_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBL_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match="FashionMNIST/raw"):
        load_dataset("fashion_mnist")


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'fashion_mnist'"):
        load_dataset("fashion-mnist")


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.full(5, 10**9), "at most 100,000 classes"),
        (np.full(5, 2**63, np.uint64), "count from 0"),
        (np.array(3), "one label an image"),
        (LABELS[:, None], "one label an image"),
        (LABELS.astype("m8[s]"), "no plain numbers"),
        (LABELS > 1, "whole numbers"),
        (np.zeros(5, [("a", "i4")]), "whole numbers"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, y: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(_npz(tmp_path, x=PIXELS, y=y))


@pytest.mark.parametrize("kind", [">f4", ">f8", "<f2", "longdouble"])
def test_images_and_labels_in_any_byte_order_are_the_same_data_set(
    tmp_path: Path, kind: str
) -> None:
    plain = load_dataset(_npz(tmp_path, x=(PIXELS > 99).astype(np.float32), y=LABELS))
    other = load_dataset(_npz(tmp_path, x=(PIXELS > 99).astype(kind), y=LABELS.astype(">i4")))
    assert plain.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    "name", ["npz:/etc/x.npz", "npz:../x.npz", "folder:..", "npz:out/x.npz", "npz:"]
)
def test_a_path_that_a_file_names_lies_below_what_the_user_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "out").symlink_to(tmp_path)
    _npz(tmp_path, x=PIXELS, y=LABELS)
    with pytest.raises(UsageError, match=r"--dataset (npz|folder):PATH"):
        load_named(name, tmp_path / "in")
    assert load_named("npz:data.npz", tmp_path).name == "npz:data.npz"
    with pytest.raises(DataError, match="not opened because a file names it"):
        load_named("npz:data.npz", None)
