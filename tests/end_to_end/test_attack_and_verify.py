"""``rbl attack`` saves adversarials, ``rbl verify`` takes nothing about them on trust."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.end_to_end.conftest import Rbl

FILE = "rbl-adversarials/adversarials.npz"
SHEET = Path("rbl-adversarials/examples.png")
ARRAYS = {
    "x",
    "x_adv",
    "y",
    "prediction_before",
    "prediction_after",
    "target",
    "ids",
    "distance",
    "record",
}


def rewrite(path: str, **change: np.ndarray) -> None:
    with np.load(path) as arrays:
        content = dict(arrays) | change
    np.savez_compressed(path, **content)


@pytest.fixture
def crafted(rbl: Rbl, own_network: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays that ``rbl attack`` saved of a linear network of the user's own."""
    result = rbl("attack", *own_network, "-a", "pgd steps=10", "--limit", "40")
    assert result.code == 0, result.err
    with np.load(FILE) as arrays:
        return dict(arrays)


def test_the_bundled_network_needs_no_option(rbl: Rbl) -> None:
    result = rbl(
        "attack", "-a", "pgd steps=10", "-d", "parseval", "--limit", "30", "--examples", "4"
    )
    assert (result.code, result.err) == (0, "")
    for word in (
        "parseval",
        "linf 0.1",
        "30",
        "median distance",
        FILE,
        "(4 of",
        "Record: rbl-results",
        f"rbl verify {FILE}",
    ):
        assert word in result.out
    checked = rbl("verify", FILE)
    assert (checked.code, checked.err) == (0, "")
    assert "adversarials hold" in checked.out


def test_the_file_has_what_it_promises(crafted: dict[str, np.ndarray]) -> None:
    assert set(crafted) == ARRAYS
    assert len({len(value) for name, value in crafted.items() if name != "record"}) == 1
    assert crafted["x"].shape == crafted["x_adv"].shape == (len(crafted["y"]), 1, 28, 28)
    np.testing.assert_array_equal(crafted["prediction_before"], crafted["y"])
    assert (crafted["prediction_after"] != crafted["y"]).all()
    sizes = np.abs(crafted["x_adv"].astype(np.float64) - crafted["x"]).max((1, 2, 3))
    np.testing.assert_allclose(crafted["distance"], sizes, rtol=1e-6)
    assert json.loads(str(crafted["record"]))["identity"]["threat"]["norm"] == "linf"


def test_the_command_that_attack_prints_verifies(rbl: Rbl, own_network: tuple[str, ...]) -> None:
    result = rbl("attack", *own_network, "-a", "fgsm", "--limit", "40", "--format", "json")
    report = json.loads(result.out)
    saved, cell = report["saved"], report["cells"][0]
    assert saved["broken"] == round((cell["clean_accuracy"] - cell["robust_accuracy"]) * 40)
    assert saved["verify"].split()[2:] == [saved["adversarials"], *own_network]
    checked = rbl(*saved["verify"].split()[1:], "--format", "json")
    report = json.loads(checked.out)
    assert (checked.code, report["held"], report["failed"], report["notes"]) == (
        0,
        saved["broken"],
        0,
        [],
    )


def test_an_attack_and_an_evaluation_share_their_record(
    rbl: Rbl, own_network: tuple[str, ...]
) -> None:
    options = (*own_network, "-a", "pgd steps=10", "--limit", "40", "--format", "json")
    first = json.loads(rbl("attack", *options).out)["cells"][0]
    again = json.loads(rbl("evaluate", *options, "--keep-adversarials").out)["cells"][0]
    assert (again["cached"], again["digest"]) == (True, first["digest"])
    for suffix in (".json", ".npz"):
        checked = rbl("verify", str(Path(first["record"]).with_suffix(suffix)), *own_network)
        assert checked.code == 0, checked.err
        assert "adversarials hold" in checked.out


def test_the_sheet_is_the_same_each_time_and_never_that_of_an_earlier_run(
    rbl: Rbl, own_network: tuple[str, ...]
) -> None:
    options = ("attack", *own_network, "-a", "pgd steps=10", "--limit", "40")
    rbl(*options, "--examples", "3")
    first = SHEET.read_bytes()
    with Image.open(SHEET) as image:
        narrow = image.size
    rbl(*options, "--examples", "3", "--fresh")
    assert SHEET.read_bytes() == first
    rbl(*options, "--examples", "6")
    with Image.open(SHEET) as image:
        assert image.size[0] == narrow[0]
        assert image.size[1] > 1.5 * narrow[1]
    assert "Examples" not in rbl(*options, "--eps", "0").out
    assert not SHEET.exists()
    checked = rbl("verify", FILE, *own_network)
    assert (checked.code, "nothing to check" in checked.out) == (0, True)


def test_colour_images_and_targets_can_be_saved_and_verified(rbl: Rbl) -> None:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    Path("net.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, "
        "4))\n"
    )
    weight = torch.from_numpy(generator.normal(size=(4, 192)).astype(np.float32))
    save_file({"1.weight": weight, "1.bias": torch.zeros(4)}, "net.safetensors")
    pixels = torch.from_numpy(x.transpose(0, 3, 1, 2) / 255).float().flatten(1)
    np.savez("data.npz", x=x, y=(pixels @ weight.T).argmax(1).numpy())
    own = ("--model", "net.py:net", "--weights", "net.safetensors", "--allow-code")
    attack = (
        "attack",
        *own,
        "--dataset",
        "npz:data.npz",
        "--norm",
        "l2",
        "--eps",
        "1.5",
        "--targeted",
        "random",
    )
    assert rbl(*attack).code == 0
    assert SHEET.exists()
    checked = rbl("verify", FILE, *own)
    assert (checked.code, "in the L2 ball of 1.5" in checked.out) == (0, True)
    Path("data.npz").rename("elsewhere.npz")
    missing = rbl("verify", FILE, *own)
    assert (missing.code, "could not be compared" in missing.out) == (0, True)
    assert rbl("verify", FILE, *own, "--dataset", "npz:elsewhere.npz").code == 0
    assert rbl("verify", FILE, *own, "--dataset", "npz:nowhere.npz").code == 2
    np.savez("data.npz", x=255 - x, y=(pixels @ weight.T).argmax(1).numpy())
    other = rbl("verify", FILE, *own, "--data-dir", ".")
    assert (other.code, "its clean image is not sample" in other.out) == (1, True)


def test_one_that_does_not_hold_exits_1_and_is_named(
    rbl: Rbl, own_network: tuple[str, ...], crafted: dict[str, np.ndarray]
) -> None:
    x_adv = crafted["x_adv"].copy()
    x_adv[2] = crafted["x"][2]
    rewrite(FILE, x_adv=x_adv)
    result = rbl("verify", FILE, *own_network)
    assert (result.code, result.err) == (1, "")
    assert f"sample {crafted['ids'][2]}: " in result.out
    assert "still takes it for class" in result.out
    assert f"1 of {len(x_adv)} adversarials do not hold" in result.out
    report = json.loads(rbl("verify", FILE, *own_network, "--format", "json").out)
    assert [failure["id"] for failure in report["failures"]] == [crafted["ids"][2]]


def test_a_point_outside_of_the_ball_hides_no_other_failure(
    rbl: Rbl, own_network: tuple[str, ...], crafted: dict[str, np.ndarray]
) -> None:
    x_adv = crafted["x_adv"].copy()
    x_adv[0] = 1 - x_adv[0]
    x_adv[1] = np.nan
    x_adv[3] = crafted["x"][3]
    rewrite(FILE, x_adv=x_adv)
    report = json.loads(rbl("verify", FILE, *own_network, "--format", "json").out)
    assert [failure["id"] for failure in report["failures"]] == crafted["ids"][[0, 1, 3]].tolist()
    assert "leaves the Linf ball of 0.1 by" in report["failures"][0]["reasons"][0]


def test_other_weights_are_refused_with_both_hashes(
    rbl: Rbl, own_network: tuple[str, ...], crafted: dict[str, np.ndarray]
) -> None:
    weights = load_file(own_network[3])
    save_file({name: value * 1.01 for name, value in weights.items()}, "other.safetensors")
    result = rbl("verify", FILE, *own_network[:2], "--weights", "other.safetensors", "--allow-code")
    assert (result.code, result.err.count("\n"), result.out) == (2, 1, "")
    assert (
        json.loads(str(crafted["record"]))["identity"]["model"]["weights_sha256"][:16] in result.err
    )
    assert result.err.count("...") == 2
    assert rbl("verify", FILE).code == 2


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_short_exits_2(
    rbl: Rbl, own_network: tuple[str, ...], crafted: dict[str, np.ndarray], share: float
) -> None:
    whole = Path(FILE).read_bytes()
    Path(FILE).write_bytes(whole[: int(len(whole) * share)])
    result = rbl("verify", FILE, *own_network)
    assert (result.code, result.err.count("\n"), result.out) == (2, 1, "")
    assert FILE in result.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["verify", "missing.npz"], "No file is at missing.npz"),
        (["verify", "missing.json"], "No record is at missing.json"),
        (["verify", "foreign.npz"], "rbl attack"),
        (["verify", "foreign.npz", "--format", "csv"], "Known: json, table"),
        (["verify"], "FILE"),
        (["attack", "-a", "pgd", "-a", "fgsm"], "takes one attack, not pgd and fgsm"),
        (["attack", "-a", "all"], "takes one attack"),
        (["attack", "-d", "none", "-d", "parseval"], "takes one defense"),
        (["attack", "-a", "pdg"], "Did you mean 'pgd'?"),
        (["attack", "--examples", "-1"], "--examples is -1"),
        (["attack", "--format", "csv"], "Known: json, table"),
        (["attack", "--limit", "20", "--save", "foreign.npz/x"], "--save DIR"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_explained(rbl: Rbl, arguments: list[str], text: str) -> None:
    np.savez("foreign.npz", a=np.zeros(3))
    result = rbl(*arguments)
    assert (result.code, result.err.count("\n"), result.out) == (2, 1, "")
    assert text in result.err
    assert not Path("rbl-results").exists()


def test_a_record_without_its_images_says_how_to_get_them(
    rbl: Rbl, own_network: tuple[str, ...]
) -> None:
    options = ("evaluate", *own_network, "-a", "fgsm", "--limit", "20", "--format", "json")
    record = json.loads(rbl(*options).out)["cells"][0]["record"]
    result = rbl("verify", record, *own_network)
    assert result.code == 2
    assert "--keep-adversarials" in result.err


def test_a_dry_run_saves_nothing(rbl: Rbl, own_network: tuple[str, ...]) -> None:
    result = rbl("attack", *own_network, "--limit", "20", "--dry-run")
    assert (result.code, "to measure" in result.out) == (0, True)
    assert not any(Path(name).exists() for name in ("rbl-results", "rbl-adversarials"))


def test_an_interrupted_attack_continues(
    rbl: Rbl, own_network: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a batch, the same command searches only the rest and saves what a whole run
    saves.
    """
    from robustbench_lite.records.journal import Journal

    options = ("attack", *own_network, "-a", "pgd steps=10", "--limit", "64", "--batch-size", "16")
    assert rbl(*options, "--output", "whole", "--save", "whole").code == 0
    add: Any = Journal.add
    calls: list[int] = []

    def once(self: Journal, *arguments: object) -> None:
        if calls:
            raise KeyboardInterrupt
        calls.append(add(self, *arguments))

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", once)
        assert rbl(*options).code == 130
    assert not Path(FILE).exists()
    assert "samples in the journal" in rbl(*options, "--dry-run").out
    assert rbl(*options).code == 0
    with np.load(FILE) as resumed, np.load("whole/adversarials.npz") as whole:
        for name in ARRAYS - {"record"}:
            np.testing.assert_array_equal(resumed[name], whole[name])


def test_a_patch_is_fitted_scored_saved_and_verified(
    rbl: Rbl, own_network: tuple[str, ...]
) -> None:
    """Offline, with nothing but the images that the package carries."""
    options = (
        "attack",
        *own_network,
        "-a",
        "patch steps=40 draws=4",
        "--norm",
        "l0",
        "--eps",
        "78",
        "--limit",
        "60",
    )
    result = rbl(*options)
    assert (result.code, result.err) == (0, "")
    for word in ("at one placement (mean)", "at any of 4", "rbl-adversarials/patch.png"):
        assert word in result.out
    with Image.open("rbl-adversarials/patch.png") as picture:
        assert (picture.mode, min(picture.size) >= 256) == ("LA", True)
    assert picture.size[0] == picture.size[1]
    with np.load("rbl-adversarials/patch.npz") as arrays:
        perturbation = arrays["perturbation"]
    with np.load(FILE) as arrays:
        changed = (arrays["x"] != arrays["x_adv"]).any(1).sum((1, 2))
    assert changed.max() <= 78
    assert rbl("verify", FILE, *own_network).code == 0
    report = json.loads(rbl(*options, "--format", "json").out)
    assert report["cells"][0]["cached"]
    success = report["saved"]["success"]
    assert 0 < success["mean"] < success["any"] <= 1
    assert success["any"] == pytest.approx(
        1 - report["cells"][0]["robust_accuracy"] / report["cells"][0]["clean_accuracy"]
    )
    for fit in Path(
        "rbl-results/fits"
    ).iterdir():  # without it the record is no longer enough for the picture
        fit.unlink()
    rbl(*options)
    with np.load("rbl-adversarials/patch.npz") as arrays:
        np.testing.assert_array_equal(arrays["perturbation"], perturbation)
    rbl("attack", *own_network, "-a", "fgsm", "--limit", "20")
    assert not Path("rbl-adversarials/patch.png").exists()


def test_a_patch_needs_training_images(rbl: Rbl, own_network: tuple[str, ...]) -> None:
    images = np.random.default_rng(0).random((12, 28, 28), dtype=np.float32)
    np.savez("data.npz", x=images, y=np.arange(12) % 10)
    options = ("evaluate", *own_network, "--dataset", "npz:data.npz", "--norm", "l0", "--eps", "78")
    alone = rbl(*options, "-a", "patch")
    assert (alone.code, alone.err.count("\n"), "x_train" in alone.err) == (2, 1, True)
    among_all = rbl(*options, "-a", "all", "--dry-run")
    assert (among_all.code, "patch is left out" in among_all.err, "one_pixel" in among_all.out) == (
        0,
        True,
        True,
    )
