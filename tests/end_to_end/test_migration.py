"""Files of an earlier version: refused with the command that helps, migrated by it, and the same
bytes as if written today.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from robustbench_lite.leaderboard.migration import _say_radius
from robustbench_lite.records.certificate import read_certificate, write_certificate
from tests.end_to_end.boards import measured_board
from tests.end_to_end.conftest import Rbl


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measured_board(tmp_path_factory.mktemp("boards"))


def age(path: Path) -> None:
    """Make the file one of version 1."""
    content = json.loads(path.read_text())
    version = "format_version" if "format_version" in content else "schema_version"
    old = {name: value for name, value in content.items() if name not in ("seal", "behaviour")} | {
        version: 1
    }
    path.write_text(json.dumps(old, indent=1, sort_keys=True) + "\n")


def test_a_board_of_version_1_is_refused_and_migrated_to_the_bytes_of_today(
    rbl: Rbl, measured: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(measured, tmp_path / "leaderboards"))
    files = {path: path.read_bytes() for path in sorted((root / "results").rglob("*.json"))}
    assert {path.parent.name for path in files} >= {"cells", "gallery"}
    for path in files:
        age(path)
    refused = rbl("leaderboard", "check", "--root", str(root))
    assert refused.code == 1
    assert "rbl leaderboard migrate" in refused.out
    done = rbl("leaderboard", "migrate", "--root", str(root))
    assert done.code == 0, done.out
    assert f"{len(files)} migrated, 0 current, 0 refused." in done.out
    assert {path: path.read_bytes() for path in files} == files
    checked = rbl("leaderboard", "check", "--root", str(root), "--rerun", "1")
    assert checked.code == 0, checked.out
    assert (
        f"0 migrated, {len(files)} current, 0 refused."
        in rbl("leaderboard", "migrate", "--root", str(root)).out
    )


def test_records_without_answers_on_a_board_are_named_and_get_them_by_migrating(
    rbl: Rbl, measured: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(measured, tmp_path / "leaderboards"))
    path = sorted((root / "results" / "tiny" / "cells").glob("*.json"))[0]
    whole = path.read_bytes()
    age(path)
    assert rbl("migrate", str(root)).code == 0
    checked = rbl("leaderboard", "check", "--root", str(root))
    assert checked.code == 1
    assert "1 of its records do not say what its network answers" in checked.out
    assert rbl("leaderboard", "migrate", "--root", str(root)).code == 0
    assert path.read_bytes() == whole


def test_a_folder_of_version_1_is_refused_migrated_shown_and_measured_anew(
    rbl: Rbl, own_network: tuple[str, ...]
) -> None:
    command = ("evaluate", *own_network, "-a", "fgsm", "--limit", "20", "--certify", "ibp")
    assert rbl(*command).code == 0
    files = sorted(Path("rbl-results").rglob("*.json"))
    assert len(files) == 2
    for path in files:
        age(path)
        for words in (command, ("show", str(path))):
            refused = rbl(*words)
            assert (refused.code, refused.err.count("\n")) == (2, 1)
            assert "`rbl migrate FOLDER`" in refused.err
    done = rbl("migrate", "rbl-results")
    assert (done.code, done.out.splitlines()[-1]) == (0, "2 migrated, 0 current, 0 refused.")
    assert all(rbl("show", str(path)).code == 0 for path in files)
    assert "does not say how its network answers" in rbl(*command).out
    assert "Read from an earlier run's record" in rbl(*command).out


def test_a_damaged_file_is_refused_and_the_others_are_migrated(
    rbl: Rbl, own_network: tuple[str, ...]
) -> None:
    for seed in ("0", "1"):
        rbl("evaluate", *own_network, "-a", "fgsm", "--limit", "20", "--seed", seed)
    first, second = sorted(Path("rbl-results/cells").glob("*.json"))
    age(first)
    age(second)
    first.write_text(first.read_text().replace('"eps_written": "0.1"', '"eps_written": "0.2"'))
    done = rbl("migrate", "rbl-results")
    assert done.code == 1
    assert f"refused {first}" in done.out
    assert "eps as written" in done.out
    assert "1 migrated, 0 current, 1 refused." in done.err
    assert rbl("show", str(second)).code == 0


def test_a_certificate_without_its_written_radius_is_given_it_by_the_board(tmp_path: Path) -> None:
    folder = (
        Path(__file__).parents[2] / "leaderboards" / "results" / "cifar10-jpeg" / "certificates"
    )
    whole = sorted(folder.glob("*.json"))[0]
    record, _ = read_certificate(whole)
    threat = record.identity.threat
    assert threat.eps_written is not None
    bare = record.identity.model_copy(
        update={"threat": threat.model_copy(update={"eps_written": None})}
    )
    path = tmp_path / whole.name
    write_certificate(record.model_copy(update={"identity": bare}).sealed(), path)
    assert path.read_bytes() != whole.read_bytes()
    assert not _say_radius(path, {})
    assert _say_radius(path, {(threat.norm, threat.eps): threat.eps_written})
    assert path.read_bytes() == whole.read_bytes()
    assert not _say_radius(path, {(threat.norm, threat.eps): threat.eps_written})


def test_the_certificate_that_evaluate_writes_says_its_radius_as_it_was_written(
    rbl: Rbl, own_network: tuple[str, ...]
) -> None:
    done = rbl(
        "evaluate",
        *own_network,
        "-a",
        "fgsm",
        "--limit",
        "8",
        "--eps",
        "1/255",
        "--certify",
        "ibp",
        "-q",
    )
    assert done.code == 0, done.err
    (path,) = Path("rbl-results/certificates").glob("*.json")
    assert read_certificate(path)[0].identity.threat.eps_written == "1/255"
