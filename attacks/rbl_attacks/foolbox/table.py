"""Which attacks Foolbox has, and what our protocol wants to know of each; held to it by a test.

Left out, because of what they need or where they search:
    BinarizationRefinementAttack, DatasetAttack: other adversarials, or images of other classes, to
    start from. GenAttack: has no untargeted mode. SpatialAttack: turns and shifts the image; no
    ball of a norm says anything about that.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """What our protocol wants to know of a Foolbox attack."""

    kind: str
    access: str
    norms: frozenset[str]
    targeted: bool
    needs: str | None
    """A package without which it does not run."""


# An attack without a norm of its own is judged in any of l1, l2 and linf. "yes" marks those that
# aim at a class: attacks that start from noise would take a target too, but noise is hardly ever of
# one given class.
_TABLE = """
BinarySearchContrastReductionAttack                minimal_distance labels   l1,l2,linf no
BoundaryAttack                                     minimal_distance labels   l2         no
DDNAttack                                          minimal_distance gradient l2         yes
EADAttack                                          minimal_distance gradient l1         yes
GaussianBlurAttack                                 minimal_distance labels   l1,l2,linf no
HopSkipJumpAttack                                  minimal_distance labels   l2,linf    no
InversionAttack                                    minimal_distance labels   l1,l2,linf no
L0BrendelBethgeAttack                              minimal_distance gradient l0         no  numba
L0FMNAttack                                        minimal_distance gradient l0         yes
L1AdamBasicIterativeAttack                         fixed_eps        gradient l1         yes
L1AdamProjectedGradientDescentAttack               fixed_eps        gradient l1         yes
L1BasicIterativeAttack                             fixed_eps        gradient l1         yes
L1BrendelBethgeAttack                              minimal_distance gradient l1         no  numba
L1FMNAttack                                        minimal_distance gradient l1         yes
L1FastGradientAttack                               fixed_eps        gradient l1         no
L1MomentumIterativeFastGradientMethod              fixed_eps        gradient l1         yes
L1ProjectedGradientDescentAttack                   fixed_eps        gradient l1         yes
L2AdamBasicIterativeAttack                         fixed_eps        gradient l2         yes
L2AdamProjectedGradientDescentAttack               fixed_eps        gradient l2         yes
L2AdditiveGaussianNoiseAttack                      fixed_eps        labels   l2         no
L2AdditiveUniformNoiseAttack                       fixed_eps        labels   l2         no
L2BasicIterativeAttack                             fixed_eps        gradient l2         yes
L2BrendelBethgeAttack                              minimal_distance gradient l2         no  numba
L2CarliniWagnerAttack                              minimal_distance gradient l2         yes
L2ClippingAwareAdditiveGaussianNoiseAttack         fixed_eps        labels   l2         no
L2ClippingAwareAdditiveUniformNoiseAttack          fixed_eps        labels   l2         no
L2ClippingAwareRepeatedAdditiveGaussianNoiseAttack fixed_eps        labels   l2         no
L2ClippingAwareRepeatedAdditiveUniformNoiseAttack  fixed_eps        labels   l2         no
L2ContrastReductionAttack                          fixed_eps        labels   l2         no
L2DeepFoolAttack                                   minimal_distance gradient l2         no
L2FMNAttack                                        minimal_distance gradient l2         yes
L2FastGradientAttack                               fixed_eps        gradient l2         no
L2MomentumIterativeFastGradientMethod              fixed_eps        gradient l2         yes
L2ProjectedGradientDescentAttack                   fixed_eps        gradient l2         yes
L2RepeatedAdditiveGaussianNoiseAttack              fixed_eps        labels   l2         no
L2RepeatedAdditiveUniformNoiseAttack               fixed_eps        labels   l2         no
LInfFMNAttack                                      minimal_distance gradient linf       yes
LinearSearchBlendedUniformNoiseAttack              minimal_distance labels   l1,l2,linf no
LinearSearchContrastReductionAttack                minimal_distance labels   l1,l2,linf no
LinfAdamBasicIterativeAttack                       fixed_eps        gradient linf       yes
LinfAdamProjectedGradientDescentAttack             fixed_eps        gradient linf       yes
LinfAdditiveUniformNoiseAttack                     fixed_eps        labels   linf       no
LinfBasicIterativeAttack                           fixed_eps        gradient linf       yes
LinfDeepFoolAttack                                 minimal_distance gradient linf       no
LinfFastGradientAttack                             fixed_eps        gradient linf       no
LinfMomentumIterativeFastGradientMethod            fixed_eps        gradient linf       yes
LinfProjectedGradientDescentAttack                 fixed_eps        gradient linf       yes
LinfRepeatedAdditiveUniformNoiseAttack             fixed_eps        labels   linf       no
LinfinityBrendelBethgeAttack                       minimal_distance gradient linf       no  numba
NewtonFoolAttack                                   minimal_distance gradient l2         no
PointwiseAttack                                    minimal_distance labels   l0,l1,l2   no
SaltAndPepperNoiseAttack                           minimal_distance labels   l0,l2      no
SparseL1DescentAttack                              fixed_eps        gradient l1         yes
VirtualAdversarialAttack                           fixed_eps        gradient l2         no
"""
ALIASES = {
    "FGM": "L2FastGradientAttack",
    "FGSM": "LinfFastGradientAttack",
    "PGD": "LinfProjectedGradientDescentAttack",
    "L1PGD": "L1ProjectedGradientDescentAttack",
    "L2PGD": "L2ProjectedGradientDescentAttack",
    "LinfPGD": "LinfProjectedGradientDescentAttack",
    "AdamPGD": "LinfAdamProjectedGradientDescentAttack",
    "L1AdamPGD": "L1AdamProjectedGradientDescentAttack",
    "L2AdamPGD": "L2AdamProjectedGradientDescentAttack",
    "LinfAdamPGD": "LinfAdamProjectedGradientDescentAttack",
    "MIFGSM": "LinfMomentumIterativeFastGradientMethod",
}
"""Foolbox's own short names."""


def _parse(kind: str, access: str, norms: str, targeted: str, needs: str | None = None) -> Entry:
    """Read one line of the table."""
    return Entry(kind, access, frozenset(norms.split(",")), targeted == "yes", needs)


ENTRIES = {name: _parse(*rest) for name, *rest in map(str.split, _TABLE.strip().splitlines())}
