"""The journal: per-sample outcomes in SQLite, one transaction a batch, so that a killed run
continues where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from robustbench_lite.errors import RecordError
from robustbench_lite.files.reading import MAX_SAMPLES, explained, require_file
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.records.samples import JOURNAL, Outcome, Proof

_ROW_BYTES = 2**29
"""Of one row: an image of 2**25 pixels in three channels of float32, the largest that is read, has
0.4 GB.
"""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS cells (key TEXT PRIMARY KEY, seconds REAL NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS outcomes (
    key TEXT NOT NULL, position INTEGER NOT NULL,
    broken INTEGER NOT NULL, unconfirmed INTEGER NOT NULL, distance REAL,
    forward INTEGER NOT NULL, backward INTEGER NOT NULL, x_adv BLOB, seal TEXT NOT NULL,
    PRIMARY KEY (key, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS proofs (
    key TEXT NOT NULL, position INTEGER NOT NULL,
    margin REAL NOT NULL, stage TEXT NOT NULL, seal TEXT NOT NULL,
    PRIMARY KEY (key, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS margins (
    key TEXT PRIMARY KEY, nearest REAL NOT NULL, seal TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS behaviours (
    key TEXT PRIMARY KEY, answers TEXT NOT NULL, seal TEXT NOT NULL
);
"""
_TABLES = ("outcomes", "proofs", "cells", "behaviours", "margins")


_OUTCOME = TypeAdapter(Outcome)
_PROOF = TypeAdapter(Proof)
"""SQLite keeps whatever a row was given: text where numbers should be, say."""


class Journal:
    """Open with :func:`open_journal`. Safe to kill at any moment: a batch is in it whole or not at
    all.
    """

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self.path = path

    def begin(self, key: str, behaviour: Behaviour) -> bool:
        """Start or continue a cell or a certificate of the network that answers so.

        True where earlier rows are of a network that answers otherwise, or that nobody asked: they
        are forgotten.
        """
        stale = self.is_of_another(key, behaviour)
        if stale or not self._begun(key):
            self.forget(key)
        text = behaviour.model_dump_json()
        with self._guard(), self._connection:
            self._connection.execute(
                "INSERT OR IGNORE INTO behaviours VALUES (?, ?, ?)", (key, text, _seal(key, text))
            )
        return stale

    def is_of_another(self, key: str, behaviour: Behaviour) -> bool:
        """Rows are there, and not of the network that answers so."""
        with self._guard():
            row = self._connection.execute(
                "SELECT answers, seal FROM behaviours WHERE key = ?", (key,)
            ).fetchone()
        if row is None or not self._begun(key):
            return self._begun(key)
        try:
            if isinstance(row[0], str) and _seal(key, row[0]) == row[1]:
                return not Behaviour.model_validate_json(row[0]).agrees(behaviour)
        except ValidationError:
            pass
        raise RecordError(
            f"The journal {self.path} was changed: what the network of {key} answered does not "
            "agree with its seal. "
            "Run with --fresh to measure again."
        )

    def _begun(self, key: str) -> bool:
        with self._guard():
            found = (
                self._connection.execute(f"SELECT 1 FROM {name} WHERE key = ? LIMIT 1", (key,))
                for name in _TABLES[:3]
            )
            return any(rows.fetchone() for rows in found)

    def outcomes(self, key: str, n: int = MAX_SAMPLES) -> list[Outcome]:
        """What earlier runs of the cell, which has ``n`` samples, left, in order of position."""
        query = (
            "SELECT position, broken, unconfirmed, distance, forward, backward, x_adv, seal FROM "
            "outcomes WHERE key = ?"
        )
        outcomes = []
        for row in self._rows(query, key, n):
            with explained(self.path, JOURNAL):
                outcome = _OUTCOME.validate_python(row[:7])
            if outcome.seal(key) != row[7]:
                raise RecordError(
                    f"The journal {self.path} was changed: sample {row[0]} of cell {key} does not "
                    "agree with its seal. "
                    "Run with --fresh to measure the cell again."
                )
            outcomes.append(outcome)
        return outcomes

    def nearest(self, key: str) -> float | None:
        """What the last ``add`` of the cell said of all its rows; None where that run did not
        know.
        """
        with self._guard():
            row = self._connection.execute(
                "SELECT nearest, seal FROM margins WHERE key = ?", (key,)
            ).fetchone()
        return float(row[0]) if row is not None and _seal(key, repr(row[0])) == row[1] else None

    def add(
        self, key: str, batch: list[Outcome], seconds: float, nearest: float | None = None
    ) -> None:
        """Add one batch and the time it took, in one transaction.

        ``nearest`` is how near to a tie the nearest claim of the cell so far came; inf where there
        was none.
        """
        rows = [(key, *outcome, outcome.seal(key)) for outcome in batch]
        with self._guard(), self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
            )
            if batch:
                self._connection.execute("DELETE FROM margins WHERE key = ?", (key,))
            if nearest is not None:
                self._connection.execute(
                    "INSERT INTO margins VALUES (?, ?, ?)",
                    (key, nearest, _seal(key, repr(nearest))),
                )
            self._spend(key, seconds)

    def proofs(self, key: str, n: int = MAX_SAMPLES) -> list[Proof]:
        """What earlier runs of a certificate, which has ``n`` samples, left, in order of
        position.
        """
        rows = self._rows("SELECT position, margin, stage, seal FROM proofs WHERE key = ?", key, n)
        with explained(self.path, JOURNAL):
            found = [_PROOF.validate_python(row[:3]) for row in rows]
        for proof, row in zip(found, rows, strict=True):
            if proof.seal(key) != row[3]:
                raise RecordError(
                    f"The journal {self.path} was changed: sample {row[0]} of certificate {key} "
                    "does not agree with its seal. "
                    "Run with --fresh to certify again."
                )
        return found

    def add_proofs(self, key: str, batch: list[Proof], seconds: float) -> None:
        """Add one batch of a certificate and the time it took, in one transaction."""
        with self._guard(), self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO proofs VALUES (?, ?, ?, ?, ?)",
                [(key, *proof, proof.seal(key)) for proof in batch],
            )
            self._spend(key, seconds)

    def seconds(self, key: str) -> float:
        """Time spent on the cell so far, over all runs."""
        with self._guard(), explained(self.path, JOURNAL):
            row = self._connection.execute(
                "SELECT seconds FROM cells WHERE key = ?", (key,)
            ).fetchone()
            return float(row[0]) if row else 0.0

    def _rows(self, query: str, key: str, n: int) -> list[tuple[Any, ...]]:
        """What ``query`` finds of ``key``, at positions below ``n``."""
        with self._guard():
            rows = self._connection.execute(
                f"{query} ORDER BY position LIMIT {n + 1}", (key,)
            ).fetchall()
        if rows and not (
            isinstance(rows[-1][0], int) and rows[-1][0] < n
        ):  # numbers come first, whatever else there is
            raise RecordError(
                f"The journal {self.path} has a row for sample {rows[-1][0]!r} of {n} of {key}. "
                f"{JOURNAL.fix}"
            )
        return rows

    def forget(self, key: str) -> None:
        """Drop a cell or a certificate: its record is written, or it is to be measured afresh."""
        with self._guard(), self._connection:
            for table in _TABLES:
                self._connection.execute(f"DELETE FROM {table} WHERE key = ?", (key,))

    def _spend(self, key: str, seconds: float) -> None:
        self._connection.execute(
            "INSERT INTO cells VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET seconds = seconds + "
            "excluded.seconds",
            (key, seconds),
        )

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise RecordError(
                f"The journal {self.path} cannot be used: {error}. What it holds is kept; mend the "
                "cause (a full disk, another "
                "run that holds it) and run the same command again."
            ) from error
        except sqlite3.DatabaseError as error:
            advice = "Delete it and run the same command again."
            raise RecordError(f"The journal {self.path} is damaged: {error}. {advice}") from error


@contextlib.contextmanager
def open_journal(path: Path | None) -> Iterator[Journal]:
    """The journal at ``path``, created if need be; in memory when ``path`` is None."""
    name = ":memory:" if path is None else str(path)
    for suffix in ("", "-wal", "-shm", "-journal"):  # SQLite opens what lies beside the journal too
        if path is not None and os.path.lexists(f"{path}{suffix}"):
            require_file(Path(f"{path}{suffix}"), JOURNAL)
    try:
        connection = sqlite3.connect(name, timeout=30)
    except sqlite3.Error as error:
        raise RecordError(f"The journal {name} cannot be opened: {error}.") from error
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _ROW_BYTES)
    with contextlib.closing(connection):
        journal = Journal(connection, name)
        with journal._guard():
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)
        yield journal


def _seal(key: str, text: str) -> str:
    return hashlib.sha256(f"{key}/{text}".encode()).hexdigest()[:16]
