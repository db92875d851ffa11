"""Arrays are bounded by what their headers say, before anything is unpacked."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy

from robustbench_lite.errors import DataError
from robustbench_lite.files.npz import MAX_MEMBERS, read_arrays
from robustbench_lite.files.reading import Form

FORM = Form(noun="file", what="no npz file", fix="Write one.", most=2**30, error=DataError)


def _npy(shape: Any, dtype: str = "<f4", content: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    npy.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + content


def _zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6),
        np.arange(6, dtype=">i4"),
        np.arange(12.0).reshape(3, 4)[:, ::-1],
        np.asfortranarray(np.ones((2, 3))),
        np.zeros(()),
        np.zeros((0, 4)),
        np.array("text"),
        np.array([True, False]),
        np.zeros(3, [("a", "i4")]),
    ],
)
def test_plain_arrays_come_back_as_numpy_has_them(tmp_path: Path, array: np.ndarray) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=array)
    found = read_arrays(tmp_path / "a.npz", FORM)["x"]
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype


def test_only_what_is_asked_for_is_unpacked(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.npz", x=_npy((1,), content=b"\0\0\0\0"), damaged=b"nothing")
    assert read_arrays(path, FORM, ["x"]).keys() == {"x"}
    with pytest.raises(DataError, match="no npz file"):
        read_arrays(path, FORM)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_npy((10**9, 10**9)), "has 128 bytes"),
        (_npy((2**62, 4)), "has 128 bytes"),
        (_npy((-1, 4)), "shape"),
        (_npy((2,), "|O"), "no plain numbers"),
        (_npy((2,), "<f4", b"\0" * 9), "says that it is float32 of shape"),
        (_npy((2,))[:40], "no npz file"),
        (b"\x93NUMPY\x03\x00" + _npy((2,))[8:], "format"),
        (b"", "no npz file"),
    ],
    ids=str,
)
def test_a_header_that_does_not_agree_with_the_directory_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_arrays(_zip(tmp_path / "a.npz", x=content), FORM)


def test_a_bomb_is_refused_by_what_it_says_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustbench_lite.files.reading.ARRAYS_BYTES", 10**6)
    path = _zip(tmp_path / "a.npz", x=_npy((10**7,), "|u1", bytes(10**7)))
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(npy, "read_array", lambda *rest, **more: pytest.fail("it was unpacked"))
    with pytest.raises(DataError, match="unpacks to 10,000,128 bytes"):
        read_arrays(path, FORM)


def test_an_archive_of_very_many_members_is_refused(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.npz", **{f"x{number}": b"" for number in range(MAX_MEMBERS + 1)})
    with pytest.raises(DataError, match="1,001 members"):
        read_arrays(path, FORM)
