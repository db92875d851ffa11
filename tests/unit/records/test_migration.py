"""Records of version 1 become records of version 2: keys and digests as they were, what was changed
by hand refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustbench_lite.errors import RecordError, UsageError
from robustbench_lite.records import migration
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.records.cell import read_record
from robustbench_lite.records.certificate import (
    CertificateArrays,
    CertificateIdentity,
    make_certificate,
    read_certificate,
)
from robustbench_lite.records.migration import files_of, migrate
from robustbench_lite.records.npz import read_npz, write_npz
from robustbench_lite.records.provenance import make_provenance
from tests.unit.records.test_cell import identity, record

ABOUT = make_provenance(seconds=1.5, device="cpu", batch_size=4, partial=False)
Content = dict[str, Any]


def certificate() -> Content:
    whole = identity()
    who = CertificateIdentity(
        model=whole.model,
        defense=whole.defense,
        certifier=whole.attack,
        data=whole.data,
        threat=whole.threat.model_copy(update={"eps_written": None}),
    )
    right = np.array([True] * 9 + [False] * 2)
    proved = CertificateArrays(
        right, right, np.where(right, 1, -np.inf).astype(np.float32), ("ibp",) * 9 + ("",) * 2
    )
    return make_certificate(who, proved, ABOUT).model_dump(mode="json")


def version_1(content: Content) -> Content:
    """The record as version 1 wrote it."""
    return {name: value for name, value in content.items() if name not in ("seal", "behaviour")} | {
        "schema_version": 1
    }


def folder_of(path: Path) -> Path:
    """A folder with a cell, a certificate, and a file of adversarials, all of version 1."""
    cell = version_1(record().model_dump(mode="json"))
    for name, content in (("cells", cell), ("certificates", version_1(certificate()))):
        (path / name).mkdir(parents=True)
        (path / name / f"{content['key']}.json").write_text(json.dumps(content))
    write_npz(
        path / migration.ADVERSARIALS, x_adv=np.ones((2, 3), np.float32), record=json.dumps(cell)
    )
    return path


def states(paths: list[Path], *ask: migration.Ask) -> list[str]:
    return [one.state for one in migrate(files_of(paths), *ask)]


def test_a_folder_is_migrated_in_place_with_its_keys_and_digests(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    before = {path: json.loads(path.read_text()) for path in folder.rglob("*.json")}
    for path in before:
        with pytest.raises(RecordError, match="rbl migrate FOLDER"):
            read_certificate(path) if path.parent.name == "certificates" else read_record(path)
    assert states([folder]) == ["migrated"] * 3
    for path, old in before.items():
        new = json.loads(path.read_text())
        assert new["behaviour"] is None
        assert {name: new[name] for name in old} == old | {"schema_version": 2}
        assert (
            read_certificate(path) if path.parent.name == "certificates" else read_record(path)
        )[0].digest == old["digest"]
    arrays = read_npz(folder / migration.ADVERSARIALS)
    assert json.loads(str(arrays["record"]))["schema_version"] == 2
    assert arrays["x_adv"].tolist() == np.ones((2, 3)).tolist()


def test_a_second_migration_and_one_that_was_killed_do_what_is_left(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    next(migrate(files_of([folder])))  # killed after the first file
    assert sorted(states([folder])) == ["current", "migrated", "migrated"]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert states([folder]) == ["current"] * 3
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def set_eps(content: Content) -> None:
    content["identity"]["threat"]["eps_written"] = "16/255"


def empty_flags(content: Content) -> None:
    content["outcomes"]["unconfirmed"] = 3


def set_version(content: Content) -> None:
    content["schema_version"] = 0


def set_protocol(content: Content) -> None:
    content["identity"]["protocol_version"] = 99


def set_summary(content: Content) -> None:
    content["summary"]["robust_accuracy"] = 0.9


def add_seal(content: Content) -> None:
    content["seal"] = "0" * 64


def add_field(content: Content) -> None:
    content["surprise"] = 1


@pytest.mark.parametrize(
    "change", [set_eps, empty_flags, set_version, set_protocol, set_summary, add_seal, add_field]
)
def test_what_was_changed_is_refused_with_its_reason_and_left_as_it_is(
    tmp_path: Path, change: Callable[[Content], None]
) -> None:
    folder = folder_of(tmp_path)
    (path,) = (folder / "cells").iterdir()
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    before = path.read_bytes()
    done = list(migrate(files_of([folder])))
    assert sorted(one.state for one in done) == ["migrated", "migrated", "refused"]
    (refused,) = (one for one in done if one.state == "refused")
    assert (refused.path, bool(refused.reason)) == (path, True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["", "[]", "{}", "not JSON", '{"outcomes": {}}', "[" * 100_000])
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert states([tmp_path / "a.json"]) == ["refused"]


def test_whoever_knows_the_network_gives_its_answers_to_old_records_and_to_those_without_any(
    tmp_path: Path,
) -> None:
    answers = Behaviour.of(np.ones((1, 2), np.float32), fixed=1, probes=1)
    folder = folder_of(tmp_path)
    (cell,) = (folder / "cells").iterdir()
    assert states([cell]) == ["migrated"]
    digest = read_record(cell)[0].digest
    assert states([cell, folder / "certificates"], lambda identity: answers) == ["migrated"] * 2
    assert (read_record(cell)[0].behaviour, read_record(cell)[0].digest) == (answers, digest)
    assert states([cell], lambda identity: pytest.fail("it has answers")) == ["current"]


def test_a_folder_without_records_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no records"):
        files_of([tmp_path])
    with pytest.raises(UsageError, match="no file or folder"):
        files_of([tmp_path / "missing"])
