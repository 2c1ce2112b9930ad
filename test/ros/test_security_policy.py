"""config/sros2_policy.xml allows what the node does, all of it and nothing else."""

import importlib.util
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from fusionproxy_ros.ros.subscriptions import TOPIC_SUFFIX
from fusionproxy_ros.trials.harness import wait_until

POLICY = Path(__file__).parent.parent.parent / "config" / "sros2_policy.xml"
NODE = "fusion"
OPTIONS = {"debug_images": True, "registration.mode": "depth", "use_sim_time": True}
# Only a node that asks TF for the extrinsics has these, and only where tf2_ros is installed.
TF = {("subscribe", "/tf"), ("subscribe", "/tf_static")}


def resolved(name):
    """As ROS resolves it for a node `fusion` in the namespace "/"."""
    return name.replace("~", f"/{NODE}") if name.startswith("~") else f"/{name.lstrip('/')}"


def allowed():
    """(what, name) of every rule of the policy."""
    rules = set()
    for group in ElementTree.parse(POLICY).iterfind("./enclaves/enclave/profiles/profile/*"):
        for what, verdict in group.attrib.items():
            assert verdict == "ALLOW"
            rules |= {(what, resolved(expression.text)) for expression in group}
    return rules


def used(node):
    """(what, name) of everything the fusion node has, as the graph shows it."""
    ask = {
        "publish": node.get_publisher_names_and_types_by_node,
        "subscribe": node.get_subscriber_names_and_types_by_node,
        "reply": node.get_service_names_and_types_by_node,
        "request": node.get_client_names_and_types_by_node,
    }
    return {(what, name) for what, names in ask.items() for name, _ in names(NODE, "/")}


def steady(node, image_topic):
    """`used`, once it no longer grows."""
    # Endpoints are heard of by themselves, and maybe before the name of their node.
    wait_until(
        lambda: node.count_subscribers(image_topic) and NODE in node.get_node_names(),
        30,
        "fusion node subscribing",
    )
    seen = None
    while (now := used(node)) != seen:
        seen = now
        time.sleep(1.0)
    return seen


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_the_policy_allows_every_topic_and_service_of_the_node_and_no_other(graph, transport):
    parameters = OPTIONS | {"rgb_transport": transport, "thermal_transport": transport}
    if tf := importlib.util.find_spec("tf2_ros"):
        parameters["registration.extrinsics_source"] = "tf"
    graph.fusion(parameters)
    graph.downstream()  # without anybody who listens the node need not listen either
    found = steady(graph.node, "rgb/image_raw" + TOPIC_SUFFIX[transport])
    other_transport = {
        ("subscribe", f"/{camera}/image_raw{suffix}")
        for camera in ("rgb", "thermal")
        for name, suffix in TOPIC_SUFFIX.items()
        if name != transport
    }
    assert found == allowed() - other_transport - (set() if tf else TF)
