"""``--config FILE``: a TOML file with the options of a command under their own names.

The command line wins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from robustbench_lite.errors import UnknownNameError, UsageError
from robustbench_lite.files.reading import OPTIONS_BYTES, Form
from robustbench_lite.files.text import read_toml

_CONFIG = Form(
    noun="file for --config",
    what="a --config that is not valid TOML",
    most=OPTIONS_BYTES,
    error=UsageError,
    fix="Write lines such as: eps = '8/255'.",
)


def read_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make what the file says the default of every other option.

    It is the callback of an eager ``--config`` option.
    """
    if path is not None:
        ctx.default_map = _defaults(path, _options(ctx))
    return path


def _options(ctx: typer.Context) -> dict[str, Any]:
    """Long name, with underscores -> option."""
    return {
        flag.removeprefix("--").replace("-", "_"): option
        for option in ctx.command.params
        for flag in option.opts
        if flag.startswith("--") and flag not in ("--config", "--help")
    }


def _defaults(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    defaults: dict[str, Any] = {}
    for key, value in read_toml(path, _CONFIG).items():
        name = key.replace("-", "_")
        if name == "allow_code":
            raise UsageError(
                f"{key} stands in {path}, and a file cannot allow code: type --allow-code on the "
                "command line."
            )
        if name not in options:
            raise UnknownNameError(f"option in {path}", key, options)
        defaults[options[name].name] = _value(value, options[name], f"{key} in {path}")
    return defaults


def _value(value: Any, option: Any, what: str) -> Any:
    """Write ``value`` as the command line would carry it.

    That is text, a list of texts, or for a flag true or false.
    """
    if getattr(option, "is_flag", False):
        if not isinstance(value, bool):
            raise UsageError(f"{what} is {value!r}; it is a flag: write true or false.")
        return value
    items = value if isinstance(value, list) else [value]
    if not all(
        isinstance(item, str | int | float) and not isinstance(item, bool) for item in items
    ):
        raise UsageError(f"{what} is {value!r}; it must be text or a number.")
    if any("\0" in str(item) for item in items):
        raise UsageError(f"{what} is {value!r}; text has no character 0.")
    if option.multiple:
        return [str(item) for item in items]
    if isinstance(value, list):
        raise UsageError(f"{what} is a list; it takes one value.")
    return str(value)
