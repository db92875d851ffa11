"""Pictures are what was found, and their bytes are PNG without a compressor."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustbench_lite.errors import RecordError
from robustbench_lite.leaderboard.examples import (
    Example,
    Images,
    migrate_examples,
    read_examples,
    write_examples,
)
from robustbench_lite.leaderboard.render.gallery import pictures, png
from tests.unit.leaderboard.conftest import cell

FOUND = cell("d", "pgd", "1111", "1010")


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 5), (1, 300, 300)])
def test_a_png_reads_back_as_the_image(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32) / np.float32(255)
    read = np.asarray(Image.open(io.BytesIO(png(image))), dtype=np.float32) / 255
    np.testing.assert_array_equal(
        read if shape[0] == 3 else read[:, :, None], image.transpose(1, 2, 0)
    )


def test_an_example_keeps_image_and_perturbation(tmp_path: Path) -> None:
    x = np.random.default_rng(1).integers(0, 256, (1, 4, 4)).astype(np.float32) / np.float32(255)
    x_adv = (x + 0.03).clip(0, 1).astype(np.float32)
    write_examples(tmp_path / "a.json", FOUND, [Example.of(1, "Coat", "Bag", Images(x, x_adv))])
    (picture,) = pictures("pgd", read_examples(tmp_path / "a.json", FOUND))
    assert (picture.sample, picture.before, picture.after) == (1, "Coat", "Bag")
    assert [kind for kind, _ in picture.images][:2] == ["clean image", "adversarial"]
    assert all(source.startswith("data:image/png;base64,") for _, source in picture.images)


def test_an_example_of_a_sample_that_held_is_refused(tmp_path: Path) -> None:
    x = np.zeros((1, 4, 4), dtype=np.float32)
    write_examples(tmp_path / "a.json", FOUND, [Example.of(2, "Coat", "Bag", Images(x, x))])
    with pytest.raises(RecordError, match="sample 2"):
        read_examples(tmp_path / "a.json", FOUND)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"Bag"', '"Cat"'), ('"format_version": 2', '"format_version": 3'), ('"id": 1', '"id": 3')],
)
def test_examples_that_were_changed_are_refused(tmp_path: Path, old: str, new: str) -> None:
    x, path = np.zeros((1, 4, 4), dtype=np.float32), tmp_path / "a.json"
    write_examples(path, FOUND, [Example.of(1, "Coat", "Bag", Images(x, x))])
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(RecordError, match=r"seal|format version"):
        read_examples(path, FOUND)


def test_examples_of_version_1_are_refused_until_they_are_migrated(tmp_path: Path) -> None:
    x, path = np.zeros((1, 4, 4), dtype=np.float32), tmp_path / "a.json"
    write_examples(path, FOUND, [Example.of(1, "Coat", "Bag", Images(x, x))])
    whole, content = path.read_bytes(), json.loads(path.read_text())
    del content["seal"]
    path.write_text(json.dumps(content | {"format_version": 1}))
    with pytest.raises(RecordError, match="rbl leaderboard migrate"):
        read_examples(path, FOUND)
    assert migrate_examples(path, FOUND)
    assert path.read_bytes() == whole
    assert not migrate_examples(path, FOUND)


def test_examples_of_another_record_are_refused(tmp_path: Path) -> None:
    x = np.zeros((1, 4, 4), dtype=np.float32)
    write_examples(tmp_path / "a.json", FOUND, [Example.of(1, "Coat", "Bag", Images(x, x))])
    with pytest.raises(RecordError, match="digest"):
        read_examples(tmp_path / "a.json", cell("d", "pgd", "1111", "1000"))
