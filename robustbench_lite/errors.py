"""Every error this toolkit raises on purpose.

RobustBenchError
├── UsageError            exit 2   the input is wrong; the message says what is allowed
│   ├── UnknownNameError           no attack, defense, data set or key has that name
│   ├── DataError                  images, labels or data files that cannot be used
│   ├── ModelError                 a network that cannot be evaluated as it is
│   │   └── UnsupportedLayerError         it has a layer that no bound is known for
│   ├── WeightsError               weights that are missing, damaged or do not fit
│   └── RecordError                a record or journal that is damaged or was changed
├── CheckFailed           exit 1   a gate or a re-check did not hold
├── CellError             exit 3   a cell could not be measured
│   ├── AttackError                an attack left the ball, the bounds or the real numbers
│   └── ContradictionError         a sample is certified and broken: stops the whole run
└── MissingDependency     exit 4   an optional package is not installed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_LONGEST = 300
"""Characters of a foreign message that are repeated."""


class RobustBenchError(Exception):
    """Base of the tree; ``exit_code`` is what the command line returns for it."""

    exit_code = 1


class UsageError(RobustBenchError):
    exit_code = 2


class UnknownNameError(UsageError):
    """``UnknownNameError("attack", "pdg", ["fgsm", "pgd"])`` reads "No attack is named 'pdg'. Did
    you mean 'pgd'? ...".
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=5)
        # Two letters that changed places are the likelier slip.
        close.sort(key=lambda other: sorted(other) != sorted(name))
        hint = f" Did you mean {close[0]!r}?" if close else ""
        super().__init__(f"No {kind} is named {name!r}.{hint} Known: {', '.join(names) or 'none'}.")
        self.kind = kind
        self.name = name
        self.known = names


class DataError(UsageError):
    pass


class ModelError(UsageError):
    pass


class UnsupportedLayerError(ModelError):
    pass


class WeightsError(UsageError):
    pass


class RecordError(UsageError):
    pass


class CheckFailed(RobustBenchError):
    exit_code = 1


class CellError(RobustBenchError):
    exit_code = 3


class AttackError(CellError):
    pass


class ContradictionError(CellError):
    pass


class MissingDependency(RobustBenchError):
    exit_code = 4


@contextmanager
def as_model_error(what: str) -> Iterator[None]:
    """Whatever a user's network raises inside becomes a ModelError: ``what``, and what was
    raised.
    """
    try:
        yield
    except RobustBenchError:
        raise
    except Exception as error:  # a network raises whatever it likes
        raise ModelError(f"{what}: {told(error)}") from error


def told(error: BaseException) -> str:
    """What code that is not ours raised, as one sentence: its first line, its kind and, where one
    is known, the mend.
    """
    first = next(
        (line.strip() for line in str(error).splitlines() if line.strip()), "without a word"
    )
    said = f"{first[:_LONGEST].rstrip('.')} ({type(error).__name__})."
    if isinstance(error, MemoryError) or any(
        words in str(error).lower() for words in ("out of memory", "not enough memory")
    ):
        return f"{said} Lower --batch-size."
    return (
        f"{said} Batch norm learns nothing from a single image: raise --batch-size."
        if "more than 1 value" in first
        else said
    )
