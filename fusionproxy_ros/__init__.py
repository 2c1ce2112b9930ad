"""Thermal sight for any RGB perception stack, as a ROS 2 package.

The rooms, each of which imports only those above it: core, pairing, geometry, alignment, fusion, pipeline, ros,
metrics, bags, report, calibrate, distill, trials, cli. Each says in its `__init__.py` what it is for.
"""

from pkgutil import extend_path

# The source tree holds the code and the install tree holds the generated fusionproxy_ros.msg; both are one package.
__path__ = extend_path(__path__, __name__)
