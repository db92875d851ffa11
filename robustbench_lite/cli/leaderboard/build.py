"""``rbl leaderboard build``: render tables and page."""

from __future__ import annotations

from typing import Annotated

from robustbench_lite.cli import options as opt
from robustbench_lite.cli.leaderboard.shared import ROOT, Root, collect_seldom
from robustbench_lite.cli.leaderboard.text import tell
from robustbench_lite.errors import CheckFailed


@collect_seldom()
def build(
    root: Root = ROOT,
    networks: Annotated[str | None, opt.Networks] = None,
    allow_code: Annotated[bool, opt.BoardCode] = False,
) -> None:
    """Render every table and the page from boards and records, the same bytes on any machine."""
    from robustbench_lite.leaderboard.build import build as render
    from robustbench_lite.leaderboard.build import write

    built = render(root, opt.trust_in_files(allow_code))
    if built.problems:
        tell(built.problems)
        raise CheckFailed(f"{len(built.problems)} records cannot be believed: nothing was written.")
    changed = write(root, built.files)
    print("\n".join(str(root / name) for name in changed) or "Everything is up to date.")
