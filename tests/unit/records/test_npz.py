"""Arrays on disk come back as they were, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robustbench_lite.errors import RecordError
from robustbench_lite.records.npz import read_images, read_npz, write_images, write_npz


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    x = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 1, 2, 2)
    write_npz(tmp_path / "a.npz", x=x, text="words")
    found = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(found["x"], x)
    assert (found["x"].dtype, str(found["text"])) == (np.dtype(np.float32), "words")


def test_a_file_cut_at_any_place_is_a_record_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, x=np.arange(300), y=np.zeros(3))
    whole = path.read_bytes()
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises(RecordError, match=r"a\.npz"):
            read_npz(path)


def test_a_changed_byte_is_a_record_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, x=np.random.default_rng(0).random(500))
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(RecordError, match="changed"):
        read_npz(path)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    np.save(tmp_path / "b.npy", np.zeros(3))
    (tmp_path / "c.npz").write_text("no archive")
    for name in ("a.npz", "b.npy", "c.npz"):
        with pytest.raises(RecordError, match="npz file of plain arrays"):
            read_npz(tmp_path / name)


def test_images_must_be_those_of_the_broken_samples(tmp_path: Path) -> None:
    path, broken = tmp_path / "a.npz", np.array([False, True, True, False])
    x_adv = np.arange(16, dtype=np.float32).reshape(4, 1, 2, 2)
    write_images(path, broken, x_adv)
    np.testing.assert_array_equal(read_images(path, broken), x_adv[1:3])
    for other in (~broken, np.array([False, True, False, False])):
        with pytest.raises(RecordError, match="--keep-adversarials"):
            read_images(path, other)
