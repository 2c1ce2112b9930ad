"""SyncSettings in the unit that tests of time think in."""

from fusionproxy_ros.pairing.settings import SyncSettings


def sync_settings(policy="nearest", **ns):
    """tolerance_ns=..., deadline_ns=...; the others at their defaults, but that frozen thermal counts unless asked."""
    seconds = {f"{name.removesuffix('_ns')}_s": value / 1e9 for name, value in ns.items()}
    return SyncSettings(policy=policy, **{"frozen_after_s": 0.0} | seconds)
