"""``rbl.certify`` keeps what it proved, goes on with it, and proves an edited network anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite import certify
from robustbench_lite.bounds import certifier
from robustbench_lite.bounds.certify import Certificate, proofs
from robustbench_lite.errors import ModelError, UsageError
from robustbench_lite.records.certificate import read_certificate
from tests.conftest import images, small_network

X = images(40)
Y = (small_network()(X).argmax(1) + (torch.arange(40) == 3)) % 3


class Contrast(nn.Module):
    """Layers, weights and names do not show ``contrast``."""

    def __init__(self, contrast: float) -> None:
        super().__init__()
        self.net, self.contrast = small_network(), contrast

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net((x - 0.5) * self.contrast + 0.5)
        return logits


def prove(output: Path | None, contrast: float = 1.0, **settings: object) -> Certificate:
    return certify(
        Contrast(contrast).eval(),
        (X, Y),
        eps="8/255",
        method="crown",
        output=output,
        **settings,  # type: ignore[arg-type]
    )


def test_a_kept_certificate_says_what_one_in_memory_says(tmp_path: Path) -> None:
    kept, plain = prove(tmp_path), prove(None)
    right = Contrast(1.0)(X).argmax(1) == Y
    assert 0 < kept.certified_accuracy < 1
    assert torch.equal(kept.certified, plain.certified)
    torch.testing.assert_close(kept.margins[right], plain.margins[right], rtol=1e-6, atol=1e-6)
    assert torch.equal(kept.margins == -torch.inf, ~right)
    assert [stage for stage in kept.stage if stage] == ["crown"] * int(right.sum())
    assert (plain.path, plain.cached, plain.note) == (None, False, None)


def test_the_same_call_reads_the_record_unless_it_is_to_be_made_afresh(tmp_path: Path) -> None:
    first, again, fresh = (
        prove(tmp_path, name="n"),
        prove(tmp_path, name="n"),
        prove(tmp_path, name="n", fresh=True),
    )
    assert (first.cached, again.cached, fresh.cached) == (False, True, False)
    assert torch.equal(first.certified, again.certified)
    assert torch.equal(first.margins, again.margins)
    assert first.path == again.path
    assert first.path is not None
    record = read_certificate(first.path)[0]
    assert (record.identity.model.name, record.identity.threat.eps_written) == ("n", "8/255")


def test_an_edited_network_is_proved_anew_and_said_so(tmp_path: Path) -> None:
    first, edited, true = prove(tmp_path), prove(tmp_path, 3.0), prove(None, 3.0)
    assert not edited.cached
    assert edited.note is not None
    assert torch.equal(edited.certified, true.certified)
    assert not torch.equal(edited.certified, first.certified)
    assert prove(tmp_path, 3.0).cached


def test_a_call_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = prove(None)

    def stopped(*arguments: object, **settings: object) -> object:
        for number, part in enumerate(proofs(*arguments, **settings)):  # type: ignore[arg-type]
            if number:
                raise KeyboardInterrupt
            yield part

    with monkeypatch.context() as patch:
        patch.setattr(certifier, "proofs", stopped)
        with pytest.raises(KeyboardInterrupt):
            prove(tmp_path)
    asked: list[int] = []

    def counted(model: nn.Module, x: Tensor, *rest: Any, **settings: Any) -> Any:
        asked.append(len(x))
        return proofs(model, x, *rest, **settings)

    monkeypatch.setattr(certifier, "proofs", counted)
    assert torch.equal(prove(tmp_path).certified, true.certified)
    assert 0 < asked[0] < 30


@pytest.mark.parametrize(
    ("eps", "said"),
    [
        (torch.full((40,), 0.1), "one eps"),
        ("none", "radius"),
        (-1.0, "negative"),
        ("wide", "no number"),
    ],
)
def test_a_radius_that_no_record_can_have_is_refused(
    tmp_path: Path, eps: object, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        certify(small_network(), (X, Y), eps=eps, output=tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_one_number_in_a_tensor_is_a_radius(tmp_path: Path) -> None:
    kept = certify(
        small_network(), (X, Y), eps=torch.tensor(0.25), output=str(tmp_path), method="ibp"
    )
    assert kept.path is not None
    assert read_certificate(kept.path)[0].identity.threat.eps == 0.25


def test_a_network_that_cannot_be_measured_leaves_no_record(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="classes"):
        certify(small_network(), (X, Y + 2), eps=0.1, output=tmp_path)
    assert not list(tmp_path.rglob("*.json"))
