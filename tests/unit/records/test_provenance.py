"""What a record says of when and where it was made."""

import sys

import pytest

from robustbench_lite.records.provenance import make_provenance


def test_a_record_names_no_folder_of_the_machine_it_was_made_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [
        "/opt/somewhere/bin/rbl",
        "evaluate",
        "--data-dir",
        "/home/someone/data",
        "--output",
        "out",
        "-a",
        "pgd steps=10",
    ]
    monkeypatch.setattr(sys, "argv", words)
    made = make_provenance(seconds=1.23456, device="cpu", batch_size=8, partial=True)
    assert made.command == "rbl evaluate --data-dir data --output out -a 'pgd steps=10'"
    assert made.seconds == 1.235
    assert made.versions["robustbench_lite"]
