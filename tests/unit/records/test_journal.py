"""The journal keeps what it was given, and says so when somebody changed it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from robustbench_lite.errors import RecordError
from robustbench_lite.records.files import require_writable
from robustbench_lite.records.journal import open_journal
from robustbench_lite.records.samples import Outcome, Proof

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


@pytest.mark.parametrize(
    "column", ["broken = 0", "distance = 0.05", "forward = 1", "x_adv = x'00'"]
)
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


@pytest.mark.parametrize("change", ["margin = 0.5", "stage = 'crown'", "key = 'other'"])
def test_a_changed_proof_and_one_of_another_certificate_are_refused(
    tmp_path: Path, change: str
) -> None:
    path = tmp_path / "journal.sqlite"
    with open_journal(path) as journal:
        journal.add_proofs("certificate", [Proof(2, 0.25, "ibp"), Proof(4, -0.25, "dual")], 1.0)
        assert journal.proofs("certificate") == [Proof(2, 0.25, "ibp"), Proof(4, -0.25, "dual")]
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE proofs SET {change} WHERE position = 4")
    with open_journal(path) as journal, pytest.raises(RecordError, match="sample 4"):
        journal.proofs("other" if "key" in change else "certificate")


def test_a_row_of_another_cell_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with open_journal(path) as journal:
        journal.add("cell", BATCH, 1.0)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE outcomes SET key = 'other' WHERE position = 7")
    with open_journal(path) as journal, pytest.raises(RecordError, match="sample 7 of cell other"):
        journal.outcomes("other")


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(RecordError, match="damaged"), open_journal(path):
        pass


def test_an_output_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(RecordError, match="--output"):
        require_writable(blocker / "below", 0)


def test_an_output_folder_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="free"):
        require_writable(tmp_path, 10**18)


def _write_row(path: Path, *row: object) -> None:
    with open_journal(path):
        pass
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("INSERT INTO outcomes VALUES ('cell', ?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.close()


@pytest.mark.parametrize(
    "row",
    [
        ("one", 0, 0, None, 1, 1, None, ""),
        (-1, 0, 0, None, 1, 1, None, ""),
        (9, 0, 0, None, 1, 1, None, Outcome(9, False, False, None, 1, 1).seal("cell")),
        (0, 2, 0, None, 1, 1, None, ""),
        (0, 0, 0, "far", 1, 1, None, ""),
        (0, 0, 0, None, 2**40, 1, None, Outcome(0, False, False, None, 2**40, 1).seal("cell")),
    ],
)
def test_a_row_of_other_values_is_refused(tmp_path: Path, row: tuple[object, ...]) -> None:
    _write_row(tmp_path / "journal.sqlite", *row)
    with (
        open_journal(tmp_path / "journal.sqlite") as journal,
        pytest.raises(RecordError, match=r"journal\.sqlite"),
    ):
        journal.outcomes("cell", 9)


def test_a_row_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_row(tmp_path / "journal.sqlite", 0, 1, 0, 0.5, 1, 1, bytes(10_000), "")
    monkeypatch.setattr("robustbench_lite.records.journal._ROW_BYTES", 5_000)
    with (
        open_journal(tmp_path / "journal.sqlite") as journal,
        pytest.raises(RecordError, match="too big"),
    ):
        journal.outcomes("cell", 9)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_a_pipe_is_no_journal(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"journal.sqlite{suffix}")
    with pytest.raises(RecordError, match="named pipe"), open_journal(tmp_path / "journal.sqlite"):
        pass


def test_the_nearest_claim_of_a_cell_is_known_as_long_as_every_run_has_said_it(
    tmp_path: Path,
) -> None:
    with open_journal(tmp_path / "journal.sqlite") as journal:
        assert journal.nearest("cell") is None
        journal.add("cell", BATCH[:2], 1.0, 0.25)
        journal.add("cell", [], 1.0)  # the time of a fit says nothing of the rows
        assert journal.nearest("cell") == 0.25
        journal.add("cell", BATCH[2:], 1.0)
        assert journal.nearest("cell") is None
        journal.add("cell", BATCH[2:], 1.0, float("inf"))
        assert journal.nearest("cell") == float("inf")
        journal.forget("cell")
        assert journal.nearest("cell") is None


def test_a_nearest_claim_that_was_changed_is_not_known(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal.sqlite") as journal:
        journal.add("cell", BATCH, 1.0, 1e-7)
    with sqlite3.connect(tmp_path / "journal.sqlite") as connection:
        connection.execute("UPDATE margins SET nearest = 0.5")
    with open_journal(tmp_path / "journal.sqlite") as journal:
        assert journal.nearest("cell") is None
