"""Break one line at a time and see whether the tests go red: a test that cannot fail says nothing.

    python scripts/mutants.py             # all; continues where an earlier run was stopped
    python scripts/mutants.py --only bounds/      # those whose file or reason contains the text
    python scripts/mutants.py --check     # only whether every text is still there

The mutants stand in scripts/mutants/*.toml. Each names a file, a text that occurs in it exactly
once, what takes its place, why that would be a fault, and the tests that must notice it. A mutant
that no test can notice says so (``equivalent``) and is not run. Exit code 1: fewer than 95 % were
killed, or one could not be run; 2: a text is not there exactly once.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mutant_lists import ROOT, Mutant, StaleError, read_lists
from mutant_runs import BROKEN, KILLED, SURVIVED, try_all

ENOUGH = 0.95
"""The share of mutants that must be killed."""


class State:
    """Results so far, in a file: a run that is stopped goes on from there."""

    def __init__(self, path: Path, fresh: bool) -> None:
        self.path = path
        self.known: dict[str, str] = {}
        if path.exists() and not fresh:
            self.known = json.loads(path.read_text())

    def add(self, fingerprint: str, outcome: str) -> None:
        """Keep what became of the mutant with that fingerprint."""
        self.known[fingerprint] = outcome
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.known, indent=1, sort_keys=True))
        part.replace(self.path)


def room_of(file: str) -> str:
    """Name the room of the project that a file stands in."""
    parts = Path(file).parts
    if parts[0] == "robustbench_lite" and len(parts) > 2:
        return parts[1]
    return Path(parts[0 if len(parts) > 2 else -1]).stem


def report(mutants: Sequence[Mutant], state: State) -> int:
    """Print what came of all; returns the exit code."""
    explained = [mutant for mutant in mutants if mutant.equivalent]
    results = {
        mutant: state.known.get(mutant.fingerprint(), "changed since")
        for mutant in mutants
        if not mutant.equivalent
    }
    count = Counter(results.values())
    rooms: dict[str, Counter[str]] = {}
    for mutant, outcome in results.items():
        rooms.setdefault(room_of(mutant.file), Counter())[outcome] += 1
    for room, part in sorted(rooms.items()):
        print(f"  {room:14} {part[KILLED]:3} of {part.total():3}")
    for mutant, outcome in results.items():
        if outcome != KILLED:
            print(f"{outcome}: {mutant.label}")
    counts = (
        f"{len(results)} mutants, {count[KILLED]} killed, {count[SURVIVED]} survived, "
        f"{count[BROKEN]} broken"
    )
    reasons = f"; {len(explained)} more that no test can notice, each with its reason"
    print(counts + (reasons if explained else ""))
    return int(count[KILLED] < ENOUGH * len(results) or count[BROKEN] > 0)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--only", default="", help="those whose file or reason contains this text")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument(
        "--check", action="store_true", help="only check that the list is in step with the code"
    )
    parser.add_argument(
        "--state", type=Path, default=ROOT / ".mutants.json", help="where results are kept"
    )
    return parser.parse_args()


def run(mutants: Sequence[Mutant], state: State, jobs: int) -> None:
    """Try all mutants out that no result is known of, and say how far it is."""
    # Of the files as they are now: a result holds for these.
    fingerprints = {mutant: mutant.fingerprint() for mutant in mutants if not mutant.equivalent}
    todo = [mutant for mutant, known_by in fingerprints.items() if known_by not in state.known]
    started = time.monotonic()
    for number, outcome in enumerate(try_all(todo, jobs), 1):
        state.add(fingerprints[outcome.mutant], outcome.state)
        left = (time.monotonic() - started) / number * (len(todo) - number)
        ends = time.strftime("%H:%M", time.localtime(time.time() + left))
        label = f"{outcome.state:8} {outcome.mutant.label}"
        print(f"{number}/{len(todo)}, ends about {ends}: {label}", flush=True)
        if outcome.said:
            print(outcome.said)


def main() -> int:
    options = parse()
    mutants = [mutant for mutant in read_lists() if options.only in mutant.label]
    try:
        for mutant in mutants:
            mutant.check()
    except StaleError as error:
        print(error, file=sys.stderr)
        return 2
    if options.check:
        print(f"{len(mutants)} mutants, each in step with the code")
        return 0
    state = State(options.state, options.fresh)
    run(mutants, state, options.jobs)
    return report(mutants, state)


if __name__ == "__main__":
    sys.exit(main())
