"""A claim: what is to be proved of a network, and the certifier that is to prove it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_lite.bounds.certifier import BoundCertifier, Certifier
from robustbench_lite.errors import UnsupportedLayerError, UsageError
from robustbench_lite.evaluation.identity import (
    certifier_id,
    data_id,
    model_id,
    plugin_id,
    threat_id,
)
from robustbench_lite.evaluation.outputs import Outputs
from robustbench_lite.evaluation.prepare import copy_in_eval_mode
from robustbench_lite.evaluation.subject import Subject
from robustbench_lite.machine.devices import device_of, proving_device
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.records.certificate import CertificateIdentity
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.threat import ThreatModel

logger = logging.getLogger(__name__)

OWN = "own"
OFF = "off"
"""``own``: what the defense brings, if it brings something."""


def certifier_for(
    asked: str, subject: Subject, threat: ThreatModel, shape: tuple[int, ...]
) -> Certifier | None:
    """Choose what samples are certified with; None where they are not.

    Args:
        asked: ``own``, ``off``, or a method for any network that it knows.
        subject: what is to be certified.
        threat: the ball.
        shape: of one image, (C, H, W).

    Raises:
        UnsupportedLayerError: the method was asked for by name, and the network has a layer that it
            does not know.
        UsageError: the ball has no radius.
    """
    if asked == OFF or (asked == OWN and threat.eps is None):
        return None
    if threat.eps is None:
        raise UsageError(
            f"A certificate ({asked}) is for a ball and needs its radius: give eps, for example "
            "--eps 0.1."
        )
    certifier = subject.defense.certifier(threat) if asked == OWN else BoundCertifier(method=asked)
    if certifier is None:
        return None
    try:
        certifier.check(deploy(subject), shape)
    except UnsupportedLayerError as error:
        if asked != OWN:
            raise
        logger.warning("%s is not certified: %s", subject.label, error)
        return None
    return certifier


def deploy(subject: Subject) -> nn.Module:
    """Put a copy of the network behind its defense, in eval mode, where there is float64.

    It has the layers that its author gave it.

    Raises:
        UnsupportedLayerError: the defense draws at random; a bound is of one function of the image.
    """
    defended = subject.defense.wrap(copy_in_eval_mode(subject.module))
    if defended.traits.random:
        raise UnsupportedLayerError(
            f"{subject.label} draws at random, and these bounds are of one function of the image."
        )
    module = defended.module.eval()
    return module.to(proving_device(device_of(module)))


@dataclass(frozen=True)
class Claim:
    """What is to be proved: a certifier at work on one network."""

    identity: CertificateIdentity
    certifier: Certifier
    model: nn.Module
    threat: ThreatModel
    data: Dataset
    correct: Tensor
    """(N,) bool: the samples that are classified correctly."""
    device: torch.device
    behaviour: Behaviour
    """What the network answers on probe images."""

    @classmethod
    def of(
        cls,
        subject: Subject,
        certifier: Certifier,
        threat: ThreatModel,
        data: Dataset,
        correct: Tensor,
        device: torch.device,
        behaviour: Behaviour,
        outputs: Outputs = "logits",
    ) -> Claim:
        """Claim that the samples of ``data`` that are ``correct`` (N,) are robust."""
        identity = CertificateIdentity(
            model=model_id(subject, outputs),
            defense=plugin_id("defense", subject.defense),
            certifier=certifier_id(certifier),
            threat=threat_id(threat),
            data=data_id(data),
        )
        device = proving_device(device)
        model = deploy(subject).to(device)
        return cls(identity, certifier, model, threat, data, correct, device, behaviour)
