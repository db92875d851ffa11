"""The command line as a user types it."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustbench_lite.records.cell import read_record
from robustbench_lite.search.query import Answer
from robustbench_lite.sources.load_data import load_dataset
from tests.end_to_end.conftest import Rbl

# pydantic is not on the list: typer itself imports it from version 0.29 on.
LIGHT = """
import sys
from robustbench_lite.cli import main
code = main(sys.argv[1:])
dear = {"torch", "numpy", "pandas", "matplotlib", "rbl_attacks.pgd", "rbl_defenses.none"}
heavy = dear & set(sys.modules)
sys.exit(code or bool(heavy))
"""
PROMISED_KEYS = {
    "model",
    "defense",
    "attack",
    "dataset",
    "norm",
    "eps",
    "n",
    "clean_accuracy",
    "robust_accuracy",
    "robust_interval",
    "median_distance",
    "forward_queries_mean",
    "backward_queries_mean",
    "seconds",
    "status",
    "cell_key",
}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        [],
        ["list"],
        ["list", "attacks"],
        ["evaluate", "--help"],
        ["attack", "--help"],
        ["verify", "--help"],
        ["--version"],
    ],
)
def test_help_and_list_import_neither_torch_nor_a_plugin(arguments: list[str]) -> None:
    process = subprocess.run(
        [sys.executable, "-c", LIGHT, *arguments], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip()
    assert not process.stderr


def test_the_main_job_prints_one_table_and_writes_a_record(rbl: Rbl) -> None:
    result = rbl("evaluate", "--attack", "pgd", "--defense", "parseval", "--limit", "64")
    assert result.code == 0, result.err
    assert not result.err
    for word in (
        "parseval",
        "pgd",
        "linf 0.1",
        "64",
        "95 % interval",
        "queries a sample",
        "Partial",
        "Record: rbl-results",
    ):
        assert word in result.out
    record, _ = read_record(Path(result.out.split("Record: ")[1].strip()))
    assert record.provenance.partial


def test_json_is_the_whole_of_stdout(rbl: Rbl, own_network: tuple[str, ...]) -> None:
    result = rbl(
        "evaluate",
        *own_network,
        "-a",
        "pgd steps=5",
        "-a",
        "fgsm",
        "--limit",
        "40",
        "--format",
        "json",
    )
    cells = json.loads(result.out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))[
        "cells"
    ]
    assert [cell["attack"] for cell in cells] == ["pgd steps=5", "fgsm"]
    for cell in cells:
        assert cell.keys() >= PROMISED_KEYS
        low, high = cell["robust_interval"]
        assert low <= cell["robust_accuracy"] <= high


def test_csv_and_markdown_hold_the_same_cells(rbl: Rbl, own_network: tuple[str, ...]) -> None:
    options = ("evaluate", *own_network, "-a", "fgsm", "--limit", "40", "-q", "--format")
    (row,) = csv.DictReader(io.StringIO(rbl(*options, "csv").out))
    assert (row["attack"], row["n"]) == ("fgsm", "40")
    assert rbl(*options, "md").out.startswith("| model")


def test_a_second_run_reads_the_records_and_fresh_measures_again(
    rbl: Rbl, own_network: tuple[str, ...]
) -> None:
    options = ("evaluate", *own_network, "-a", "fgsm", "--limit", "40", "--format", "json")
    runs = [json.loads(rbl(*options, *more).out)["cells"][0] for more in ((), (), ("--fresh",))]
    assert [cell["cached"] for cell in runs] == [False, True, False]
    assert len({cell["digest"] for cell in runs}) == 1


def test_a_dry_run_measures_and_writes_nothing(rbl: Rbl, own_network: tuple[str, ...]) -> None:
    options = ("evaluate", *own_network, "-a", "fgsm", "--limit", "40")
    assert "to measure" in rbl(*options, "--dry-run").out
    assert not Path("rbl-results").exists()
    cell = json.loads(rbl(*options, "--format", "json").out)["cells"][0]
    (planned,) = json.loads(rbl(*options, "--dry-run", "--format", "json").out)["cells"]
    assert (planned["key"], planned["state"]) == (cell["cell_key"], "recorded")


def test_a_dry_run_names_the_plain_cells_that_the_run_will_have(rbl: Rbl) -> None:
    options = (
        "evaluate",
        "-d",
        "feature_squeezing",
        "-a",
        "pgd steps=2",
        "--plain",
        "--limit",
        "20",
        "--format",
        "json",
    )
    planned = json.loads(rbl(*options, "--dry-run").out)["cells"]
    done = json.loads(rbl(*options).out)["cells"]
    assert [cell["key"] for cell in planned] == [cell["cell_key"] for cell in done]
    assert [cell["attack"] for cell in planned] == ["pgd steps=2", "pgd steps=2 (plain)"]


def test_a_trained_network_is_found_by_its_name(
    rbl: Rbl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBL_NETWORKS", "")  # --networks writes it, and pytest puts it back
    data = load_dataset("fashion_mnist", limit=60)
    images: dict[str, Any] = {
        f"{name}_{split}": value.numpy()
        for split in ("train", "test")
        for name, value in (("x", data.x), ("y", data.y))
    }
    np.savez("own.npz", **images)
    where = (
        "--dataset",
        "npz:own.npz",
        "--network",
        "residual",
        "--output",
        "nets",
        "-q",
        "--attack",
        "fgsm",
    )
    assert rbl("train", "--epochs", "1", "--defense", "parseval", *where).code == 0
    named = ("--model", "own-parseval-residual", "--limit", "20", "--format", "json")
    assert "No network is named" in rbl("evaluate", *named).err
    (cell,) = json.loads(rbl("evaluate", *named, "--networks", "nets").out)["cells"]
    assert (cell["model"], cell["defense"]) == ("own-parseval-residual", "parseval")
    assert "own-parseval-residual" in rbl("list", "models", "--networks", "nets").out
    assert rbl("train", "--epochs", "1", "--name", "second", *where).code == 0
    assert "second" in rbl("list", "models", "--networks", "nets").out
    assert "no slash" in rbl("train", "--epochs", "1", "--name", "a/b", *where).err


def test_all_takes_what_can_run_and_names_what_was_left_out(
    rbl: Rbl, own_network: tuple[str, ...]
) -> None:
    result = rbl(
        "evaluate",
        *own_network,
        "-a",
        "all",
        "-d",
        "all",
        "--limit",
        "20",
        "--eps",
        "0.05",
        "--dry-run",
    )
    assert "pgd" in result.out
    assert "fgsm" in result.out
    assert "boundary is left out" in result.err
    assert "parseval is left out" in result.err


def test_the_command_line_wins_over_the_config_file(rbl: Rbl, own_network: tuple[str, ...]) -> None:
    text = (
        'attack = ["pgd steps=3", "fgsm"]\neps = 0.05\nlimit = 30\n'
        'keep-adversarials = true\nformat = "json"\n'
    )
    Path("eval.toml").write_text(text)
    result = rbl("evaluate", *own_network, "--config", "eval.toml", "--eps", "1/10")
    cells = json.loads(result.out)["cells"]
    assert [(cell["attack"], cell["eps"], cell["n"]) for cell in cells] == [
        ("pgd steps=3", 0.1, 30),
        ("fgsm", 0.1, 30),
    ]
    assert len(list(Path("rbl-results/cells").glob("*.npz"))) == 2


def test_probabilities_can_be_declared(rbl: Rbl, own_network: tuple[str, ...]) -> None:
    model = own_network[1].replace(":linear", ":probabilities")
    result = rbl(
        "evaluate", "--model", model, "--allow-code", "--outputs", "probabilities", "--limit", "20"
    )
    assert result.code == 0, result.err


def test_a_cell_that_fails_exits_3_and_keeps_the_others(
    rbl: Rbl, own_network: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rbl_attacks.fgsm import FGSM

    whole = FGSM.tell

    def broken(self: FGSM, state: Any, answer: Answer) -> Any:
        told = whole(self, state, answer)
        return told.replace(candidates=told.candidates * float("nan"))

    monkeypatch.setattr(FGSM, "tell", broken)
    result = rbl("evaluate", *own_network, "-a", "fgsm", "-a", "pgd steps=3", "--limit", "20")
    assert result.code == 3
    assert "Error in none x fgsm" in result.err
    assert "pgd steps=3" in result.out


def test_an_interrupt_exits_130_and_says_how_to_go_on(
    rbl: Rbl, own_network: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from robustbench_lite.evaluation import run as running

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "run", interrupted)
    result = rbl("evaluate", *own_network, "--limit", "20")
    assert result.code == 130
    assert "the same command continues" in result.err


def test_an_unexpected_error_is_one_line_and_a_traceback_only_with_v(
    rbl: Rbl, own_network: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from robustbench_lite.evaluation import run as running

    def surprised(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("a surprise")

    monkeypatch.setattr(running, "run", surprised)
    result = rbl("evaluate", *own_network, "--limit", "20")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "run with -v" in result.err.lower()
    assert "Traceback" in rbl("evaluate", *own_network, "--limit", "20", "-v").err


def test_doctor_finds_nothing_wrong(rbl: Rbl) -> None:
    result = rbl("doctor")
    assert result.code == 0, result.out + result.err
    assert "self test" in result.out
    assert not Path("rbl-results").exists()


def test_doctor_names_what_is_broken_and_goes_on(rbl: Rbl, monkeypatch: pytest.MonkeyPatch) -> None:
    from robustbench_lite import registry

    monkeypatch.setattr(registry, "targets", lambda kind: {"ghost": "no_such_package:Ghost"})
    result = rbl("doctor")
    assert result.code == 1
    assert "ghost (no_such_package:Ghost) does not load" in result.out
    assert "self test" in result.out
    assert result.err.count("\n") == 1


def test_show_explains_a_plugin_a_network_and_a_record(
    rbl: Rbl, own_network: tuple[str, ...]
) -> None:
    assert "step_size" in rbl("show", "pgd").out
    assert "arXiv:1704.08847" in rbl("show", "parseval").out
    assert "weights sha256" in rbl("show", "fashion_mnist-parseval").out
    cell = json.loads(
        rbl("evaluate", *own_network, "-a", "fgsm", "--limit", "20", "--format", "json").out
    )["cells"][0]
    by_key, by_path = rbl("show", cell["cell_key"][:8]), rbl("show", cell["record"])
    assert by_key.out == by_path.out
    assert cell["digest"] in by_key.out


def test_a_network_whose_training_says_otherwise_is_named(rbl: Rbl) -> None:
    common = ("--limit", "10", "-a", "fgsm")
    assert (
        "was trained with parseval"
        in rbl("evaluate", "--model", "fashion_mnist-parseval", "-d", "none", *common).err
    )
    assert "trained on mnist" in rbl("evaluate", "--model", "mnist-none", *common).err
    assert (
        "nothing says"
        in rbl(
            "evaluate", "--model", "fashion_mnist-none", "-d", "adversarial_training", *common
        ).err
    )
    assert rbl("evaluate", "--model", "fashion_mnist-parseval", *common).err == ""


def test_a_certificate_is_shown_by_its_key(rbl: Rbl) -> None:
    (found,) = json.loads(
        rbl("certify", "--limit", "5", "--method", "ibp", "--format", "json").out
    )["certificates"]
    assert found["partial"]
    assert found["digest"] in rbl("show", found["key"][:6]).out


def test_options_leave_the_process_as_they_found_it(
    rbl: Rbl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("robustbench_lite")
    level = logger.level
    monkeypatch.delenv("RBL_NETWORKS", raising=False)
    assert rbl("list", "attacks").code == 0
    assert (
        rbl(
            "evaluate",
            "-a",
            "fgsm",
            "--limit",
            "20",
            "-q",
            "--dry-run",
            "--networks",
            str(tmp_path),
        ).code
        == 0
    )
    assert "RBL_NETWORKS" not in os.environ
    monkeypatch.setenv("RBL_NETWORKS", "before")
    rbl("evaluate", "-a", "fgsm", "--limit", "20", "-q", "--dry-run", "--networks", str(tmp_path))
    assert os.environ["RBL_NETWORKS"] == "before"
    assert logger.level == level
