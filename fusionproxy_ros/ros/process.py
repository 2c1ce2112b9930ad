"""The fusion node's process, from its start to its end."""

import gc
import os
import signal
import sys
import threading
import traceback
from functools import partial

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions, install_signal_handlers

from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.ros import dds

# How many rounds OpenMP's idle threads spin before they sleep: some microseconds, between the layers of the student. It
# costs nothing on idle cores; where cores are busy, spinning longer holds them from whoever would work, the camera
# drivers and our own other thread. docs/performance.md has the figures.
GOMP_SPINCOUNT = "2000"
PORTS_PERIOD_S = 1.0  # how often its ports are looked after


def _join() -> Node:
    """Into the graph, with a hidden node for a start: without one there is no participant yet."""
    with dds.fresh_port():
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        return rclpy.create_node(
            f"_fusion_{os.getpid()}",
            use_global_arguments=False,
            enable_rosout=False,
            start_parameter_services=False,
        )


def _leave() -> None:
    """Out of the graph, so that peers are told; where somebody still holds a node, only with the process."""
    context = rclpy.get_default_context()
    rclpy.try_shutdown()
    gc.collect()
    context.destroy()


def _import_node(placeholder: Node) -> type:
    """FusionNode, and torch where it will be needed.

    A signal meanwhile ends the process, since torch aborts where an exception meets its import.
    """

    def leave(*_):
        placeholder.destroy_node()
        _leave()
        os._exit(0)

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    from fusionproxy_ros.fusion.devices import import_torch_if_needed
    from fusionproxy_ros.ros.node import FusionNode

    import_torch_if_needed()
    for number, handler in before.items():
        signal.signal(number, handler)
    gc.freeze()  # what is imported stays: looking for garbage in it takes 4 to 10 ms each time
    return FusionNode


def _live(
    fusion_node: type, placeholder: Node, state: str, parameters: list[Parameter]
) -> tuple[str, list[Parameter]] | None:
    """A node with these parameters in this state, until nobody new can reach it; what they are then.

    None where the graph was shut down, and a signal may also raise.
    placeholder: leaves when the node is there. state: empty for what autostart says.
    """
    node, executor = fusion_node(parameter_overrides=parameters), SingleThreadedExecutor()
    # Else what a background job raises goes to stderr only. Not by the node: every thread keeps the hook that it was
    # started under, and a node that something keeps cannot leave the graph.
    threading.excepthook = partial(_log_exception, node.get_logger())
    try:
        placeholder.destroy_node()
        node.reach(state or ("active" if node.get_parameter("autostart").value else "unconfigured"))
        executor.add_node(node)
        node.create_timer(PORTS_PERIOD_S, dds.check_ports, clock=Clock(clock_type=ClockType.STEADY_TIME))
        executor.spin()
    except dds.DeafError as error:
        node.get_logger().error(str(error))
        return node.state, list(node.get_parameters_by_prefix("").values())
    finally:
        node.destroy_node()
        executor.shutdown()
    return None


def _log_exception(logger: RcutilsLogger, raised: threading.ExceptHookArgs) -> None:
    text = traceback.format_exception(raised.exc_type, raised.exc_value, raised.exc_traceback)
    logger.error("".join(text))


def main() -> int:
    """Entry of `ros2 run fusionproxy_ros fusion_node`; the exit code.

    A hidden node joins the graph before anything large is imported; torch takes seconds. Fast DDS announces a
    participant a moment before it listens; a peer that answers within that moment is not heard, and repeats itself
    after a while only. So they pass while there is something else to wait for.

    A node that nobody can reach any more is made anew in this process, with its parameters and in its state.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINCOUNT)  # before OpenMP is loaded
    dds.use_large_image_profile()
    placeholder = None
    try:
        placeholder = _join()
        fusion_node = _import_node(placeholder)
        install_signal_handlers()
        life: tuple[str, list[Parameter]] | None = ("", [])
        while life and (life := _live(fusion_node, placeholder, *life)):
            placeholder = None
            _leave()
            placeholder = _join()
    except FusionError as error:
        print(f"fusion_node: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if rclpy.ok():  # else a signal took the context away in the middle of the start
            raise
    finally:
        if placeholder:
            placeholder.destroy_node()
        placeholder = None
        _leave()
    return 0
