"""Which ROS_DOMAIN_ID a test may have."""

import os
import random

# Of the processes of `pytest -n`, each has its own. Beyond 101 ports run into those that Linux lends to clients.
NUMBER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
COUNT = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def own_domain() -> str:
    """At random, since another suite may run on this machine."""
    return str(random.choice(range(1 + NUMBER, 102, COUNT)))
