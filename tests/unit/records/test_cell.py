"""Records: round trip, keys, digests, and what happens to a file that was changed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustbench_lite.errors import RecordError
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.records.cell import (
    Record,
    derived_flags,
    make_record,
    read_record,
    write_record,
)
from robustbench_lite.records.identity import DataId, Identity, ModelId, PluginId, ThreatId
from robustbench_lite.records.outcomes import CellArrays, Margins
from robustbench_lite.records.provenance import make_provenance
from robustbench_lite.records.seal import seal_of
from robustbench_lite.records.statistics import wilson


def identity(**changes: object) -> Identity:
    values = {
        "model": ModelId(name="net", weights_sha256="a" * 64, architecture_sha256="b" * 64),
        "defense": PluginId(name="none", version=1, parameters={}),
        "attack": PluginId(name="pgd", version=1, parameters={"steps": 40, "step_size": None}),
        "threat": ThreatId(norm="linf", eps=8 / 255, eps_written="8/255", goal="untargeted"),
        "data": DataId(name="data", split="test", fingerprint="c" * 64, id_ranges=[(0, 11)]),
        "seed": 0,
    }
    return Identity.model_validate(values | changes)


def arrays() -> CellArrays:
    clean = np.array([True] * 9 + [False] * 2)
    broken = np.array([True, False] * 4 + [False] * 3)
    distance = np.where(broken, np.float32(0.03), np.float32("nan")).astype(np.float32)
    distance[~clean] = 0
    counts = np.arange(11, dtype=np.int32)
    return CellArrays(clean, broken, distance, counts, counts)


def record(**changes: object) -> Record:
    about = make_provenance(seconds=1.5, device="cpu", batch_size=4, partial=False)
    behaviour = Behaviour.of(np.ones((2, 3), np.float32), fixed=1, probes=1)
    return make_record(identity(**changes), arrays(), about, behaviour)


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "cell.json"
    write_record(record(), path)
    again, outcomes = read_record(path)
    assert again.digest == record().digest
    assert outcomes.robust.tolist() == arrays().robust.tolist()
    np.testing.assert_array_equal(outcomes.distance, arrays().distance)
    np.testing.assert_array_equal(outcomes.forward_queries, arrays().forward_queries)
    assert json.loads(path.read_text())["summary"]["robust_accuracy"] == pytest.approx(5 / 11)


def test_time_and_place_are_no_part_of_key_and_digest() -> None:
    other = make_record(
        identity(), arrays(), make_provenance(seconds=9, device="cuda", batch_size=64, partial=True)
    )
    assert (other.key, other.digest) == (record().key, record().digest)


def test_how_eps_is_written_is_no_part_of_the_key() -> None:
    same = identity(
        threat=ThreatId(norm="linf", eps=8 / 255, eps_written="0.03137", goal="untargeted")
    )
    assert same.key() == identity().key()


def test_fit_data_is_part_of_key_and_file_only_where_there_is_some() -> None:
    plain = identity()
    fitted = plain.model_copy(update={"fit_data": plain.data})
    assert "fit_data" not in plain.model_dump()
    assert "fit_data" not in plain.model_dump_json()
    assert fitted.key() != plain.key()
    assert Identity.model_validate(fitted.model_dump()) == fitted


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"query_budget": 10},
        {"protocol_version": 2},
        {"attack": PluginId(name="pgd", version=2, parameters={"steps": 40, "step_size": None})},
        {"attack": PluginId(name="pgd", version=1, parameters={"steps": 41, "step_size": None})},
        {"threat": ThreatId(norm="linf", eps=0.1, eps_written="0.1", goal="untargeted")},
        {"model": ModelId(name="net", weights_sha256="d" * 64, architecture_sha256="b" * 64)},
        {"data": DataId(name="data", split="test", fingerprint="c" * 64, id_ranges=[(0, 12)])},
    ],
    ids=str,
)
def test_everything_that_decides_the_outcome_changes_the_key(change: dict[str, Any]) -> None:
    assert identity(**change).key() != identity().key()


def test_the_last_bit_of_an_interval_may_come_from_another_scipy(tmp_path: Path) -> None:
    content = record().model_dump(mode="json")
    low, high = content["summary"]["robust_interval"]
    content["summary"]["robust_interval"] = [math.nextafter(low, 1), high]
    content["seal"] = seal_of(content)
    (tmp_path / "cell.json").write_text(json.dumps(content))
    assert read_record(tmp_path / "cell.json")[0].digest == record().digest
    content["summary"]["robust_interval"] = [low + 1e-6, high]
    content["seal"] = seal_of(content)
    (tmp_path / "cell.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match="summary"):
        read_record(tmp_path / "cell.json")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("summary", "robust_accuracy"), 0.99),
        (("summary", "n"), 12),
        (("key",), "0" * 32),
        (("digest",), "0" * 64),
        (("identity", "seed"), 5),
        (("outcomes", "broken"), "/wc="),
        (("outcomes", "broken"), "AAA="),
        (("outcomes", "forward_queries"), "AAAA"),
        (("outcomes", "distance"), "not base64"),
        (("identity", "surprise"), 1),
        (("identity", "data", "id_ranges"), [[0, 10]]),
        (("identity", "data", "id_ranges"), [[0, 10**15]]),
        (("identity", "data", "id_ranges"), [[11, 0]]),
        (("identity", "threat", "eps_written"), "16/255"),
        (("provenance", "flags"), ["forged"]),
        (("provenance", "partial"), True),
        (("provenance", "seconds"), 2.5),
        (("provenance", "device"), "cuda"),
        (("provenance", "command"), "rbl evaluate"),
        (("provenance", "versions"), {}),
        (("provenance", "paths"), ["search: none"]),
        (("behaviour",), None),
        (("behaviour", "answers"), "AAAA"),
        (("behaviour", "shape"), [1, 2]),
        (("seal",), "0" * 64),
        (("seal",), ""),
        (("schema_version",), 0),
        (("schema_version",), 99),
        (("schema_version",), True),
        (("identity", "protocol_version"), 0),
        (("identity", "protocol_version"), 99),
        (("identity", "data", "id_ranges"), [[2**70, 2**70 + 11]]),
        (("identity", "threat", "eps"), float("nan")),
        (("provenance", "seconds"), float("inf")),
    ],
)
def test_a_changed_record_is_refused(tmp_path: Path, path: tuple[str, ...], value: object) -> None:
    content = record().model_dump(mode="json")
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file = tmp_path / "cell.json"
    file.write_text(json.dumps(content))
    with pytest.raises(RecordError, match="--fresh"):
        read_record(file)


@pytest.mark.parametrize(
    ("written", "eps"),
    [
        ("16/255", 8 / 255),
        ("0.0313", 8 / 255),
        ("none", 0.1),
        ("0.1", None),
        ("8 of 255", 8 / 255),
        ("", 0.1),
    ],
)
def test_a_radius_that_is_not_what_is_written_is_refused_however_it_is_sealed(
    tmp_path: Path, written: str, eps: float | None
) -> None:
    write_record(
        record(threat=ThreatId(norm="linf", eps=eps, eps_written=written, goal="untargeted")),
        tmp_path / "cell.json",
    )
    with pytest.raises(RecordError, match="eps as written"):
        read_record(tmp_path / "cell.json")


@pytest.mark.parametrize(
    ("written", "eps"), [(None, 0.1), ("1/10", 0.1), ("none", None), (None, None), ("5", 5.0)]
)
def test_a_radius_may_be_written_in_any_way_that_says_what_it_is(
    tmp_path: Path, written: str | None, eps: float | None
) -> None:
    write_record(
        record(threat=ThreatId(norm="linf", eps=eps, eps_written=written, goal="untargeted")),
        tmp_path / "cell.json",
    )
    assert read_record(tmp_path / "cell.json")[0].identity.threat.eps == eps


@pytest.mark.parametrize(
    ("changes", "unconfirmed"), [({"adaptive": False}, 0), ({}, 1), ({}, 1234)]
)
def test_a_flag_that_follows_from_the_outcomes_cannot_be_left_out(
    tmp_path: Path, changes: dict[str, Any], unconfirmed: int
) -> None:
    outcomes, who, path = arrays(), identity(**changes), tmp_path / "cell.json"
    outcomes.unconfirmed = unconfirmed
    flags = derived_flags(who, unconfirmed)
    about = make_provenance(
        seconds=1, device="cpu", batch_size=4, partial=False, flags=["another", *flags]
    )
    write_record(make_record(who, outcomes, about), path)
    assert read_record(path)[0].provenance.flags == ["another", *flags]
    write_record(make_record(who, outcomes, about.model_copy(update={"flags": ["another"]})), path)
    with pytest.raises(RecordError, match="flags"):
        read_record(path)


def test_verdicts_that_cannot_be_are_refused_however_they_are_sealed(tmp_path: Path) -> None:
    about = make_provenance(seconds=1, device="cpu", batch_size=4, partial=False)
    wrong_and_broken, proved_and_broken, proved_and_wrong = arrays(), arrays(), arrays()
    wrong_and_broken.broken = wrong_and_broken.broken | ~wrong_and_broken.clean_correct
    proved_and_broken.certified = proved_and_broken.broken.copy()
    proved_and_wrong.certified = ~proved_and_wrong.clean_correct
    cases = (
        (wrong_and_broken, "broken samples"),
        (proved_and_broken, "certified samples"),
        (proved_and_wrong, "certified"),
    )
    for outcomes, what in cases:
        write_record(make_record(identity(), outcomes, about), tmp_path / "cell.json")
        with pytest.raises(RecordError, match=f"its {what}"):
            read_record(tmp_path / "cell.json")
    possible = arrays()
    possible.certified = possible.robust & (np.arange(11) > 1)
    write_record(make_record(identity(), possible, about), tmp_path / "cell.json")
    found, summary = (
        read_record(tmp_path / "cell.json")[1],
        read_record(tmp_path / "cell.json")[0].summary,
    )
    assert (found.robust_accuracy, found.certified_accuracy) == (5 / 11, 4 / 11)
    assert (summary.robust_interval, summary.certified_interval) == (wilson(5, 11), wilson(4, 11))


@pytest.mark.parametrize("field", ["key", "digest", "summary", "outcomes"])
def test_parts_that_do_not_belong_together_are_refused_however_they_are_sealed(
    tmp_path: Path, field: str
) -> None:
    outcomes = arrays()
    outcomes.broken[1] = True
    other = make_record(identity(seed=5), outcomes, record().provenance)
    write_record(
        record().model_copy(update={field: getattr(other, field)}).sealed(), tmp_path / "cell.json"
    )
    with pytest.raises(
        RecordError, match=f"its {'digest' if field == 'outcomes' else field} does not agree"
    ):
        read_record(tmp_path / "cell.json")


def test_the_digest_covers_every_outcome() -> None:
    whole = record().digest
    about = record().provenance
    for field in (
        "clean_correct",
        "broken",
        "distance",
        "forward_queries",
        "backward_queries",
        "certified",
    ):
        outcomes = arrays()
        values = outcomes.robust.copy() if field == "certified" else getattr(outcomes, field).copy()
        values[1] = not values[1] if values.dtype == np.bool_ else 7
        setattr(outcomes, field, values)
        assert make_record(identity(), outcomes, about).digest != whole
    unconfirmed = arrays()
    unconfirmed.unconfirmed = 3
    assert make_record(identity(), unconfirmed, about).digest != whole


@pytest.mark.parametrize(
    ("field", "version", "words"),
    [
        ("schema_version", 1, "schema version 1; this version reads 2.*rbl migrate FOLDER"),
        ("schema_version", 99, "schema version 99; known are 2, and 1 to `rbl migrate`.*--fresh"),
        ("protocol_version", 99, "protocol version 99; known is 1.*--fresh"),
    ],
)
def test_a_version_that_nobody_knows_is_refused_with_those_that_are_known(
    tmp_path: Path, field: str, version: int, words: str
) -> None:
    content = record().model_dump(mode="json")
    (content if field == "schema_version" else content["identity"])[field] = version
    content["from the future"] = 1
    (tmp_path / "cell.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match=words):
        read_record(tmp_path / "cell.json")


def test_answers_are_no_part_of_key_and_digest() -> None:
    silent = make_record(identity(), arrays(), record().provenance)
    assert (silent.key, silent.digest) == (record().key, record().digest)
    assert silent.seal != record().seal


def test_paths_of_the_search_are_in_the_file_only_where_there_are_some(tmp_path: Path) -> None:
    assert "paths" not in record().model_dump()["provenance"]
    about = make_provenance(
        seconds=1, device="cpu", batch_size=4, partial=False, paths=["search: channels last"]
    )
    write_record(make_record(identity(), arrays(), about), tmp_path / "cell.json")
    assert read_record(tmp_path / "cell.json")[0].provenance.paths == ["search: channels last"]


def test_a_truncated_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cell.json"
    write_record(record(), path)
    path.write_text(path.read_text()[:300])
    with pytest.raises(RecordError, match="cannot be read"):
        read_record(path)


def test_no_half_written_file_stays_behind(tmp_path: Path) -> None:
    write_record(record(), tmp_path / "cell.json")
    assert [p.name for p in tmp_path.iterdir()] == ["cell.json"]


def test_median_distance_counts_what_was_not_found_as_infinite() -> None:
    cell = arrays()
    assert cell.median_distance is None  # 4 of 9 correct samples were broken
    cell.distance[1] = 0.5
    assert cell.median_distance == pytest.approx(0.5)


def test_margins_are_sealed_and_no_part_of_the_digest(tmp_path: Path) -> None:
    plain = record()
    near = make_record(
        identity(), arrays(), plain.provenance, plain.behaviour, Margins.of(0.123456, 2e-7)
    )
    assert near.digest == plain.digest
    assert near.seal != plain.seal
    assert near.margins == Margins(clean=0.123, judged=2e-7)
    write_record(near, tmp_path / "cell.json")
    assert read_record(tmp_path / "cell.json")[0] == near
    (tmp_path / "cell.json").write_text(
        (tmp_path / "cell.json").read_text().replace("2e-07", "0.2")
    )
    with pytest.raises(RecordError, match="its seal"):
        read_record(tmp_path / "cell.json")


def test_a_record_that_knows_no_margins_is_as_it_was_before_there_were_any() -> None:
    assert "margins" not in record().model_dump(mode="json")
    assert Margins.of(None, float("inf")).model_dump(mode="json") == {}
