"""The node's parameters as ROS knows them: declared with description and range, read, and changed while it runs."""

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.parameter import Parameter

from fusionproxy_ros.core.parameter_declaration import ParameterError
from fusionproxy_ros.pipeline.settings import PLACES, ROS_OWN, GivenParameters, known_names, plain, unknown


def descriptor_of(name: str) -> ParameterDescriptor:
    """Descriptor of one parameter: what `ros2 param describe` shows."""
    declared, default = PLACES[name].declaration, PLACES[name].default
    descriptor = ParameterDescriptor(description=declared.text)
    descriptor.additional_constraints = "one of " + ", ".join(declared.choices) if declared.choices else ""
    if not declared.live:
        descriptor.additional_constraints += "; " if descriptor.additional_constraints else ""
        descriptor.additional_constraints += "takes effect at the next configure"
    if declared.limits:
        low, high = declared.limits
        if isinstance(default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    return descriptor


def declare(node) -> dict[str, str]:
    """Declare every parameter on `node`; name -> what is wrong with the value that the node was started with.

    node: made with automatically_declare_parameters_from_overrides, the public way to learn every name it was given.
    Of one camera pair's own parameters (front.deadline_s), those that were given are declared. A wrong one stands at
    its default; configure refuses while any is left, set_parameters takes a known one away.
    """
    wrong = {}
    given = set(node.get_parameters_by_prefix("")) - ROS_OWN
    cameras = node.get_parameter("cameras").value if "cameras" in given else ()
    cameras = cameras if isinstance(cameras, list) and all(isinstance(name, str) for name in cameras) else ()
    known = known_names(cameras)
    for name in given:
        node.undeclare_parameter(
            name
        )  # declared below, or by its publisher (qos_overrides), with description and range
        if name not in known and not name.startswith("qos_overrides."):
            wrong[name] = unknown(name, cameras)
    for name in known:
        if name not in PLACES and name not in given:
            continue
        default = PLACES[known[name]].default
        default = list(default) if isinstance(default, tuple) else default
        try:
            node.declare_parameter(name, default, descriptor_of(known[name]))
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            node.declare_parameter(name, default, descriptor_of(known[name]), ignore_override=True)
            hint = f"; write {float(default)}, not {round(default)}" if isinstance(default, float) else ""
            wrong[name] = f"parameter {name}: {error}{hint}"
    return wrong


def read(node) -> GivenParameters:
    """The node's present parameters. Raises ParameterError."""
    known = known_names(node.get_parameter("cameras").value)
    present = node.get_parameters_by_prefix("")
    settings = GivenParameters({name: plain(present[name].value) for name in known if name in present})
    for camera in settings.cameras or ("",):
        settings.of(camera)
    return settings


def changed(settings: GivenParameters, updates: list[Parameter], only_live: bool = False) -> GivenParameters:
    """`settings` with `updates` applied. Raises ParameterError; other nodes' parameters are ignored.

    only_live: refuse a change that a configured node would not follow.
    """
    known = known_names(settings.cameras)
    new = GivenParameters({**settings.values, **{p.name: plain(p.value) for p in updates if p.name in known}})
    for camera in settings.cameras:
        after = new.of(camera)
        before = settings.of(camera) if only_live else after
        for name, place in PLACES.items():
            if not place.declaration.live and place.value_in(after) != place.value_in(before):
                raise ParameterError(
                    f"parameter {name} is read at configure: deactivate and clean up the node, then set it"
                )
    return new
