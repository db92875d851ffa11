"""``rbl leaderboard``: measure, build and check the boards of a folder. One file a command."""

from __future__ import annotations

import typer

from robustbench_lite.cli.leaderboard import build, check, diff, lock, migrate, plan, run

app = typer.Typer(
    help="Boards that anyone can re-derive: plan, run, build, check, diff.", no_args_is_help=True
)
app.command("plan")(plan.plan)
app.command("run")(run.run)
app.command("build")(build.build)
app.command("check")(check.check)
app.command("migrate")(migrate.migrate)
app.command("diff")(diff.diff)
app.command("lock")(lock.lock)
