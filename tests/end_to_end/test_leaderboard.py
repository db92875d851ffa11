"""Boards from the declaration to the page, as a user would do it; and whatever is changed by hand
is caught, with its name.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from robustbench_lite.leaderboard import lock
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.records.cell import Record, make_record, read_record, write_record
from tests.end_to_end.boards import BOARD, PGD, declare, measured_board
from tests.end_to_end.browser import Page, browser, found
from tests.end_to_end.conftest import Rbl

PROGRAM = "import sys; from robustbench_lite.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A leaderboards folder with one board, measured, locked and built."""
    return measured_board(tmp_path_factory.mktemp("boards"))


@pytest.fixture
def root(measured: Path, tmp_path: Path) -> Path:
    """A copy of the measured folder, to be changed."""
    return Path(shutil.copytree(measured, tmp_path / "leaderboards"))


def cells(root: Path) -> list[Path]:
    return sorted((root / "results" / "tiny" / "cells").glob("*.json"))


def record_of(root: Path, attack: str, defense: str, eps: float = 0.1) -> Path:
    for path in cells(root):
        identity = read_record(path)[0].identity
        if (identity.attack.name, identity.defense.name, identity.threat.eps) == (
            attack,
            defense,
            eps,
        ):
            return path
    raise AssertionError("no such record")


def contents(root: Path) -> dict[str, bytes]:
    paths = [*(root / "tables").iterdir(), root / "index.html", root / "README.md"]
    return {path.name: path.read_bytes() for path in paths}


def digests(root: Path) -> dict[str, str]:
    return {path.name: read_record(path)[0].digest for path in cells(root)}


def test_a_measured_board_checks_and_measures_nothing_twice(rbl: Rbl, root: Path) -> None:
    checked = rbl("leaderboard", "check", "--root", str(root))
    assert checked.code == 0, checked.out
    assert "1 boards (tiny 8 cells in " in checked.out
    before = {path: path.stat().st_mtime_ns for path in cells(root)}
    assert "0 cells measured" in rbl("leaderboard", "run", "--root", str(root)).out
    assert before == {path: path.stat().st_mtime_ns for path in cells(root)}
    assert rbl("leaderboard", "plan", "--root", str(root)).out == "Every cell is measured.\n"


def test_the_tables_are_the_same_bytes_in_another_folder_locale_and_process(
    root: Path, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere" / "b"
    shutil.copytree(root, other)
    for path in [*(other / "tables").iterdir(), other / "index.html"]:
        path.unlink()
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "TZ": "Asia/Tokyo",
        "PYTHONHASHSEED": "7",
        "PYTHONUTF8": "0",
    }
    command = [sys.executable, "-c", PROGRAM, "leaderboard", "build", "--root", str(other)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert contents(other) == contents(root)


def test_shards_jobs_and_batch_sizes_end_in_the_same_digests_and_tables(
    rbl: Rbl, root: Path, tmp_path: Path
) -> None:
    other = tmp_path / "shards"
    declare(other)
    common = ("leaderboard", "run", "tiny", "-q", "--root", str(other))
    assert rbl(*common, "--shard", "2/3", "--batch-size", "5").code == 0
    assert 0 < len(cells(other)) < len(cells(root))
    assert rbl(*common, "--jobs", "2", "--batch-size", "64").code == 0
    assert rbl("leaderboard", "build", "--root", str(other)).code == 0
    assert digests(other) == digests(root)
    tables = {
        name: text
        for name, text in contents(other).items()
        if name.endswith((".md", ".csv", ".tex"))
    }
    assert tables == {name: text for name, text in contents(root).items() if name in tables}


def test_each_cell_is_in_one_shard_and_the_matrix_names_those_with_work(
    rbl: Rbl, root: Path
) -> None:
    record_of(root, "pgd", "none").unlink()
    parts = [
        json.loads(
            rbl(
                "leaderboard", "plan", "--root", str(root), "--shard", f"{i}/3", "--format", "json"
            ).out
        )
        for i in (1, 2, 3)
    ]
    assert sorted(len(part["cells"]) for part in parts) == [0, 0, 1]
    matrix = json.loads(
        rbl(
            "leaderboard", "plan", "--root", str(root), "--format", "github-matrix", "--shards", "3"
        ).out
    )
    (entry,) = matrix["include"]
    busy = next(i for i, part in enumerate(parts, 1) if part["cells"])
    assert entry == {"board": "tiny", "shard": f"{busy}/3"}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="it looks processes up in /proc")
def test_a_run_that_is_killed_takes_its_workers_along(tmp_path: Path) -> None:
    root = tmp_path / "slow"
    declare(root, BOARD.replace("pgd steps=6", "pgd steps=20000"))
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        "leaderboard",
        "run",
        "--jobs",
        "2",
        "--root",
        str(root),
    ]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # Two, and what tracks their semaphores.
        workers = eventually(lambda: pids if len(pids := children(run.pid)) >= 3 else [], 60)
    finally:
        run.kill()
        run.wait()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 30)


def children(pid: int) -> list[int]:
    """Processes that ``pid`` started and that run."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


T = TypeVar("T")


def eventually(look: Callable[[], T], seconds: float) -> T:
    """What ``look`` finds, once it finds something."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def test_the_command_behind_a_cell_gives_the_same_digest(
    rbl: Rbl, root: Path, tmp_path: Path
) -> None:
    doc = json.loads((root / "tables" / "tiny.json").read_text())
    part = doc["rows"][0]["threats"]["linf"]["attacks"]["linf/pgd"]
    words = shlex.split(part["command"])
    assert words[:2] == ["rbl", "evaluate"]
    again = json.loads(
        rbl(*words[1:], "--format", "json", "-q", "--output", str(tmp_path / "again")).out
    )
    assert again["cells"][0]["digest"] == part["digest"]


@pytest.mark.parametrize(
    "arguments",
    [["leaderboard", "--help"], ["leaderboard", "check", "--help"], ["report", "--help"]],
)
def test_help_imports_no_torch(arguments: list[str]) -> None:
    words = f"code = main({arguments!r}); sys.exit(code or 'torch' in sys.modules)"
    program = f"import sys; from robustbench_lite.cli import main; {words}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# What is changed by hand


def expect(rbl: Rbl, root: Path, *words: str, options: tuple[str, ...] = ()) -> None:
    """The check fails, and says each of ``words``."""
    result = rbl("leaderboard", "check", "--root", str(root), *options)
    assert result.code == 1, result.out
    for word in words:
        assert word in result.out


def test_one_bit_of_a_bitset_is_caught(rbl: Rbl, root: Path) -> None:
    path = record_of(root, "fgsm", "none")
    record = json.loads(path.read_text())
    bits = bytearray(base64.b64decode(record["outcomes"]["broken"]))
    bits[1] ^= 1
    record["outcomes"]["broken"] = base64.b64encode(bits).decode()
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    expect(rbl, root, path.name, "was changed", "digest")


@pytest.mark.parametrize("suffix", ["md", "csv", "json", "tex"])
def test_one_digit_of_a_table_is_caught_and_shown(rbl: Rbl, root: Path, suffix: str) -> None:
    path = root / "tables" / f"tiny.{suffix}"
    text = path.read_text()
    place = re.search(r"\d\.\d", text)
    assert place is not None
    digit = str((int(text[place.start()]) + 1) % 10)
    path.write_text(text[: place.start()] + digit + text[place.start() + 1 :])
    expect(
        rbl,
        root,
        f"tables/tiny.{suffix}",
        "it is not what the records give",
        "rbl leaderboard build",
    )
    assert rbl("leaderboard", "build", "--root", str(root)).out == f"{path}\n"
    assert rbl("leaderboard", "check", "--root", str(root)).code == 0


def test_one_digit_of_the_page_or_of_a_page_that_takes_a_table_in_is_caught(
    rbl: Rbl, root: Path
) -> None:
    for name in ("index.html", "README.md"):
        path = root / name
        text = path.read_text()
        path.write_text(text.replace("n = 24", "n = 25", 1))
        assert path.read_text() != text
        expect(rbl, root, name, "not what the records give")
        path.write_text(text)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (
            PGD,
            PGD.replace("6", "7", 1),
            "attack.parameters.steps: the board asks for 7, the record has 6",
        ),
        ('eps = "0.1"', 'eps = "0.15"', "threat.eps: the board asks for 0.15, the record has 0.1"),
        (
            "n = 24",
            "n = 23",
            "data.id_ranges: the board asks for [[0, 23]], the record has [[0, 24]]",
        ),
        (
            'title = "Tiny"',
            'title = "Tiny"\nseed = 1',
            "seed: the board asks for 1, the record has 0",
        ),
    ],
)
def test_one_hyper_parameter_of_a_board_is_caught_with_both_values(
    rbl: Rbl, root: Path, old: str, new: str, what: str
) -> None:
    assert old in BOARD
    declare(root, BOARD.replace(old, new))
    expect(rbl, root, what, "rbl leaderboard run tiny --prune")
    stale = rbl("leaderboard", "plan", "--root", str(root)).out
    assert "out of date" in stale


def test_a_stale_board_is_mended_by_run_prune_and_build(rbl: Rbl, root: Path) -> None:
    declare(root, BOARD.replace("n = 24", "n = 23"))
    assert rbl("leaderboard", "run", "--root", str(root), "--prune").code == 0
    assert rbl("leaderboard", "build", "--root", str(root)).code == 0
    checked = rbl("leaderboard", "check", "--root", str(root))
    assert checked.code == 0, checked.out
    assert len(cells(root)) == 8


@pytest.mark.parametrize(("kind", "name"), [("attack", "pgd"), ("defense", "none")])
def test_one_line_of_an_implementation_is_caught_with_the_command_that_mends_it(
    rbl: Rbl, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    module, copy = f"rbl_{kind}s.{name}", tmp_path / f"{name}.py"
    original = lock._file_of(module)
    assert original is not None
    monkeypatch.setattr(
        lock,
        "_file_of",
        lambda wanted, find=lock._file_of: copy if wanted == module else find(wanted),
    )
    common = ("--root", str(root))

    copy.write_text(original.read_text() + "\n# a comment changes nothing\n")
    assert rbl("leaderboard", "check", *common).code == 0
    copy.write_text(original.read_text() + "\nONE_LINE_MORE = 1\n")
    changed = "its source was changed, and it is still version 1"
    expect(rbl, root, f"{kind} {name}: {changed}", f"rbl leaderboard lock {name} --same-verdicts")
    refused = rbl("leaderboard", "lock", *common)
    assert refused.code == 2
    assert "Raise the version" in refused.err
    assert rbl("leaderboard", "lock", name, "--same-verdicts", *common).code == 0
    assert rbl("leaderboard", "check", *common).code == 0


def test_a_record_of_another_name_and_a_file_that_nobody_knows_are_caught(
    rbl: Rbl, root: Path
) -> None:
    path = record_of(root, "fgsm", "none")
    path.rename(path.with_stem("0" * 32))
    (root / "results" / "tiny" / "cells" / "notes.txt").write_text("x")
    (root / "tables" / "old.md").write_text("x")
    expect(
        rbl,
        root,
        "the file is not named after its key",
        "cells/notes.txt: nothing accounts for this file",
        "tables/old.md",
    )


def forge(path: Path, change: Callable[[np.ndarray], None]) -> Record:
    """Change verdicts of a record and seal it anew, as somebody who knows how would."""
    record, arrays = read_record(path)
    change(arrays.broken)
    sealed = make_record(record.identity, arrays, record.provenance, record.behaviour)
    write_record(sealed, path)
    return sealed


def test_a_forged_verdict_is_caught_by_measuring_again_and_by_nothing_else(
    rbl: Rbl, root: Path
) -> None:
    path = record_of(root, "pgd", "none", 0.2)

    def hold(broken: np.ndarray) -> None:
        broken[:] = False

    forge(path, hold)
    assert rbl("leaderboard", "build", "--root", str(root)).code == 0
    assert rbl("leaderboard", "check", "--root", str(root)).code == 0
    expect(
        rbl,
        root,
        path.name,
        "is recorded as robust; measured again, it is broken",
        options=("--rerun", "16"),
    )


def test_measuring_again_agrees_with_what_was_measured(rbl: Rbl, root: Path) -> None:
    result = rbl("leaderboard", "check", "--root", str(root), "--rerun", "3", "--salt", "another")
    assert result.code == 0, result.out
    assert "24 samples of 8 cells were measured again" in result.out
    few = rbl("leaderboard", "check", "--root", str(root), "--rerun", "2", "--rerun-queries", "20")
    assert few.code == 0
    assert "were left out" in few.out


def test_a_board_whose_images_are_not_here_is_left_out_by_name(
    rbl: Rbl, root: Path, tmp_path: Path
) -> None:
    text = (
        BOARD.replace('"fashion_mnist"', '"cifar10-jpeg"')
        .replace("bundled = true\n", "")
        .replace("gallery = 1\n", "")
    )
    (root / "boards" / "elsewhere.toml").write_text(text)
    where = ("--root", str(root))
    assert rbl("leaderboard", "build", *where).code == 0
    checked = rbl("leaderboard", "check", *where, "--rerun", "1", "--data-dir", str(tmp_path))
    assert checked.code == 0, checked.out
    assert "8 samples of 8 cells" in checked.out
    assert "without the images of elsewhere (--data-dir)" in checked.out
    planned = json.loads(rbl("leaderboard", "plan", *where, "--format", "json").out)["cells"]
    assert {cell["board"] for cell in planned} == {"elsewhere"}
    assert json.loads(rbl("leaderboard", "plan", *where, "--format", "github-matrix").out) == {
        "include": []
    }


def test_cells_of_a_row_that_disagree_on_a_clean_image_are_caught(rbl: Rbl, root: Path) -> None:
    path = record_of(root, "pgd", "none", 0.2)
    record, arrays = read_record(path)
    sample = int(np.flatnonzero(arrays.clean_correct)[0])
    arrays.clean_correct[sample] = arrays.broken[sample] = False
    write_record(make_record(record.identity, arrays, record.provenance, record.behaviour), path)
    assert rbl("leaderboard", "build", "--root", str(root)).code == 0
    expect(rbl, root, f"differ on the clean image {sample}")


def test_a_sample_that_one_cell_certifies_and_another_breaks_is_caught(
    rbl: Rbl, root: Path
) -> None:
    arrays = read_record(record_of(root, "fgsm", "none"))[1]
    path = record_of(root, "pgd", "none")
    record, weaker = read_record(path)
    sample = int(np.flatnonzero(arrays.broken[: weaker.n])[0])
    weaker.broken[:] = False
    (root / "results" / "tiny" / "gallery" / path.name).unlink()
    weaker.certified = np.arange(weaker.n) == sample
    write_record(make_record(record.identity, weaker, record.provenance, record.behaviour), path)
    assert rbl("leaderboard", "build", "--root", str(root)).code == 0
    expect(rbl, root, f"sample {sample} is certified and not robust under fgsm")


def test_rows_of_a_column_on_other_images_are_caught(rbl: Rbl, root: Path) -> None:
    path = record_of(root, "pgd", "none", 0.2)
    record, arrays = read_record(path)
    data = record.identity.data.model_copy(update={"fingerprint": "0" * 64})
    identity = record.identity.model_copy(update={"data": data})
    other = make_record(identity, arrays, record.provenance, record.behaviour)
    path.unlink()
    write_record(other, path.with_stem(other.key))
    assert rbl("leaderboard", "build", "--root", str(root)).code == 0
    expect(rbl, root, "its rows are measured on different samples")


def test_a_row_whose_records_are_of_two_networks_is_caught(rbl: Rbl, root: Path) -> None:
    path = record_of(root, "pgd", "none", 0.2)
    record, arrays = read_record(path)
    assert record.behaviour is not None
    answers = Behaviour.of(
        record.behaviour.array() + 1, fixed=record.behaviour.fixed, probes=record.behaviour.probes
    )
    write_record(make_record(record.identity, arrays, record.provenance, answers), path)
    expect(rbl, root, path.name, "answer otherwise")
    write_record(make_record(record.identity, arrays, record.provenance, None), path)
    expect(rbl, root, path.name, "do not say what its network answers")


# A network from elsewhere


def test_a_submitted_network_is_measured_and_replayed_and_its_code_runs_only_when_it_is_allowed_to(
    rbl: Rbl, root: Path, own_network: tuple[str, ...]
) -> None:
    source, weights = own_network[1].rpartition(":")[0], own_network[3]
    (root / "entries").mkdir()
    shutil.copyfile(source, root / "entries" / "net.py")
    shutil.copyfile(weights, root / "entries" / "net.safetensors")
    row = (
        '[[rows]]\nname = "theirs"\nmodel = "entries/net.py:linear"\n'
        'weights = "entries/net.safetensors"\n'
    )
    declare(root, BOARD.replace("[[threats]]", f"{row}[[threats]]", 1))
    common = ("--root", str(root))
    refused = rbl("leaderboard", "run", *common)
    assert refused.code == 3
    assert "--allow-code" in refused.err
    assert rbl("leaderboard", "run", *common, "--allow-code", "-q").code == 0
    assert rbl("leaderboard", "build", *common).code == 0
    (root / "entries" / "net.py").rename(
        root / "entries" / "moved.py"
    )  # the check runs no code, so it misses none
    assert rbl("leaderboard", "check", *common).code == 0
    (root / "entries" / "moved.py").rename(root / "entries" / "net.py")
    assert rbl("leaderboard", "check", *common, "--rerun", "1", "--allow-code").code == 0
    assert "theirs" in (root / "tables" / "tiny.md").read_text()
    (root / "entries" / "net.safetensors").write_bytes(
        (root / "entries" / "net.safetensors").read_bytes()[:-4] + b"\0\0\0\1"
    )
    expect(rbl, root, "model.weights_sha256: the board asks for")


def test_defenses_that_draw_and_that_reject_are_measured_and_shown(
    rbl: Rbl, tmp_path: Path
) -> None:
    head, rest = BOARD.split('[[rows]]\ndefense = "none"', 1)
    rows = (
        '[[rows]]\ndefense = "gaussian_noise"\n'
        '[[rows]]\ndefense = "feature_squeezing detect=true"\n'
    )
    declare(
        tmp_path,
        head
        + rows
        + rest[rest.index("[[threats]]") :].split('[[threats.attacks]]\nattack = "pgd')[0],
    )
    assert rbl("leaderboard", "run", "-q", "--root", str(tmp_path)).code == 0
    shown = [
        json.loads(path.read_text())["examples"]
        for path in (tmp_path / "results" / "tiny" / "gallery").iterdir()
    ]
    assert len(shown) == 2
    assert all(one["before"] != one["after"] for examples in shown for one in examples)
    assert rbl("leaderboard", "run", "--root", str(tmp_path)).out.count("done") == 0


# What came of it


def test_the_difference_between_two_states_names_the_cell_that_changed(
    rbl: Rbl, root: Path, measured: Path
) -> None:
    assert rbl("leaderboard", "diff", str(measured), str(root)).out == "Nothing changed.\n"

    def hold(broken: np.ndarray) -> None:
        broken[:] = False

    path = record_of(root, "pgd", "none")
    (root / "results" / "tiny" / "gallery" / path.name).unlink()
    forge(path, hold)
    assert rbl("leaderboard", "build", "--root", str(root)).code == 0
    changed = rbl("leaderboard", "diff", str(measured), "--root", str(root)).out
    assert re.search(
        r"tiny: fashion_mnist-none \(none\), Linf 0.1, pgd: 0.0 % .* -> \d\d\.\d % ", changed
    )
    assert "adversarial_training)" not in changed


def test_two_revisions_are_compared(rbl: Rbl, root: Path, tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("add", "leaderboards/boards")
    git("commit", "-m", "declared")
    git("add", "leaderboards")
    git("commit", "-m", "measured")
    assert (
        "tiny: the board is new, 2 rows"
        in rbl("leaderboard", "diff", "HEAD~1", "HEAD", "--root", str(root)).out
    )
    assert rbl("leaderboard", "diff", "HEAD", "--root", str(root)).out == "Nothing changed.\n"
    wrong = rbl("leaderboard", "diff", "no-such-branch", "--root", str(root))
    assert wrong.code == 2
    assert "neither a folder nor a revision" in wrong.err


def test_a_page_takes_a_table_in(root: Path) -> None:
    text = (root / "README.md").read_text()
    assert "old" not in text
    assert text.count("| adversarial_training |") == 1
    assert "n = 24" in text


def test_a_run_of_ones_own_becomes_a_page(
    rbl: Rbl, own_network: tuple[str, ...], tmp_path: Path
) -> None:
    assert (
        rbl(
            "evaluate",
            *own_network,
            "-a",
            "fgsm",
            "-a",
            "pgd steps=3",
            "--limit",
            "40",
            "-q",
            "--output",
            "mine",
        ).code
        == 0
    )
    result = rbl("report", "mine", "--title", "My network")
    assert result.code == 0, result.err
    assert result.out == "Report: mine/report.html\n"
    text = Path("mine/report.html").read_text()
    assert "<h1>My network</h1>" in text
    assert "pgd" in text
    assert len(text) < 1_000_000
    missing = rbl("report", "nowhere")
    assert missing.code == 2
    assert "nowhere" in missing.err


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    program = found()
    if program is None:
        pytest.skip(
            "no headless browser is installed: apt-get install chromium-headless-shell, or set "
            "RBL_BROWSER"
        )
    with browser(program) as page:
        yield page


def column(page: Page, number: int) -> list[str]:
    return list(
        page.run(
            "[...document.querySelectorAll('tbody tr:not([hidden])')].map((r) => "
            f"r.cells[{number}].textContent.replace('⚑', '').trim())"
        )
    )


def test_the_page_sorts_filters_and_opens_a_cell_by_keyboard(page: Page, root: Path) -> None:
    page.open(root / "index.html")
    assert page.run("document.title") == "robustbench_lite leaderboards"
    assert column(page, 2) == ["adversarial_training", "none"]
    page.run("document.querySelectorAll('thead button')[2].focus()")
    page.press("Enter")
    page.press("Enter")
    assert column(page, 2) == ["none", "adversarial_training"]
    assert (
        page.run("document.querySelectorAll('thead th')[2].getAttribute('aria-sort')")
        == "descending"
    )
    page.run("document.querySelector('input').focus()")
    page.type("adv")
    assert column(page, 2) == ["adversarial_training"]
    assert page.run("document.querySelector('[role=status]').textContent") == "1 of 2 rows"
    page.run("document.querySelector('tbody tr:not([hidden]) button').focus()")
    page.press("Enter")
    assert page.run("document.querySelector('dialog').open")
    told = page.run("document.querySelector('dialog').textContent")
    for word in ("rbl evaluate --attack", "adversarial_training under fgsm", "torch", "digest"):
        assert word in told
    record = page.run("document.getElementById('cell-record').href")
    assert Path(record.removeprefix("file://")).is_file()
    page.press("Escape")
    assert not page.run("document.querySelector('dialog').open")
    assert page.errors == []


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_the_page_fits_its_window_and_follows_the_colour_scheme(
    page: Page, root: Path, width: int, dark: bool
) -> None:
    page.open(root / "index.html", width=width, dark=dark)
    assert page.run("document.documentElement.scrollWidth") <= width
    lightness = page.run(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, "
        "3).map(Number).reduce((a, b) => a + b)"
    )
    assert (lightness < 3 * 128) is dark
    assert page.run("document.querySelectorAll('svg').length") == 4
    assert page.run("[...document.images].every((image) => image.naturalWidth > 0)")
    assert page.run("document.images.length") == 12
    assert page.errors == []


def test_the_page_is_small_and_asks_for_nothing(root: Path) -> None:
    text = (root / "index.html").read_text()
    assert len(text.encode()) < 1_000_000
    assert not re.findall(r'(?:src|href)="(?!data:|#|results/)[^"]+"', text)
