"""The parameters of registration."""

from dataclasses import dataclass

from fusionproxy_ros.core.parameter_declaration import parameter

IDENTITY_3X3 = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class RegistrationSettings:
    """How thermal is moved onto the RGB grid.

    Equal settings give equal lookup grids: what has no influence on a grid does not belong here.
    """

    mode: str = parameter(
        "registration.mode",
        "identity",
        "identity: same field of view; homography: 3x3; extrinsic: calibrated, and a plane; depth: and depth/image.",
        choices=("identity", "homography", "extrinsic", "depth"),
    )
    calibration_file: str = parameter(
        "registration.calibration_file",
        "",
        "YAML of fusionproxy calibrate, or Kalibr camchain, used instead of camera_info and the numbers here.",
    )
    extrinsics_source: str = parameter(
        "registration.extrinsics_source",
        "parameters",
        "parameters: rotation and translation_m, or calibration_file where given; tf: between both images' frame_ids.",
        choices=("parameters", "tf"),
    )
    homography: tuple[float, ...] = parameter(
        "registration.homography", IDENTITY_3X3, "Row-major 3x3 matrix, thermal pixel -> RGB pixel."
    )
    rotation: tuple[float, ...] = parameter(
        "registration.rotation",
        IDENTITY_3X3,
        "Row-major 3x3 rotation R of p_thermal = R p_rgb + t, optical frames.",
    )
    translation_m: tuple[float, ...] = parameter(
        "registration.translation_m", (0.0, 0.0, 0.0), "Translation t in m of p_thermal = R p_rgb + t."
    )
    plane_depth_m: float = parameter(
        "registration.plane_depth_m",
        20.0,
        "Depth in m at which extrinsic registration is exact; nearer objects shift by parallax.",
        limits=(0.1, 10_000.0),
        live=True,
    )
    nearest_object_m: float = parameter(
        "registration.nearest_object_m",
        3.0,
        "Distance in m of the nearest object that matters; its parallax error on the plane is in fused/status.",
        limits=(0.1, 10_000.0),
        live=True,
    )
    rgb_is_rectified: bool = parameter(
        "registration.rgb_is_rectified",
        False,
        "The RGB image is already undistorted: take P of rgb/camera_info, not K and D.",
    )
