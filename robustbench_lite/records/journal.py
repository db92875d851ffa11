"""The journal: outcomes a sample, in SQLite, so that a killed run continues where it stopped.

A batch is one transaction.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from robustbench_lite.errors import RecordError
from robustbench_lite.files.reading import MAX_SAMPLES, explain, require_file
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.records.samples import JOURNAL, NearMiss, Outcome, Proof
from robustbench_lite.records.statements import MISSES, OF, OUTCOMES, PROOFS, SCHEMA, SPEND, TABLES

_ROW_BYTES = 2**29
"""Of one row: the largest image that is read, 2**25 pixels in three channels, has 0.4 GB."""
_OUTCOME = TypeAdapter(Outcome)
_PROOF = TypeAdapter(Proof)
_MISS = TypeAdapter(NearMiss)
"""SQLite keeps whatever a row was given: text where numbers should be, say."""


class Journal:
    """What every sample of every cell has come to so far; :func:`open_journal` opens one.

    A run may be killed at any moment: a batch is in it whole or not at all.
    """

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self.path = path

    def begin(self, key: str, behaviour: Behaviour) -> bool:
        """Start or continue a cell or a certificate of the network that answers so.

        Returns:
            True where earlier rows are of a network that answers otherwise, or that nobody asked:
            they are forgotten.
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
        """Whether rows are there, and not of the network that answers so."""
        row = self._one("SELECT answers, seal FROM behaviours WHERE key = ?", key)
        if row is None or not self._begun(key):
            return self._begun(key)
        try:
            if isinstance(row[0], str) and _seal(key, row[0]) == row[1]:
                return not Behaviour.model_validate_json(row[0]).agrees(behaviour)
        except ValidationError:
            pass
        raise RecordError(
            f"The journal {self.path} was changed: what the network of {key} answered does not "
            "agree with its seal. Run with --fresh to measure again."
        )

    def _begun(self, key: str) -> bool:
        """Whether an earlier run has left anything of the cell or the certificate."""
        found = (f"SELECT 1 FROM {name} WHERE {OF} LIMIT 1" for name in TABLES[:3])
        return any(self._one(query, key) for query in found)

    def outcomes(self, key: str, n: int = MAX_SAMPLES) -> list[Outcome]:
        """Read what earlier runs left of a cell of ``n`` samples, in order of position."""
        outcomes = []
        for row in self._rows(OUTCOMES, key, n):
            with explain(self.path, JOURNAL):
                outcome = _OUTCOME.validate_python(row[:7])
            if outcome.seal(key) != row[7]:
                raise RecordError(
                    f"The journal {self.path} was changed: sample {row[0]} of cell {key} does not "
                    "agree with its seal. Run with --fresh to measure the cell again."
                )
            outcomes.append(outcome)
        return outcomes

    def nearest(self, key: str) -> float | None:
        """Read how near to a tie the nearest claim of all rows came.

        Returns:
            What the last ``add`` of the cell said; None where that run did not know.
        """
        row = self._one("SELECT nearest, seal FROM margins WHERE key = ?", key)
        return float(row[0]) if row is not None and _seal(key, repr(row[0])) == row[1] else None

    def count(self, key: str) -> int:
        """Count the samples of a cell that anything is known of, in any of its stages."""
        row = self._one(f"SELECT COUNT(DISTINCT position) FROM outcomes WHERE {OF}", key)
        return int(row[0]) if row else 0

    def misses(self, key: str, n: int = MAX_SAMPLES) -> list[NearMiss]:
        """Read how near a stage has come to success, of ``n`` samples, in order of position."""
        rows = self._rows(MISSES, key, n)
        with explain(self.path, JOURNAL):
            found = [_MISS.validate_python(row[:3]) for row in rows]
        for miss, row in zip(found, rows, strict=True):
            if miss.seal(key) != row[3]:
                raise RecordError(
                    f"The journal {self.path} was changed: a point of sample {row[0]} of {key} "
                    "does not agree with its seal. Run with --fresh to measure the cell again."
                )
        return found

    def add(
        self,
        key: str,
        batch: list[Outcome],
        seconds: float,
        nearest: float | None = None,
        misses: Sequence[NearMiss] = (),
    ) -> None:
        """Add one batch and the time it took, in one transaction.

        Args:
            key: of the cell, or of its stage.
            batch: what became of its samples.
            seconds: that it took.
            nearest: how near to a tie the nearest claim of the cell so far came; inf where there
                was none.
            misses: how near the samples have come, where a later stage begins there.
        """
        rows = [(key, *outcome, outcome.seal(key)) for outcome in batch]
        with self._guard(), self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
            )
            self._connection.executemany(
                "INSERT OR REPLACE INTO misses VALUES (?, ?, ?, ?, ?)",
                [(key, *miss, miss.seal(key)) for miss in misses],
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
        """Read what earlier runs left of a certificate of ``n`` samples, in order of position."""
        rows = self._rows(PROOFS, key, n)
        with explain(self.path, JOURNAL):
            found = [_PROOF.validate_python(row[:3]) for row in rows]
        for proof, row in zip(found, rows, strict=True):
            if proof.seal(key) != row[3]:
                raise RecordError(
                    f"The journal {self.path} was changed: sample {row[0]} of certificate {key} "
                    "does not agree with its seal. Run with --fresh to certify again."
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
        """Read the time that was spent on the cell so far, over all runs."""
        row = self._one("SELECT seconds FROM cells WHERE key = ?", key)
        with explain(self.path, JOURNAL):
            return float(row[0]) if row else 0.0

    def _one(self, query: str, key: str) -> tuple[Any, ...] | None:
        """The first row that ``query`` finds of ``key``."""
        with self._guard():
            row: tuple[Any, ...] | None = self._connection.execute(query, (key,)).fetchone()
        return row

    def _rows(self, query: str, key: str, n: int) -> list[tuple[Any, ...]]:
        """What ``query`` finds of ``key``, at positions below ``n``."""
        with self._guard():
            rows = self._connection.execute(
                f"{query} ORDER BY position LIMIT {n + 1}", (key,)
            ).fetchall()
        last = rows[-1][0] if rows else -1  # numbers come first, whatever else there is
        if not isinstance(last, int) or last >= n:
            raise RecordError(
                f"The journal {self.path} has a row for sample {last!r} of {n} of {key}. "
                f"{JOURNAL.fix}"
            )
        return rows

    def forget(self, key: str) -> None:
        """Drop a cell or a certificate: its record is written, or it is to be measured afresh."""
        with self._guard(), self._connection:
            for table in TABLES:
                self._connection.execute(f"DELETE FROM {table} WHERE {OF}", (key,))

    def _spend(self, key: str, seconds: float) -> None:
        self._connection.execute(SPEND, (key, seconds))

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Turn errors of SQLite into those that say what to do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise RecordError(
                f"The journal {self.path} cannot be used: {error}. What it holds is kept; mend the "
                "cause (a full disk, another run that holds it) and run the same command again."
            ) from error
        except sqlite3.DatabaseError as error:
            advice = "Delete it and run the same command again."
            raise RecordError(f"The journal {self.path} is damaged: {error}. {advice}") from error


@contextlib.contextmanager
def open_journal(path: Path | None) -> Iterator[Journal]:
    """Open the journal at ``path``, created if need be; in memory when ``path`` is None."""
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
            connection.executescript(SCHEMA)
        yield journal


def _seal(key: str, text: str) -> str:
    """Hash a text together with the key that it belongs to."""
    return hashlib.sha256(f"{key}/{text}".encode()).hexdigest()[:16]
