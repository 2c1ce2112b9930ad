"""The node's parameters as ROS knows them: declared with description and range, read, and changed while it runs."""

import dataclasses

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.parameter import Parameter

from fusionproxy_ros.parameters import FIELDS, ROS_OWN, ParameterError, Parameters, checked, plain, unknown


def describe(name: str) -> ParameterDescriptor:
    """Descriptor of one parameter: what `ros2 param describe` shows."""
    meta = FIELDS[name].metadata
    descriptor = ParameterDescriptor(description=meta["description"])
    descriptor.additional_constraints = "one of " + ", ".join(meta["choices"]) if meta["choices"] else ""
    if not meta["live"]:
        descriptor.additional_constraints += "; " if descriptor.additional_constraints else ""
        descriptor.additional_constraints += "takes effect at the next configure"
    if meta["range"]:
        low, high = meta["range"]
        if isinstance(FIELDS[name].default, int):
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    return descriptor


def declare(node) -> dict[str, str]:
    """Declare every parameter on `node`; name -> what is wrong with the value that the node was started with.

    node: made with automatically_declare_parameters_from_overrides, the public way to learn every name it was given.
    A wrong one stands at its default; configure refuses while any is left, set_parameters takes a known one away.
    """
    wrong = {}
    for name in set(node.get_parameters_by_prefix("")) - ROS_OWN:
        node.undeclare_parameter(
            name
        )  # declared below, or by its publisher (qos_overrides), with description and range
        if name not in FIELDS and not name.startswith("qos_overrides."):
            wrong[name] = unknown(name)
    for name, f in FIELDS.items():
        default = list(f.default) if isinstance(f.default, tuple) else f.default
        try:
            node.declare_parameter(name, default, describe(name))
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            node.declare_parameter(name, default, describe(name), ignore_override=True)
            hint = f"; write {float(default)}, not {round(default)}" if isinstance(default, float) else ""
            wrong[name] = f"parameter {name}: {error}{hint}"
    return wrong


def read(node) -> Parameters:
    """The node's present parameters. Raises ParameterError."""
    values = {name: node.get_parameter(name).value for name in FIELDS}
    return checked(Parameters(**{FIELDS[name].name: plain(value) for name, value in values.items()}))


def changed(parameters: Parameters, updates: list[Parameter], only_live: bool = False) -> Parameters:
    """`parameters` with `updates` applied. Raises ParameterError; other nodes' parameters are ignored.

    only_live: refuse a change that a configured node would not follow.
    """
    known = {FIELDS[p.name].name: plain(p.value) for p in updates if p.name in FIELDS}
    new = checked(dataclasses.replace(parameters, **known))
    for name, f in FIELDS.items():
        if only_live and not f.metadata["live"] and getattr(new, f.name) != getattr(parameters, f.name):
            raise ParameterError(
                f"parameter {name} is read at configure: deactivate and clean up the node, then set it"
            )
    return new
