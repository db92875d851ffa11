"""``rbl``: the command line. One file a command.

torch is imported by the commands that need it, when they need it.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import typer

from robustbench_lite import __version__
from robustbench_lite.cli import (
    attack,
    certify,
    doctor,
    evaluate,
    leaderboard,
    listing,
    migrate,
    report,
    show,
    train,
    verify,
)
from robustbench_lite.errors import RobustBenchError, UsageError
from robustbench_lite.files.text import printable

INTERRUPTED = 130

app = typer.Typer(
    name="rbl",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("evaluate")(evaluate.evaluate)
app.command("attack")(attack.attack)
app.command("verify")(verify.verify)
app.command("certify")(certify.certify)
app.command("train")(train.train)
app.command("list")(listing.list_names)
app.command("show")(show.show)
app.command("report")(report.report)
app.command("migrate")(migrate.migrate)
app.add_typer(leaderboard.app, name="leaderboard")
app.command("doctor")(doctor.doctor)


@app.callback(invoke_without_command=True)
def rbl(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", metavar="", help="Print the version.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", metavar="", help="Logs, warnings and tracebacks.")
    ] = False,
) -> None:
    """How robust is this image classifier, really, and can anyone check it?

    Start here: [bold]rbl evaluate --attack pgd --defense parseval[/bold]
    """
    if version:
        print(f"robustbench_lite {__version__}")
    elif ctx.invoked_subcommand is None:
        print(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Before parsing: it also decides how a command line fails that cannot be parsed.
    verbose = not {"-v", "--verbose"}.isdisjoint(words)
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    with warnings.catch_warnings():
        if not verbose and not sys.warnoptions:
            warnings.simplefilter("ignore")
        try:
            _require_words(words)
            code = typer.main.get_command(app).main(words, prog_name="rbl", standalone_mode=False)
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
        except Exception as error:  # noqa: BLE001 -- the outermost frame: whatever comes here becomes one line and a code
            if verbose and not _is_usage(error):
                traceback.print_exc()
            failure = _explain(error)
            _say_error(failure.message)
            code = failure.code
    if code == INTERRUPTED:
        _say_error("Interrupted. What is done is kept: the same command continues from there.")
    return int(code or 0)


def _require_words(words: Sequence[str]) -> None:
    """Refuse what cannot be a word of a command line.

    A file name that is no UTF-8 can be one, and can be printed all the same.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    for word in words:
        try:
            usable = b"\0" not in os.fsencode(word)
        except UnicodeEncodeError:
            usable = False
        if not usable:
            raise UsageError(
                f"{word!r} is no text that a command line can have: leave out what is no character."
            )


class _Failure(NamedTuple):
    """What an error comes to at the command line."""

    message: str
    code: int


def _explain(error: Exception) -> _Failure:
    """Say what ``error`` means to the user, and with which code to exit."""
    if isinstance(error, RobustBenchError):
        return _Failure(str(error), error.exit_code)
    if _is_usage(error):
        return _Failure(_explain_usage(error), 2)
    # The file system's word is no mistake of ours.
    if isinstance(error, OSError) and error.strerror and error.filename:
        return _Failure(
            f"Cannot use {str(error.filename)!r}: {error.strerror}. Name another path, or mend "
            "what is there.",
            2,
        )
    return _Failure(
        f"Unexpected {type(error).__name__}: {error}. Run with -v for the traceback.", 1
    )


def _is_usage(error: Exception) -> bool:
    """Tell the parser's own errors from others."""
    # Which package they live in depends on the version of typer; what they can do does not.
    return hasattr(error, "format_message")


def _explain_usage(error: Exception) -> str:
    """Say what a parser's error means, with the likely fix."""
    message = str(error.format_message()).rstrip(".")  # type: ignore[attr-defined]
    near = sorted(getattr(error, "possibilities", None) or ())
    if near:  # some versions have said so already
        plain = str(getattr(error, "message", message)).partition(" Did you mean")[0].rstrip(".")
        message = f"{plain}. Did you mean {near[0]!r}?"
    if "extra argument" in message:
        message += (
            ". Attacks go with -a, defenses with -d; a spec with parameters goes in quotes: "
            "-a 'pgd steps=100'"
        )
    command = getattr(getattr(error, "ctx", None), "command_path", "rbl")
    return f"{message}{'' if message.endswith('?') else '.'} See `{command} --help`."


def _say_error(message: str) -> None:
    """Print one line on stderr, whatever ``message`` looks like: a file name may be no text."""
    message = printable(message.encode("utf-8", errors="backslashreplace").decode())
    typer.echo(
        f"{typer.style('Error:', fg='red', bold=True)} {' '.join(message.split())}", err=True
    )
