"""The journal keeps what it was given, and says so when somebody changed it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from robustbench_lite.errors import RecordError
from robustbench_lite.records.files import require_writable
from robustbench_lite.records.journal import Outcome, image_bytes, image_from_bytes, open_journal

BATCH = [
    Outcome(0, True, False, 0.1, 5, 4),
    Outcome(3, False, False, None, 41, 40),
    Outcome(7, True, False, 0.2, 2, 1, b"1234"),
]


def test_outcomes_survive_reopening(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with open_journal(path) as journal:
        journal.add("cell", BATCH[:2], 1.0)
        journal.add("cell", BATCH[2:], 0.5)
        journal.add("other", BATCH[:1], 1.0)
    with open_journal(path) as journal:
        assert journal.outcomes("cell") == BATCH
        assert journal.seconds("cell") == 1.5
        journal.forget("cell")
        assert journal.outcomes("cell") == []
        assert len(journal.outcomes("other")) == 1


@pytest.mark.parametrize("column", ["broken = 0", "distance = 0.05", "forward = 1", "x_adv = x'00'"])
def test_a_changed_row_is_refused(tmp_path: Path, column: str) -> None:
    path = tmp_path / "journal.sqlite"
    with open_journal(path) as journal:
        journal.add("cell", BATCH, 1.0)
    connection = sqlite3.connect(path)
    connection.execute(f"UPDATE outcomes SET {column} WHERE position = 7")
    connection.commit()
    connection.close()
    with open_journal(path) as journal, pytest.raises(RecordError, match="sample 7"):
        journal.outcomes("cell")


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(RecordError, match="damaged"), open_journal(path):
        pass


def test_images_survive_the_journal_bit_by_bit() -> None:
    x = np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 3, 4)
    np.testing.assert_array_equal(image_from_bytes(image_bytes(x), (1, 3, 4)), x)


def test_an_output_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(RecordError, match="--output"):
        require_writable(blocker / "below", 0)


def test_an_output_folder_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="free"):
        require_writable(tmp_path, 10**18)
