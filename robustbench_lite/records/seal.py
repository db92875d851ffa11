"""The versions that can be read, and the seal over everything in a file.

Cells and certificates have both in common.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from robustbench_lite.errors import RecordError

SCHEMA_VERSION = 2
"""Raised whenever a file of records holds other fields. Version 1 had no seal and no behaviour."""
PROTOCOL_VERSION = 1
"""Raised whenever the engine or the judge may give another verdict for the same cell."""


def sha256_of(value: Any) -> str:
    """64 hex digits that follow from the JSON of ``value``."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def seal_of(content: Mapping[str, Any]) -> str:
    """The seal of a record, from all of its JSON but the seal itself.

    It tells of damage and of edits; whoever seals a forgery anew is found out by measuring again.
    """
    return sha256_of({name: value for name, value in content.items() if name != "seal"})


def check_versions(content: bytes | str, what: str) -> None:
    """Refuse a record of a schema or a protocol that this version does not know.

    ``what`` names the record in the message.

    What is no record at all passes: its reader says so.

    Raises:
        RecordError: names the version, those that are known, and what to do.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return
    if not isinstance(value, dict):
        return
    schema = value.get("schema_version")
    identity = value.get("identity")
    if _is(schema, 1):
        raise RecordError(
            f"{what} is of schema version 1; this version reads {SCHEMA_VERSION}. Nothing is lost: "
            "run `rbl migrate FOLDER` once on its folder (`rbl leaderboard migrate` for boards)."
        )
    if not _is(schema, SCHEMA_VERSION):
        raise RecordError(
            f"{what} is of schema version {_show(schema)}; known are {SCHEMA_VERSION}, and 1 to "
            "`rbl migrate`. Read it with the version of robustbench_lite that wrote it, or measure "
            "again with --fresh."
        )
    protocol = identity.get("protocol_version") if isinstance(identity, dict) else PROTOCOL_VERSION
    if not _is(protocol, PROTOCOL_VERSION):
        raise RecordError(
            f"{what} was measured under protocol version {_show(protocol)}; known is "
            f"{PROTOCOL_VERSION}. Read it with the version of robustbench_lite that wrote it, or "
            "measure again with --fresh."
        )


def refuse_false(claims: Mapping[str, bool], what: str, advice: str) -> None:
    """Refuse a record that does not agree with itself; ``what`` names it in the message.

    Args:
        claims: what it says of itself -> whether it holds.
        what: its kind and its file.
        advice: what to do.

    Raises:
        RecordError: names the first claim that does not hold.
    """
    for claim, holds in claims.items():
        if not holds:
            disagrees = f"its {claim} does not agree with its contents"
            raise RecordError(f"{what} was changed: {disagrees}. {advice}")


def _is(found: object, version: int) -> bool:
    return type(found) is int and found == version  # True and 2.0 are no versions


def _show(version: object) -> str:
    return "none" if version is None else repr(version)[:20]
