"""The workflows call nothing but `rbl` commands that exist and run, and nobody can slip code into
them.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from robustbench_lite import __version__
from robustbench_lite.cli import main
from tests.end_to_end.boards import measured_board

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
#: What the workflow's environment holds when a command runs.
ENVIRONMENT = {"BOARD": "tiny", "SHARD": "1/2", "BASE": "HEAD", "GITHUB_RUN_ID": "17"}


def read(path: Path) -> dict[Any, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in read(path)["jobs"].values():
        yield from job["steps"]


def commands() -> list[str]:
    """Every line of a workflow that starts with ``rbl``."""
    lines = [
        line.strip()
        for path in WORKFLOWS
        for step in steps(path)
        for line in step.get("run", "").splitlines()
    ]
    return sorted({line for line in lines if re.match(r"rbl\b", line)})


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with a measured board."""
    folder = tmp_path_factory.mktemp("repository")
    measured_board(folder / "leaderboards")
    for words in (
        ["init"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-m", "measured"],
    ):
        subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)
    return folder


def test_before_a_commit_runs_what_ci_lints() -> None:
    hooks = read(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    told = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for hook in hooks:
        assert re.search(rf"^{hook['name']}\b", told, flags=re.MULTILINE), hook["name"]
    assert len(hooks) == len(re.findall(r"^(?:ruff|mypy)\b", told, flags=re.MULTILINE))


def test_a_release_is_of_the_version_that_the_package_and_the_changelog_have() -> None:
    check = [sys.executable, str(ROOT / "scripts" / "check_release.py")]
    assert subprocess.run([*check, f"v{__version__}"], check=False).returncode == 0
    assert subprocess.run([*check, "v9.9.9"], check=False, capture_output=True).returncode == 1
    promised = re.findall(
        r'"(torch|torchvision|numpy)>=(\d+\.\d+)"',
        (ROOT / "pyproject.toml").read_text(encoding="utf-8"),
    )
    oldest = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    assert len(promised) == 3
    assert all(f"'{name}=={version}.*'" in oldest for name, version in promised)


def test_the_leaderboard_workflow_names_the_commands_that_it_is_there_for() -> None:
    named = {line.split()[2] for line in commands() if line.startswith("rbl leaderboard")}
    assert named == {"plan", "run", "build", "check", "diff", "lock"}
    assert any("check --rerun" in line for line in commands())


@pytest.mark.parametrize("command", commands())
def test_each_rbl_command_of_a_workflow_runs(
    command: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(repository, tmp_path / "repository"))
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    words = shlex.split(os.path.expandvars(re.split(r"\s>>?\s", command)[0]))
    assert "$" not in "".join(words)
    assert main(words[1:]) == 0


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    used = re.findall(r"uses:\s*(\S+)(.*)", path.read_text(encoding="utf-8"))
    assert used
    for action, comment in used:
        assert re.fullmatch(r"(actions/[\w-]+|pypa/gh-action-pypi-publish)@[0-9a-f]{40}", action), (
            action
        )
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_permissions_are_read_only_unless_a_job_that_no_pull_request_starts_says_more(
    path: Path,
) -> None:
    workflow = read(path)
    triggers = workflow[True]  # YAML 1.1 reads the key `on` as a truth value
    assert workflow["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in triggers
    assert "workflow_run" not in triggers
    for name, job in workflow["jobs"].items():
        if "write" in job.get("permissions", {}).values() and "pull_request" in triggers:
            assert closed_to_pull_requests(workflow["jobs"], name), name
    assert "secrets." not in path.read_text(encoding="utf-8")


def closed_to_pull_requests(jobs: dict[str, Any], name: str) -> bool:
    """The job, or one that it needs, runs on other events only."""
    job = jobs[name]
    condition = str(job.get("if", ""))
    if "github.event_name ==" in condition and "pull_request" not in condition:
        return True
    needed = job.get("needs", [])
    return any(
        closed_to_pull_requests(jobs, other)
        for other in ([needed] if isinstance(needed, str) else needed)
    )


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_no_text_of_an_event_is_pasted_into_a_script(path: Path) -> None:
    for step in steps(path):
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_checkout_keeps_no_credentials_and_every_job_has_an_end(path: Path) -> None:
    for step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    assert all(job["timeout-minutes"] > 0 for job in read(path)["jobs"].values())
