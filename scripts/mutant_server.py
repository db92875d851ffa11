"""Run tests for ``mutants.py``, in a process that has the big packages in memory.

Nothing of this project is imported here, so that each child sees the files as they are.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys

PASSED = 0
FAILED = 1
"""Exit codes of pytest; the others are errors of collection or of use."""
TIMEOUT = 900
"""Seconds for the tests of one mutant; a mutant that never ends is killed, too."""
_PRELOADED = (
    "torch",
    "torchvision",
    "scipy.stats",
    "scipy.ndimage",
    "pydantic",
    "pandas",
    "safetensors.torch",
    "matplotlib",
    "typer",
    "pytest",
)


def serve() -> None:
    """Run the tests that each line of the input names, and print the exit code.

    They run in a child of this process, which finds the big packages in memory: to import them
    would take longer than most tests do.
    """
    for package in _PRELOADED:
        importlib.import_module(package)
    for line in sys.stdin:
        said, *tests = json.loads(line)
        child = os.fork()
        if not child:
            with open(said, "w", encoding="utf-8") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(TIMEOUT)
            pytest = importlib.import_module("pytest")
            code = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests])
            sys.stdout.flush()
            os._exit(int(code))
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(FAILED if code < 0 else code, flush=True)  # killed by its alarm, or it crashed


if __name__ == "__main__":
    serve()
