"""The lock on implementations.

A changed attack or defense must not pass for the one that was measured.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import json
import os
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from robustbench_lite import registry
from robustbench_lite.errors import RecordError, UnknownNameError, UsageError
from robustbench_lite.files.reading import OPTIONS_BYTES, Form, explain
from robustbench_lite.files.text import read_json
from robustbench_lite.leaderboard.board import LOCK
from robustbench_lite.leaderboard.results import Problem
from robustbench_lite.leaderboard.slots import Slot
from robustbench_lite.records.files import write_text

Plugin = tuple[registry.Kind, str]
_LOCK = Form(
    noun="lock",
    what="a lock that is damaged",
    most=OPTIONS_BYTES,
    error=RecordError,
    fix="Restore it from version control.",
)


class Locked(NamedTuple):
    """An implementation as it was locked, or as it is."""

    version: int
    sha256: str


def plugins_of(slots: Iterable[Slot]) -> list[Plugin]:
    """Every registered attack and defense behind the cells, sorted."""
    named: set[Plugin] = set()
    for slot in slots:
        attack = slot.expected.attack
        named.add((registry.kind_of("attack", attack.name), attack.name))
        named |= {("attack", stage.name) for stage in attack.stages or []}
        named |= {
            ("defense", part.name)
            for part in slot.expected.defense.parts or [slot.expected.defense]
        }
    return sorted(plugin for plugin in named if plugin[1] in registry.names(plugin[0]))


def current(plugin: Plugin) -> Locked:
    """The version and the source hash of an installed plug-in."""
    kind, name = plugin
    return Locked(
        int(registry.load(kind, name).version),
        source_hash(registry.targets(kind)[name].partition(":")[0]),
    )


def source_hash(module: str) -> str:
    """Hash the code of ``module`` and of what it imports from its own package.

    Comments and docstrings do not count.
    """
    digest = hashlib.sha256()
    for name, source in sorted(_sources(module).items()):
        digest.update(f"{name}\n{bare(source)}\n".encode())
    return digest.hexdigest()


class SourceText(NamedTuple):
    """The text of a module, and what it parses to."""

    text: str
    tree: ast.Module

    @classmethod
    def parse(cls, text: str) -> SourceText:
        return cls(text, ast.parse(text))


def _sources(module: str) -> dict[str, SourceText]:
    """``module`` and the modules of its package that it needs."""
    found: dict[str, SourceText] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = None if name in found else _file_of(name)
        if path is not None:
            found[name] = SourceText.parse(path.read_text(encoding="utf-8"))
            package = module.partition(".")[0]
            waiting += [
                other for other in _imports(found[name], name) if other.partition(".")[0] == package
            ]
    return found


def _file_of(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _imports(source: SourceText, module: str) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level]) if node.level else ""
            name = ".".join(filter(None, [base, node.module or ""]))
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def bare(source: SourceText) -> str:
    """Strip comments, docstrings and blank lines, alike under any version of Python."""
    lines = source.text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(source.tree):
        # A statement that is a string and nothing else: of a module, class or function, or after an
        # attribute.
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            first = node.lineno - 1
            last = node.end_lineno or node.lineno
            before = lines[first].encode()[: node.col_offset]
            after = lines[last - 1].encode()[node.end_col_offset :]
            if not before.strip() and not after.strip():
                lines[first:last] = [""] * (last - first)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def read_lock(root: Path) -> dict[Plugin, Locked]:
    """The lock file of a leaderboards folder; nothing where there is none."""
    path = root / LOCK
    if not os.path.lexists(path):
        return {}
    content: dict[registry.Kind, dict[str, dict[str, Any]]] = read_json(path, _LOCK)
    with explain(str(path), _LOCK):
        return {
            (kind, name): Locked(int(entry["version"]), str(entry["sha256"]))
            for kind, entries in content.items()
            for name, entry in entries.items()
        }


def write_lock(root: Path, locks: dict[Plugin, Locked]) -> None:
    """Write the lock file."""
    content: dict[str, dict[str, dict[str, object]]] = {}
    for (kind, name), locked in sorted(locks.items()):
        content.setdefault(kind, {})[name] = {"version": locked.version, "sha256": locked.sha256}
    write_text(root / LOCK, json.dumps(content, indent=1, sort_keys=True) + "\n")


def lock_problems(root: Path, slots: Iterable[Slot]) -> list[Problem]:
    """Implementations that are not the locked ones."""
    locks = read_lock(root)
    problems = []
    for plugin in plugins_of(slots):
        kind, name = plugin
        there = locks.get(plugin)
        here = current(plugin)
        if there == here:
            continue
        where = f"{kind} {name}"
        if there is None or there.version != here.version:
            state = "is not locked yet"
            if there is not None:
                state = f"is version {here.version} now, the lock has {there.version}"
            problems.append(
                Problem(where, state, f"rbl leaderboard run && rbl leaderboard lock --root {root}")
            )
        else:
            problems.append(
                Problem(
                    where,
                    f"its source was changed, and it is still version {here.version}",
                    "raise its version and measure again (rbl leaderboard run), or, if no verdict "
                    "can change: "
                    f"rbl leaderboard lock {name} --same-verdicts --root {root}",
                )
            )
    return problems


def lock(root: Path, slots: Iterable[Slot], same_verdicts: Iterable[str]) -> list[str]:
    """Lock what the boards name; returns what was locked anew.

    Raises:
        UsageError: a source was changed without a new version, and ``same_verdicts`` does not name
        it.
    """
    locks = read_lock(root)
    changed = []
    allowed = set(same_verdicts)
    plugins = plugins_of(slots)
    for name in allowed - {name for _, name in plugins}:
        raise UnknownNameError(
            "attack or defense of the boards", name, [name for _, name in plugins]
        )
    fresh = {plugin: current(plugin) for plugin in plugins}
    for (kind, name), here in fresh.items():
        there = locks.get((kind, name))
        changed_in_place = there is not None and there.version == here.version and there != here
        if changed_in_place and name not in allowed:
            raise UsageError(
                f"The source of the {kind} {name!r} was changed, and it is still version "
                f"{here.version}. Raise the version if a verdict may change; else say so: "
                f"rbl leaderboard lock {name} --same-verdicts."
            )
        if there != here:
            changed.append(f"{kind} {name} version {here.version}")
    write_lock(root, fresh)
    return changed
