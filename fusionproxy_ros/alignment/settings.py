"""The parameters of what is done about drift."""

from dataclasses import dataclass

from fusionproxy_ros.core.parameter_declaration import parameter


@dataclass(frozen=True)
class DriftSettings:
    """Thermal that no longer lies where the calibration puts it, as a bumped camera does."""

    warn_px: float = parameter(
        "registration.misalignment_warn_px",
        4.0,
        "Estimated offset in px of thermal from RGB above which diagnostics warn; 0 turns the estimate off.",
        limits=(0.0, 100.0),
        live=True,
    )
    refine_max_px: float = parameter(
        "registration.refine_max_px",
        0.0,
        "Largest correction in px of an estimated offset; 0 corrects nothing.",
        limits=(0.0, 100.0),
        live=True,
    )
