"""``kill -9`` at five moments of an evaluation: the same command ends with the same record; a kill
repeats a batch at most.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from robustbench_lite.records.cell import read_record
from tests.end_to_end.conftest import Rbl

PROGRAM = "import sys; from robustbench_lite.cli import main; sys.exit(main())"
#: Seconds after the first new row of the journal; the steps below are slow enough that the run is
#: not over by then.
DELAYS = (0.0, 0.05, 0.1, 0.2, 0.3)
BATCH, STEPS, LIMIT = 16, 400, 250
#: Gradients that a sample costs the model: those of the steps, and one beside the judging of the
#: last point.
COST = STEPS + 1
#: Counts, in a file that outlives a kill, the rows whose gradient is asked for: the work of the
#: search.
COUNTING = """
import numpy as np
from torch import nn

ROWS = np.memmap({path!r}, dtype=np.int64, mode="r+", shape=(1,))


class Counted(nn.Sequential):
    def forward(self, x):
        if x.requires_grad:
            ROWS[0] += len(x)
        return super().forward(x)


def linear():
    return Counted(nn.Flatten(), nn.Linear(784, 10))
"""


def rows_in_journal(folder: Path) -> int:
    path = folder / "journal.sqlite"
    if not path.exists():
        return 0
    connection = sqlite3.connect(path, timeout=10)
    try:
        return int(connection.execute("SELECT COUNT(*) FROM outcomes").fetchone()[0])
    except sqlite3.OperationalError:  # the table is still to come
        return 0
    finally:
        connection.close()


def run_and_kill(command: list[str], folder: Path, delay: float) -> None:
    before = rows_in_journal(folder)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        while rows_in_journal(folder) == before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        time.sleep(delay)
        assert process.poll() is None, "the run was over before it could be killed"
    finally:
        process.kill()
        process.communicate()


def test_a_killed_evaluation_ends_with_the_same_record_and_repeats_at_most_a_batch(
    rbl: Rbl, own_network: tuple[str, ...], tmp_path: Path
) -> None:
    counter = np.memmap(tmp_path / "rows", dtype=np.int64, mode="w+", shape=(1,))
    (tmp_path / "counting.py").write_text(COUNTING.format(path=str(tmp_path / "rows")))
    spec = f"pgd steps={STEPS}"
    options = [
        "--model",
        f"{tmp_path / 'counting.py'}:linear",
        *own_network[2:],
        "-a",
        spec,
        "--eps",
        "0.001",
    ]
    command = [
        "evaluate",
        *options,
        "--limit",
        str(LIMIT),
        "--batch-size",
        str(BATCH),
        "--format",
        "json",
        "-q",
    ]

    whole = json.loads(rbl(*command, "--output", "whole").out)["cells"][0]
    attacked, repeated = round(LIMIT * whole["clean_accuracy"]), []
    for delay in DELAYS:
        counter[0], before = 0, rows_in_journal(Path("killed"))
        run_and_kill([*command, "--output", "killed"], Path("killed"), delay)
        fresh = rows_in_journal(Path("killed")) - before
        assert fresh > 0
        repeated.append(int(counter[0]) - fresh * COST)
    counter[0] = 0
    left = attacked - rows_in_journal(Path("killed"))
    resumed = json.loads(rbl(*command, "--output", "killed").out)["cells"][0]

    assert resumed["digest"] == whole["digest"]
    assert max(repeated) <= BATCH * COST
    assert 0 < left < attacked
    assert int(counter[0]) <= (left + BATCH) * COST  # the last model batch is padded
    assert rows_in_journal(Path("killed")) == 0
    record, arrays = read_record(Path(resumed["record"]))
    assert record.provenance.seconds > 0
    assert arrays.backward_queries.sum() == attacked * STEPS
