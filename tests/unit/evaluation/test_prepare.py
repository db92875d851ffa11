"""A network is copied as it was given, and put into eval mode where that changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rbl_defenses.none import NoDefense
from robustbench_lite.errors import ModelError
from robustbench_lite.evaluation.modes import HARMLESS
from robustbench_lite.evaluation.prepare import prepare
from tests.conftest import small_network


def test_train_mode_is_refused_and_names_the_layer() -> None:
    model = small_network()
    model.append(nn.Dropout().train())
    with pytest.raises(ModelError, match=r"train mode.*layer '4' \(Dropout\).*eval"):
        prepare(model, NoDefense(), torch.device("cpu"))


def test_train_mode_that_changes_nothing_is_measured_in_eval_mode_and_said_so() -> None:
    model = small_network().train()
    prepared = prepare(model, NoDefense(), torch.device("cpu"))
    assert prepared.remarks == (HARMLESS,)
    assert not any(module.training for module in prepared.module.modules())
    assert model.training
    assert not prepare(model.eval(), NoDefense(), torch.device("cpu")).remarks


def test_the_users_model_is_left_as_it_is() -> None:
    model: Any = small_network()
    prepared = prepare(model, NoDefense(), torch.device("cpu"))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model[0].weight.is_contiguous()
    theirs, ours = set(map(id, model.parameters())), set(map(id, prepared.module.parameters()))
    assert not theirs & ours
