"""Thermal sight for any RGB perception stack, as a ROS 2 package.

The path of one frame, in the order of the files: frames, messages, shutter, sync, lens, calibration,
registration, alignment, misalignment, normalisation, student, native, device, fuser, worker, parameters, rig, guard,
health, transport, tf, inputs, node.
"""

from pkgutil import extend_path

# The source tree holds the code and the install tree holds the generated fusionproxy_ros.msg; both are one package.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
