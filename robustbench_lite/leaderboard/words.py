"""How shares, radii, threat models, plug-ins and rows are written.

In tables, on the page, in messages and on the screen alike.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from robustbench_lite import registry

if TYPE_CHECKING:
    from robustbench_lite.records.identity import Identity, PluginId, ThreatId

MISSING = "-"
"""What stands for a value that was not measured: never 0."""


def percent(value: float) -> str:
    """A fraction in percent, with one digit after the point.

    >>> percent(0.12345)
    '12.3'
    """
    return f"{100 * value:.1f}"


def share(value: float, interval: tuple[float, float], unit: str = "") -> str:
    """A fraction with its interval, in percent; ``unit`` stands after the first number.

    >>> share(0.745, (0.718, 0.771), "%")
    '74.5% [71.8, 77.1]'
    """
    low, high = interval
    return f"{percent(value)}{unit} [{percent(low)}, {percent(high)}]"


def share_in_full(value: float | None, interval: tuple[float, float] | None) -> str:
    """A fraction with its interval, with two digits, for a reader of one record.

    >>> share_in_full(0.465, (0.4343, 0.496))
    '46.50%, 95 % interval [43.43%, 49.60%]'
    """
    if value is None or interval is None:
        return MISSING
    low, high = interval
    return f"{value:.2%}, 95 % interval [{low:.2%}, {high:.2%}]"


def at_most(text: str, attack: PluginId) -> str:
    """Mark the robust accuracy under a suite that stops early: no sample is robust by it."""
    return f"at most {text}" if attack.inconclusive else text


def queries(forward: float, backward: float, digits: int = 1) -> str:
    """Forward and backward passes a sample: ``1,234.5 + 67.0``."""
    return f"{forward:,.{digits}f} + {backward:,.{digits}f}"


def queries_in_full(forward: float, backward: float) -> str:
    """Forward and backward passes a sample: ``1,234.5 forward, 67.0 backward``."""
    return f"{forward:,.1f} forward, {backward:,.1f} backward"


def entrant(model: str, defense: str) -> str:
    """A row, by its network and its defense."""
    return f"{model} ({defense})"


def radius_in_full(threat: ThreatId) -> str:
    """A radius with its value where it was written as a fraction: ``8/255 = 0.0313725``."""
    if threat.eps is None:
        return "none: any distance counts"
    value = f"{threat.eps:g}"
    return f"{threat.radius} = {value}" if "/" in (threat.radius or "") else value


def threat_in_short(norm: str, radius: str | None, goal: str) -> str:
    """A threat model in a few words; the ``radius`` as it was written, None for any size.

    >>> threat_in_short("linf", "8/255", "untargeted"), threat_in_short("l2", None, "random")
    ('linf 8/255', 'l2 any size, random')
    """
    return f"{norm} {radius or 'any size'}{_unless_untargeted(goal)}"


def threat_title(norm: str, radius: str | None, goal: str) -> str:
    """A threat model as a heading.

    >>> threat_title("linf", "8/255", "untargeted"), threat_title("l0", "16", "random")
    ('Linf 8/255', 'L0 16 pixels, random')
    """
    size = "of any size" if radius is None else f"{radius}{_unit(norm)}"
    return f"{norm.capitalize()} {size}{_unless_untargeted(goal)}"


def threat_in_full(norm: str, radius: str | None, goal: str) -> str:
    """A threat model as a caption says it.

    >>> threat_in_full("l0", "16", "random")
    'l0 eps = 16 pixels, goal random'
    """
    size = "any size" if radius is None else f"eps = {radius}{_unit(norm)}"
    return f"{norm} {size}{_unless_untargeted(goal, 'goal ')}"


def _unit(norm: str) -> str:
    return " pixels" if norm == "l0" else ""


def _unless_untargeted(goal: str, before: str = "") -> str:
    return "" if goal == "untargeted" else f", {before}{goal}"


def attack(identity: Identity) -> str:
    """The attack of a cell, with the hyper-parameters that are not at their default."""
    spec = _short_spec("attack", identity.attack)
    return spec if identity.adaptive is None else f"{spec} (not adaptive)"


def is_suite(name: str) -> bool:
    """Tell whether an attack of that name is a suite."""
    return registry.kind_of("attack", name) == "suite"


def stage(plugin: PluginId) -> str:
    """The attack of a stage, with the hyper-parameters that are not at their default."""
    own = {key: value for key, value in plugin.parameters.items() if "." not in key}
    return _short_spec("attack", plugin.model_copy(update={"parameters": own}))


def defense(identity: Identity) -> str:
    """The defense of a cell, with the hyper-parameters that are not at their default."""
    specs = [_short_spec("defense", part) for part in identity.defense.parts or [identity.defense]]
    return (" + " if any(" " in spec for spec in specs) else "+").join(specs)


def _short_spec(kind: registry.Kind, plugin: PluginId) -> str:
    """A plug-in as in ``pgd steps=10``; with all hyper-parameters where it is not installed."""
    defaults = _defaults(kind, plugin.name)
    words = [plugin.name]
    for key, value in sorted(plugin.parameters.items()):
        if key not in defaults or defaults[key] != value:
            words.append(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}")
    return " ".join(words)


def _defaults(kind: registry.Kind, name: str) -> Mapping[str, object]:
    if name not in registry.names(registry.kind_of(kind, name)):
        return {}
    try:
        plugin = registry.load(kind, name)
    except ImportError:
        return {}
    return {field.name: field.default for field in registry.hyperparameters(plugin)}


def spec_for_shell(plugin: PluginId) -> str:
    """A plug-in with all hyper-parameters, as an option takes it."""
    words = (f"{key}={shlex.quote(str(value))}" for key, value in sorted(plugin.parameters.items()))
    return " ".join([plugin.name, *words])


def plugin_in_full(plugin: PluginId) -> str:
    """A plug-in with its version and all hyper-parameters, for a reader."""
    parameters = ", ".join(f"{key}={value}" for key, value in sorted(plugin.parameters.items()))
    return f"{plugin.name} version {plugin.version}: {parameters or 'no parameters'}"
