"""Bad input: exit 2, one line on stderr that helps, nothing written and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from robustbench_lite.records.cell import read_record
from robustbench_lite.records.journal import open_journal
from tests.end_to_end.conftest import Rbl, Result

IMAGES = np.zeros((6, 1, 28, 28), dtype=np.float32)
LABELS = np.arange(6)
#: Arrays of an npz file -> what the message says.
DATA: dict[str, tuple[dict[str, Any], str]] = {
    "above 1": ({"x": IMAGES + 255, "y": LABELS}, "divide by 255"),
    "below 0": ({"x": IMAGES - 1, "y": LABELS}, "[0, 1]"),
    "nan": ({"x": IMAGES * np.nan, "y": LABELS}, "nan"),
    "no channels or rows": ({"x": IMAGES[0, 0, 0], "y": LABELS}, "shape"),
    "whole numbers": ({"x": IMAGES.astype(np.int64), "y": LABELS}, "int64"),
    "labels as floats": ({"x": IMAGES, "y": LABELS.astype(float)}, "labels are whole numbers"),
    "a negative label": ({"x": IMAGES, "y": LABELS - 1}, "Labels"),
    "a label too high": ({"x": IMAGES, "y": LABELS + 5}, "10 classes"),
    "too few labels": ({"x": IMAGES, "y": LABELS[:4]}, "4 labels"),
    "no labels": ({"x": IMAGES}, "lacks the array"),
}
#: Options -> what the message says.
OPTIONS = [
    (["-a", "pdg"], "Did you mean 'pgd'?"),
    (["-d", "parsval"], "Did you mean 'parseval'?"),
    (["--dataset", "fashion_mist"], "Did you mean 'fashion_mnist'?"),
    (["-a", "pgd stepz=3"], "Did you mean 'steps'?"),
    (["-a", "pgd steps=many"], "steps"),
    (["-a", "pgd steps=0"], "at least 1"),
    (["-a", "pgd steps"], "key=value"),
    (["-a", "no_such_package.module:Attack"], "no_such_package"),
    (["--eps", "-0.1"], "cannot be negative"),
    (["--eps", "nan"], "finite"),
    (["--eps", "a lot"], "8/255"),
    (["--norm", "l3"], "Known: l0, l1, l2, linf"),
    (["--norm", "l0", "--eps", "3"], "cannot work in l0"),
    (["--norm", "l2"], "--eps"),
    (["--targeted", "whatever"], "least_likely"),
    (["--targeted", "class:10"], "classes 0 to 9"),
    (["--eps", "8"], "did you mean 8/255?"),
    (["--eps", "1.5"], "at most 1"),
    (["--eps", "inf"], "finite"),
    (["--eps", "-8/255"], "cannot be negative"),
    (["--eps", "\u0668/255"], "no number"),
    (["--eps", "\u0668"], "no number"),
    (["--eps", "1_0"], "no number"),
    (["--eps", ""], "no number"),
    (["--seed", "-1"], "from 0 to"),
    (["--seed", str(2**63)], "from 0 to"),
    (["--seed", "1.5"], "--seed"),
    (["--output", ""], "no folder"),
    (["--output", " "], "no folder"),
    (["--batch-size", "-1"], "at least 1"),
    (["--batch-size", "9" * 30], "at least 1"),
    (["--batch-size", "\u0663"], "at least 1"),
    (["--limit", "-1"], "limit is -1"),
    (["--limit", "0"], "limit is 0"),
    (["--limit", "2000"], "1,000 images"),
    (["--limit", "few"], "--limit"),
    (["--batch-size", "big"], "auto"),
    (["--batch-size", "0"], "at least 1"),
    (["--query-budget", "0"], "at least 1"),
    (["--split", "dev"], "split"),
    (["--device", "gpu"], "cuda"),
    (["--format", "xml"], "Known: csv, json, md, table"),
    (["--outputs", "logit"], "Did you mean 'logits'?"),
    (["--atack", "pgd"], "Did you mean '--attack'?"),
    (["pgd", "steps=3"], "in quotes"),
    (["--config", "missing.toml"], "missing.toml"),
    (["--weights", "missing.safetensors"], "missing"),
    (["--dataset", "npz:missing.npz"], "savez"),
    (["--dataset", "folder:missing"], "sub-folder"),
    (["--dataset", "mnist", "--data-dir", "nowhere"], "Add --download"),
    (["--batch-size", "²"], "or auto"),
    (["--eps", "1e300"], "no two images are further apart"),
    (["--query-budget", "9" * 30], "below 2**31"),
    (["--targeted", "class:" + "9" * 5000], "class:K"),
    (["--output", ""], "is no folder"),
    (["--output", "/dev/null"], "--output DIR"),
    (["--config", "."], "is a folder"),
    (["--config", "x" * 5000], "too long"),
    (["--dataset", "npz:."], "is a folder"),
    (["--dataset", "npz:/dev/zero"], "is a device"),
    (["--dataset", "folder:."], "no sub-folder"),
    (["--weights", "."], "is a folder"),
]
#: Factory in the user's file -> what the message says.
MODELS = {
    "probabilities": "--outputs probabilities",
    "nan": "NaN",
    "mixes_rows": "batch",
    "not_a_network": "torch.nn.Module",
    "liner": "Did you mean 'linear'?",
    "linear classes=7": "classes",
    "linear clases=7": "Did you mean 'classes'?",
}


def check(result: Result, text: str) -> None:
    assert result.code == 2, result
    assert text in result.err
    assert (result.err.count("\n"), result.out) == (1, "")
    # Which class exists is known once the network has run: by then there is a journal, without a
    # row.
    assert {path.name for path in Path("rbl-results").rglob("*") if path.is_file()} <= {
        "journal.sqlite"
    }


@pytest.mark.parametrize(
    ("options", "text"), OPTIONS, ids=[" ".join(options) for options, _ in OPTIONS]
)
def test_a_wrong_option_is_explained(
    rbl: Rbl, own_network: tuple[str, ...], options: list[str], text: str
) -> None:
    own = () if "--weights" in options else own_network
    check(rbl("evaluate", *own, *options), text)


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_used_is_explained(
    rbl: Rbl, own_network: tuple[str, ...], case: str
) -> None:
    arrays, text = DATA[case]
    np.savez("data.npz", **arrays)
    check(rbl("evaluate", *own_network, "--dataset", "npz:data.npz", "--eps", "0.1"), text)


@pytest.mark.parametrize("factory", MODELS)
def test_a_model_that_cannot_be_measured_is_explained(
    rbl: Rbl, own_network: tuple[str, ...], factory: str
) -> None:
    model = own_network[1].replace(":linear", f":{factory}")
    check(rbl("evaluate", "--model", model, "--allow-code", "--limit", "64"), MODELS[factory])


def test_code_from_a_file_runs_only_when_allowed(rbl: Rbl, own_network: tuple[str, ...]) -> None:
    check(rbl("evaluate", *own_network[:-1]), "--allow-code")


def test_weights_that_do_not_fit_name_the_keys(rbl: Rbl, own_network: tuple[str, ...]) -> None:
    torch.save({"1.weight": torch.zeros(3, 3), "extra": torch.zeros(1)}, "other.pt")
    result = rbl("evaluate", *own_network[:2], "--allow-code", "--weights", "other.pt")
    check(result, "1.weight is (3, 3)")
    assert "extra" in result.err
    assert "1.bias" in result.err


def test_weights_are_never_unpickled(rbl: Rbl, own_network: tuple[str, ...]) -> None:
    torch.save(torch.nn.Linear(2, 2), "whole.pt")
    check(
        rbl("evaluate", *own_network[:2], "--allow-code", "--weights", "whole.pt"), "can run code"
    )


def test_truncated_weights_are_refused(rbl: Rbl, own_network: tuple[str, ...]) -> None:
    Path("cut.safetensors").write_bytes(Path(own_network[3]).read_bytes()[:1000])
    check(
        rbl("evaluate", *own_network[:2], "--allow-code", "--weights", "cut.safetensors"),
        "cut short",
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("atack = 'pgd'", "Did you mean 'attack'?"),
        ("eps = ", "TOML"),
        ("fresh = 'yes'", "flag"),
        ("eps = [1, 2]", "one value"),
    ],
)
def test_a_wrong_config_file_is_explained(
    rbl: Rbl, own_network: tuple[str, ...], text: str, says: str
) -> None:
    Path("eval.toml").write_text(text)
    check(rbl("evaluate", *own_network, "--config", "eval.toml"), says)


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "--config", "pipe"],
        ["evaluate", "--weights", "pipe"],
        ["evaluate", "--dataset", "npz:pipe"],
        ["evaluate", "--model", "pipe.py:net", "--allow-code"],
        ["evaluate", "--output", "pipe"],
        ["show", "pipe.json"],
        ["verify", "pipe"],
        ["verify", "pipe.json"],
        ["leaderboard", "plan", "--root", "."],
        ["evaluate", "--model", "pipe", "--networks", "."],
        ["leaderboard", "diff", "."],
    ],
    ids=" ".join,
)
def test_a_pipe_is_refused_and_never_waited_for(rbl: Rbl, words: list[str]) -> None:
    for folder in ("boards", "tables"):
        Path(folder).mkdir()
    for name in (
        "pipe",
        "pipe.py",
        "pipe.json",
        "pipe.safetensors",
        "boards/b.toml",
        "tables/b.json",
    ):
        os.mkfifo(name)
    result = rbl(*words)
    assert (result.code, result.err.count("\n")) == (2, 1), result
    assert "named pipe" in result.err or "--output DIR" in result.err


def test_an_output_folder_that_cannot_be_written_is_found_before_work_starts(
    rbl: Rbl, own_network: tuple[str, ...]
) -> None:
    Path("a-file").write_text("in the way")
    check(rbl("evaluate", *own_network, "--output", "a-file/results"), "--output DIR")


def test_a_full_disk_is_found_before_work_starts(
    rbl: Rbl, own_network: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    check(rbl("evaluate", *own_network, "--limit", "20"), "MB free")


def test_a_download_without_a_network_says_where_to_put_the_file(
    rbl: Rbl, own_network: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    result = rbl("evaluate", *own_network, "--dataset", "mnist", "--data-dir", "data", "--download")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "MNIST/raw" in result.err


def test_a_record_that_was_changed_is_refused_and_left_as_it_is(
    rbl: Rbl, own_network: tuple[str, ...]
) -> None:
    options = ("evaluate", *own_network, "-a", "fgsm", "--limit", "40")
    path = Path(json.loads(rbl(*options, "--format", "json").out)["cells"][0]["record"])
    whole = path.read_text()
    changed = json.loads(whole)
    changed["summary"]["robust_accuracy"] = 0.99
    for text in (whole[:500], json.dumps(changed), whole.replace('"seed": 0', '"seed": 1')):
        path.write_text(text)
        for command in (options, ("show", str(path))):
            result = rbl(*command)
            assert (result.code, result.err.count("\n")) == (2, 1)
            assert "--fresh" in result.err
        assert path.read_text() == text
    assert rbl(*options, "--fresh").code == 0


def test_a_journal_that_was_changed_is_refused(rbl: Rbl, own_network: tuple[str, ...]) -> None:
    options = ("evaluate", *own_network, "-a", "fgsm", "--limit", "40")
    (cell,) = json.loads(rbl(*options, "--dry-run", "--format", "json").out)["cells"]
    other = json.loads(rbl(*options, "--seed", "1", "--format", "json").out)["cells"][0]
    answers = read_record(Path(other["record"]))[0].behaviour
    assert answers is not None
    with open_journal(Path("rbl-results/journal.sqlite")) as journal:
        journal.begin(cell["key"], answers)
    with sqlite3.connect("rbl-results/journal.sqlite") as connection:
        connection.execute(
            "INSERT INTO outcomes VALUES (?, 0, 0, 0, NULL, 5, 5, NULL, 'forged')", (cell["key"],)
        )
    connection.close()
    result = rbl(*options)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "journal" in result.err
    Path("rbl-results/journal.sqlite").write_bytes(b"no database" * 100)
    result = rbl(*options)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "damaged" in result.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["evaluat"], "Did you mean 'evaluate'?"),
        (["list", "atacks"], "Did you mean 'attacks'?"),
        (["list", "--format", "xml"], "Known: json, table"),
        (["show", "pdg"], "Did you mean 'pgd'?"),
        (["show"], "NAME|RECORD|KEY"),
        (["show", "0123456789"], "--output"),
        (["show", "missing.json"], "missing.json"),
        (["train", "-d", "parsval"], "Did you mean 'parseval'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_other_commands_explain_too(rbl: Rbl, arguments: list[str], text: str) -> None:
    check(rbl(*arguments), text)


_TRAIN = [
    (["--output", ""], "no folder"),
    (["--name", ""], "1 to 100"),
    (["--name", "."], "no slash"),
    (["--name", ".."], "no dot"),
    (["--name", ".n"], "no dot"),
    (["--name", " n"], "no space"),
    (["--name", "a\nb"], "no line end"),
    (["--name", "a/b"], "no slash"),
    (["--name", "x" * 200], "1 to 100"),
    (["--seed", "-1"], "from 0 to"),
    (["--seed", "9" * 30], "from 0 to"),
    (["--epochs", "0"], "epochs >= 1"),
    (["--epochs", "-1"], "epochs >= 1"),
    (["--epochs", "9" * 30], "epochs >= 1"),
    (["--batch-size", "0"], "batch size >= 1"),
    (["--batch-size", "-1"], "batch size >= 1"),
    (["--batch-size", "9" * 30], "batch size >= 1"),
    (["--learning-rate", "inf"], "learning rate > 0"),
    (["--learning-rate", "nan"], "learning rate > 0"),
    (["--limit", "0"], "limit is 0"),
    (["--limit", "9" * 30], "6 images"),
    (["--eps", "8"], "did you mean 8/255?"),
    (["--eps", "nan"], "finite"),
    (["--eps", "none", "-a", "boundary", "--norm", "l2"], "--eps"),
    (["--model", ""], "empty name"),
    (["--network", ""], "empty name"),
]


@pytest.mark.parametrize(
    ("options", "text"), _TRAIN, ids=[" ".join(options)[:30] for options, _ in _TRAIN]
)
def test_a_training_that_cannot_be_is_explained_before_its_first_step(
    rbl: Rbl, options: list[str], text: str
) -> None:
    np.savez("few.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:4] + 0.5, y_test=LABELS[:4])
    check(rbl("train", "--dataset", "npz:few.npz", "--epochs", "1", *options), text)
    assert not Path("rbl-models").exists()


def test_images_to_test_on_of_another_size_are_refused_before_the_first_step(rbl: Rbl) -> None:
    np.savez(
        "few.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:4, :, 1:, 1:], y_test=LABELS[:4]
    )
    check(
        rbl("train", "--dataset", "npz:few.npz", "--epochs", "1"),
        "(1, 27, 27) to test on",
    )


@pytest.mark.parametrize("command", ["attack", "certify"])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--output", ""], "no folder"),
        (["--eps", "8"], "did you mean 8/255?"),
        (["--eps", "nan"], "finite"),
        (["--eps", "-1"], "cannot be negative"),
        (["--eps", "\u0668/255"], "no number"),
        (["--limit", "0"], "limit is 0"),
    ],
)
def test_wrong_options_of_other_commands_are_explained(
    rbl: Rbl, own_network: tuple[str, ...], command: str, options: list[str], text: str
) -> None:
    check(rbl(command, *own_network, *options), text)
