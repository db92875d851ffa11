"""Refuse a tag that is not the package's version, or that the changelog does not know.

python scripts/check_release.py v0.1.0
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def version() -> str:
    """The version of the package; it stands in one file."""
    text = (ROOT / "robustbench_lite" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if found is None:
        raise SystemExit("robustbench_lite/__init__.py says no __version__.")
    return found[1]


def main(tag: str) -> None:
    """Exit with a message unless ``tag`` can be released."""
    if tag != f"v{version()}":
        raise SystemExit(
            f"The tag is {tag}, the package is {version()}: tag v{version()}, or change "
            "__version__ first."
        )
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(
        rf"^## {re.escape(version())} - \d{{4}}-\d\d-\d\d$", changelog, flags=re.MULTILINE
    ):
        raise SystemExit(f"CHANGELOG.md has no section '## {version()} - YYYY-MM-DD'.")
    print(f"{tag} can be released.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
