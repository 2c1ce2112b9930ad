"""How a parameter of the node is declared: a field of a frozen dataclass that carries its name, range and text."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fusionproxy_ros.core.errors import FusionError


class ParameterError(FusionError):
    """A parameter has a value that it cannot have; the text names it, the value and what it may be."""


@dataclass(frozen=True)
class Declaration:
    """What users see of one parameter.

    name: in ROS, such as "registration.mode". text: one or two sentences, with the unit. limits: the smallest and the
    largest number. choices: the words that it may be. live: it may change while the node runs; else it takes effect at
    the next configure.
    """

    name: str
    text: str
    limits: tuple[float, float] | None
    choices: tuple[str, ...]
    live: bool


def parameter(
    name: str,
    default: Any,
    text: str,
    *,
    limits: tuple[float, float] | None = None,
    choices: Sequence[str] = (),
    live: bool = False,
) -> Any:
    """A dataclass field that is a parameter of the node, see Declaration. Arrays have tuples as defaults."""
    return field(
        default=default, metadata={"declaration": Declaration(name, text, limits, tuple(choices), live)}
    )
