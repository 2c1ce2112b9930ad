"""The fusion node's process, from its start to its end."""

import gc
import os
import signal
import sys
from contextlib import suppress

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions, install_signal_handlers

from fusionproxy_ros import transport
from fusionproxy_ros.frames import FusionError
from fusionproxy_ros.memory import keep_freed_memory

# How many rounds OpenMP's idle threads spin before they sleep: some microseconds, between the layers of the student. It
# costs nothing on idle cores; where cores are busy, spinning longer holds them from whoever would work, the camera
# drivers and our own other thread. docs/performance.md has the figures.
GOMP_SPINCOUNT = "2000"


def _import_node(ahead: Node) -> type:
    """FusionNode, and torch where it will be needed.

    A signal meanwhile ends the process, since torch aborts where an exception meets its import.
    """

    def leave(*_):
        ahead.destroy_node()
        rclpy.shutdown()
        rclpy.get_default_context().destroy()  # peers are told
        os._exit(0)

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    from fusionproxy_ros.fuser import torch_is_needed
    from fusionproxy_ros.node import FusionNode

    if torch_is_needed():
        with suppress(ImportError):  # Fuser says what that means
            import torch  # noqa: F401
    for number, handler in before.items():
        signal.signal(number, handler)
    return FusionNode


def main() -> int:
    """Entry of `ros2 run fusionproxy_ros fusion_node`; the exit code.

    A hidden node joins the graph before anything large is imported; torch takes seconds. Fast DDS announces a
    participant a moment before it listens; a peer that answers within that moment is not heard, and repeats itself
    after up to three seconds only. So they pass while there is something else to wait for.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINCOUNT)  # before OpenMP is loaded
    keep_freed_memory()
    transport.use_large_image_profile()
    executor = node = ahead = None
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        ahead = rclpy.create_node(
            f"_fusion_{os.getpid()}",
            use_global_arguments=False,
            enable_rosout=False,
            start_parameter_services=False,
        )
        fusion_node = _import_node(ahead)
        install_signal_handlers()
        node = fusion_node()
        ahead.destroy_node()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        autostart = node.get_parameter("autostart").value
        if autostart and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            node.trigger_activate()
        executor.spin()
    except FusionError as error:
        print(f"fusion_node: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if rclpy.ok():  # else a signal took the context away in the middle of the start
            raise
    finally:
        if node:
            node.stop()
            node.destroy_node()
        if executor:
            executor.shutdown()
        rclpy.try_shutdown()
        node = executor = ahead = None
        gc.collect()  # what still holds the context, so that it goes now, and peers are told
        rclpy.get_default_context().destroy()
    return 0
