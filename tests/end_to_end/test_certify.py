"""``rbl certify`` and ``rbl evaluate --certify``, as a user types them."""

import json

import pytest

from robustbench_lite.cli import main
from tests.end_to_end.conftest import Rbl
from tests.unit.evaluation.test_certified import Unsound


def test_a_bundled_network_is_certified_and_the_certificate_is_kept(rbl: Rbl) -> None:
    command = ("certify", "-d", "adversarial_training", "--limit", "16", "--method", "dual")
    result = rbl(*command)
    assert (result.code, result.err) == (0, "")
    for word in (
        "adversarial_training",
        "linf 0.1",
        "dual",
        "16",
        "certified accuracy",
        "Certificate: rbl-results",
    ):
        assert word in result.out
    again = json.loads(rbl(*command, "--format", "json").out)["certificates"][0]
    assert again["cached"]
    assert 0 < again["certified_accuracy"] < again["clean_accuracy"]
    assert (
        again["certified_interval"][0]
        < again["certified_accuracy"]
        < again["certified_interval"][1]
    )
    assert sum(again["stages"].values()) == round(again["clean_accuracy"] * 16)
    plain = json.loads(rbl(*command, "--no-box", "--format", "json").out)["certificates"][0]
    assert plain["key"] != again["key"]
    assert plain["certified_accuracy"] <= again["certified_accuracy"]
    shown = rbl("show", again["record"])
    assert (shown.code, shown.err) == (0, "")
    assert again["digest"] in shown.out


def test_a_table_brackets_the_truth(rbl: Rbl) -> None:
    command = (
        "evaluate",
        "-d",
        "adversarial_training",
        "-a",
        "pgd steps=5",
        "--limit",
        "16",
        "--certify",
        "dual",
    )
    cell = json.loads(rbl(*command, "--format", "json").out)["cells"][0]
    assert cell["certifier"] == "dual"
    assert 0 < cell["certified_accuracy"] <= cell["robust_accuracy"] <= cell["clean_accuracy"]
    assert "certified accuracy" in rbl(*command).out


def test_a_contradiction_ends_the_run_with_code_3_and_names_the_sample(
    rbl: Rbl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rbl_defenses.none.NoDefense.certifier", Unsound.certifier)
    result = rbl("evaluate", "-d", "none", "-a", "pgd", "--limit", "16", "--eps", "0.3")
    assert result.code == 3
    assert "Sample " in result.err
    assert "is certified, and pgd broke it" in result.err


def test_what_cannot_be_certified_is_refused_with_what_can(
    rbl: Rbl, own_network: tuple[str, ...]
) -> None:
    for words, text in [
        (("--method", "duel"), "Did you mean 'dual'"),
        (("--norm", "l1", "--eps", "1"), "linf or l2"),
        (("--norm", "l2"), "--eps"),
        (("--eps", "-1"), "eps"),
        (("--method", "lipschitz"), "--norm l2"),
    ]:
        result = rbl("certify", "--limit", "4", *words)
        assert result.code == 2, words
        assert text in result.err
    assert main(["certify", "--help"]) == 0
