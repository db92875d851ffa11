"""Files and words with something wrong in them: what each becomes follows from its generator
alone.
"""

from __future__ import annotations

import json
import random
from typing import Any

#: Values that a reader of text does not count on.
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    -(2**70),
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "²",
    "١",
    "none",
    "nan",
    "1e999",
    "0/0",
    "../../etc/passwd",
    "/dev/zero",
    "~root",
    "os:system",
    "os:system command='touch planted'",
    "a" * 5000,
    "9" * 5000,
    "[" * 300,
    "\u0000",
    "\ud800",
    "é",
    [],
    [[]],
    {},
    {"": {}},
    [0] * 50,
    [None],
    ["a", 1],
]
_RUNS = [
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\x7f\xff\xff\xff",
    b"9999",
    b"[" * 5000,
    b'{"a":' * 3000,
]


def bytes_of(content: bytes, rng: random.Random) -> bytes:
    """``content`` with a few bytes changed, left out, doubled, or cut off."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            del changed[at:]
        elif kind == 1:
            del changed[at : at + rng.choice([1, 4, 100])]
        elif kind == 2:
            changed[at:at] = changed[: rng.choice([1, 8, 200])]
        elif kind == 3:
            changed[at : at + 4] = rng.choice(_RUNS)
        elif at < len(changed):
            changed[at] ^= 1 << rng.randrange(8) if kind == 4 else rng.randrange(1, 256)
    return bytes(changed)


def value_of(value: Any, rng: random.Random) -> Any:
    """``value`` (of JSON) with one part replaced, left out, added, or nested."""
    value = json.loads(json.dumps(value))
    holders = _holders(value)
    if not holders:
        return rng.choice(ODD)
    holder = rng.choice(holders)
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    kind = rng.randrange(8)
    if not keys or kind == 0:
        if isinstance(holder, dict):
            holder[rng.choice(["extra", "", "é", "a.b"])] = rng.choice(ODD)
        else:
            holder.append(rng.choice(ODD))
    elif kind == 1:
        del holder[rng.choice(keys)]
    elif kind == 2:
        nested: Any = 1
        for _ in range(rng.choice([5, 99, 150])):
            nested = [nested] if rng.random() < 0.5 else {"a": nested}
        holder[rng.choice(keys)] = nested
    else:
        holder[rng.choice(keys)] = rng.choice(ODD)
    return value


def _holders(value: Any) -> list[Any]:
    """Every dict and list in ``value``, itself among them."""
    found, waiting = [], [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict | list):
            found.append(one)
            waiting += one.values() if isinstance(one, dict) else one
    return found


def json_of(value: Any) -> str:
    """As ``json.dumps``, however deep."""
    if isinstance(value, dict):
        return (
            "{"
            + ",".join(f"{json.dumps(key)}:{json_of(inner)}" for key, inner in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(map(json_of, value)) + "]"
    return str(value) if isinstance(value, int) and abs(value) > 10**300 else json.dumps(value)


def toml_of(table: dict[str, Any]) -> str:
    """``table`` with every value inline."""
    return (
        "\n".join(f"{_toml_key(key)} = {_toml_value(value)}" for key, value in table.items()) + "\n"
    )


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{_toml_key(key)} = {_toml_value(inner)}" for key, inner in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if value is None:
        return '""'
    if isinstance(value, float) and value != value:
        return "nan"
    if isinstance(value, float) and abs(value) == float("inf"):
        return "inf"
    return (
        json.dumps(value)
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) < 10**300
        else "9" * 5000
    )


def _toml_key(key: str) -> str:
    return json.dumps(key)
