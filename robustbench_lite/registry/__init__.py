"""Plug-ins by name, and the text form of their hyper-parameters.

Attacks and defenses register through entry points, the built-in ones exactly as a third party's.
Any other name is code, and whether it may run is decided by where the text that has it came from:
see :class:`Trust`.
"""

from robustbench_lite.registry.build import call_with_text as call_with_text
from robustbench_lite.registry.build import create as create
from robustbench_lite.registry.build import hyperparameters as hyperparameters
from robustbench_lite.registry.build import parameters as parameters
from robustbench_lite.registry.entries import Kind as Kind
from robustbench_lite.registry.entries import Source as Source
from robustbench_lite.registry.entries import import_object as import_object
from robustbench_lite.registry.entries import kind_of as kind_of
from robustbench_lite.registry.entries import load as load
from robustbench_lite.registry.entries import names as names
from robustbench_lite.registry.entries import of_source as of_source
from robustbench_lite.registry.entries import source as source
from robustbench_lite.registry.entries import sources as sources
from robustbench_lite.registry.entries import targets as targets
from robustbench_lite.registry.spec import Spec as Spec
from robustbench_lite.registry.spec import split as split
from robustbench_lite.registry.trust import Trust as Trust
