"""What a person needs to trust a calibration: numbers, what the views cover, and the two images before and after."""

import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from fusionproxy_ros.calibrate.board import Board, BoardError, SharedView, corners_in, pose, shared_views
from fusionproxy_ros.calibrate.collect import Shots
from fusionproxy_ros.calibrate.quality import FAR, covered
from fusionproxy_ros.calibrate.solve import StereoResult, calibrate_stereo
from fusionproxy_ros.core.errors import FusionError
from fusionproxy_ros.core.pictures import captioned
from fusionproxy_ros.geometry import lens
from fusionproxy_ros.geometry.calibration_files import save_calibration
from fusionproxy_ros.geometry.camera import Calibration, Camera
from fusionproxy_ros.geometry.lens import Size

PANEL_PX = 640  # width of one picture in the sheets
OVERLAY_VIEWS = 3  # in overlay.png
LISTED_IMAGES = 10  # unusable ones that the table names
GREEN, RED, GREY = (80, 220, 80), (70, 70, 255), (150, 150, 150)  # BGR
UNSEEN = (45, 45, 45)


def calibrate_board(shots: Shots, board: Board, out: Path) -> StereoResult:
    """Solve, write calibration.yaml, report.json, coverage.png and overlay.png into `out`, and print a table.

    shots: of collect.from_folders or from_bag. Raises BoardError, and FusionError where `out` cannot be written.
    """
    try:
        result = calibrate_stereo(shots.views, board, shots.rgb_size_px, shots.thermal_size_px)
    except BoardError as error:
        raise BoardError("\n".join([str(error), *_unusable(shots)])) from error
    try:
        out.mkdir(parents=True, exist_ok=True)
        save_calibration(result.calibration, out / "calibration.yaml")
        (out / "report.json").write_text(json.dumps(_numbers(result, shots, board), indent=2) + "\n")
    except OSError as error:
        raise FusionError(f"{out} cannot be written: {error}") from error
    for name, sheet in (
        ("coverage.png", coverage_sheet(result, shots)),
        ("overlay.png", overlay_sheet(result, shots, board)),
    ):
        if not cv2.imwrite(str(out / name), sheet):
            raise FusionError(f"{out / name} cannot be written")
    print(table(result, shots))
    print(f"\n  {out}/calibration.yaml  {out}/report.json  {out}/coverage.png  {out}/overlay.png")
    return result


# --- numbers


def _field_of_view_deg(camera: Camera) -> tuple[float, float]:
    """Horizontal and vertical, between the outermost pixel centres of the middle row and column."""
    width, height = camera.width_px - 1, camera.height_px - 1
    ends = np.array([[0, height / 2], [width, height / 2], [width / 2, 0], [width / 2, height]])
    angles = np.degrees(np.arctan(lens.rays(camera, ends)[0]))
    return float(angles[1, 0] - angles[0, 0]), float(angles[3, 1] - angles[2, 1])


def _rotation_deg(calibration: Calibration) -> float:
    return float(np.degrees(np.linalg.norm(cv2.Rodrigues(calibration.rotation)[0])))


def _numbers(result: StereoResult, shots: Shots, board: Board) -> dict:
    calibration = result.calibration
    return {
        "board": asdict(board),
        "images_searched": shots.searched,
        "boards_found": shots.found,
        "rms_px": {
            "stereo": result.rms_px,
            "rgb": result.rgb_rms_px,
            "thermal": result.thermal_rms_px,
        },
        "focal_px": {"rgb": calibration.rgb.k[0, 0], "thermal": calibration.thermal.k[0, 0]},
        "field_of_view_deg": {
            "rgb": _field_of_view_deg(calibration.rgb),
            "thermal": _field_of_view_deg(calibration.thermal),
        },
        "baseline_m": float(np.linalg.norm(calibration.translation_m)),
        "rotation_deg": _rotation_deg(calibration),
        "board_depth_m": result.board_depth_m,
        "coverage": {"rgb": result.rgb_coverage, "thermal": result.thermal_coverage},
        "uncertainty": asdict(result.uncertainty) if result.uncertainty else None,
        "views": [asdict(quality) for quality in result.quality],
        "rejected": result.rejected,
        "unusable": shots.problems,
        "warnings": result.warnings,
    }


def table(result: StereoResult, shots: Shots) -> str:
    """The report as aligned text."""
    calibration, uncertainty = result.calibration, result.uncertainty

    def camera(name: str, camera: Camera, rms_px: float, coverage: float) -> str:
        horizontal, vertical = _field_of_view_deg(camera)
        return (
            f"board found in {shots.found[name]} of {shots.searched[name]} images, RMS {rms_px:.2f} px, focal length "
            f"{camera.k[0, 0]:.0f} px, field of view {horizontal:.1f} x {vertical:.1f} deg, {coverage:.0%} covered"
        )

    stereo = sum(quality.stereo_px is not None for quality in result.quality)
    rows = {
        "RGB": camera("rgb", calibration.rgb, result.rgb_rms_px, result.rgb_coverage),
        "thermal": camera("thermal", calibration.thermal, result.thermal_rms_px, result.thermal_coverage),
        "stereo RMS": f"{result.rms_px:.2f} px over {stereo} views",
        "baseline": f"{np.linalg.norm(calibration.translation_m):.4f} m, turned {_rotation_deg(calibration):.2f} deg",
    }
    if uncertainty:
        rows["thermal on RGB"] = (
            f"known to {uncertainty.board_px:.1f} px at {result.board_depth_m:.1f} m (the board's distance), "
            f"{uncertainty.far_px:.1f} px at {FAR * result.board_depth_m:.0f} m"
        )
    lines = [f"  {name:<16} {value}" for name, value in rows.items()]
    width = max(4, *(len(quality.name) for quality in result.quality))
    lines += [
        "",
        f"  {'view':<{width}}  {'RGB px':>7} {'thermal px':>11} {'stereo px':>10} {'at m':>6} {'tilt deg':>9}",
    ]
    for quality in result.quality:
        rgb, thermal, both = (
            "-" if value is None else f"{value:.2f}"
            for value in (quality.rgb_px, quality.thermal_px, quality.stereo_px)
        )
        lines.append(
            f"  {quality.name:<{width}}  {rgb:>7} {thermal:>11} {both:>10} {quality.depth_m:>6.2f} "
            f"{quality.tilt_deg:>9.0f}"
        )
    lines += [f"  rejected: {name}: {reason}" for name, reason in result.rejected.items()]
    lines += _unusable(shots)
    lines += [f"  warning: {warning}" for warning in result.warnings]
    return "\n".join(lines)


def _unusable(shots: Shots) -> list[str]:
    lines = [f"  unusable: {problem}" for problem in shots.problems[:LISTED_IMAGES]]
    if len(shots.problems) > LISTED_IMAGES:
        lines.append(f"  unusable: {len(shots.problems) - LISTED_IMAGES} more")
    return lines


# --- pictures


def coverage_sheet(result: StereoResult, shots: Shots) -> np.ndarray:
    """(H, W, 3) uint8 BGR: both image planes, every board in them, and what no board has covered."""
    rejected = [view for view in shots.views if view.name in result.rejected]
    panels = [
        _coverage_panel(title, corners_in(result.views, side), corners_in(rejected, side), size)
        for title, side, size in (
            (f"RGB: {result.rgb_coverage:.0%} covered", "rgb", shots.rgb_size_px),
            (f"thermal: {result.thermal_coverage:.0%} covered", "thermal", shots.thermal_size_px),
        )
    ]
    legend = (
        "green: boards used; red: boards of rejected views; dark: not covered, the lens model is a guess there. "
        "Hold the board where it is dark."
    )
    return captioned(_side_by_side(panels), legend)


def _coverage_panel(
    title: str, used: list[np.ndarray], rejected: list[np.ndarray], size_px: Size
) -> np.ndarray:
    scale = PANEL_PX / size_px[0]
    panel_size = PANEL_PX, round(size_px[1] * scale)
    seen = cv2.resize(covered(used, size_px), panel_size, interpolation=cv2.INTER_NEAREST) > 0
    panel = np.full((panel_size[1], panel_size[0], 3), UNSEEN, np.uint8)
    panel[seen] = (70, 95, 70)
    for boards, colour in ((used, GREEN), (rejected, RED)):
        for corners in boards:
            _dots(panel, (corners + 0.5) * scale - 0.5, colour)
    cv2.rectangle(panel, (0, 0), (panel.shape[1] - 1, panel.shape[0] - 1), GREY, 1)
    return captioned(panel, title)


def overlay_sheet(result: StereoResult, shots: Shots, board: Board) -> np.ndarray:
    """(H, W, 3) uint8 BGR: thermal on RGB, merely scaled and by the calibration, for the views that differ most."""
    shared = shared_views(result.views)
    tilts = {quality.name: quality.tilt_deg for quality in result.quality}
    shared.sort(key=lambda view: tilts[view.name])
    chosen = [
        shared[i] for i in np.unique(np.linspace(0, len(shared) - 1, OVERLAY_VIEWS).round().astype(int))
    ]
    rows = [_overlay_row(result, shots, board, view) for view in chosen]
    legend = [
        "thermal (colour) over RGB (grey). Green circles: corners seen by the RGB camera. Red crosses: corners seen "
        "by the thermal camera.",
        "A good calibration puts every cross into its circle.",
    ]
    return captioned(np.vstack(rows), *legend)


def _overlay_row(result: StereoResult, shots: Shots, board: Board, view: SharedView) -> np.ndarray:
    rgb_pixels, thermal_pixels = shots.pictures[view.name]
    assert rgb_pixels is not None and thermal_pixels is not None, "corners were found in both"
    size_px = rgb_pixels.shape[1], rgb_pixels.shape[0]
    shrink = size_px[0] / shots.rgb_size_px[0]
    rgb = (view.rgb + 0.5) * shrink - 0.5
    stretch = np.array(size_px) / shots.thermal_size_px
    before = cv2.resize(thermal_pixels, size_px, interpolation=cv2.INTER_LINEAR)
    small = lens.scaled(result.calibration.rgb, size_px, "rgb")
    calibration = Calibration(
        small, result.calibration.thermal, result.calibration.rotation, result.calibration.translation_m
    )
    plane = pose(board, small, rgb.astype(np.float32))
    after = _on_board_plane(calibration, plane, thermal_pixels, size_px)
    panels = []
    for title, thermal, corners in (
        ("before: thermal scaled onto RGB", before, (view.thermal + 0.5) * stretch - 0.5),
        ("after: by the calibration", after, _to_rgb(calibration, plane, view.thermal)),
    ):
        distance_px = np.sqrt(((corners - rgb) ** 2).sum(axis=1).mean()) / shrink
        panel = _blend(rgb_pixels, thermal)
        _dots(panel, rgb, GREEN, radius=5)
        _crosses(panel, corners, RED)
        panels.append(captioned(panel, f"{view.name}  {title}: corners {distance_px:.1f} RGB px apart"))
    return _side_by_side(panels)


def _on_board_plane(
    calibration: Calibration, plane: tuple, thermal_pixels: np.ndarray, size_px: Size
) -> np.ndarray:
    """Thermal as the RGB camera would see it if everything lay in the board's plane: (H, W), dtype of the input.

    Convention: RGB pixel -> ray -> point on the board's plane (pose in the RGB frame) -> thermal pixel.
    """
    x, y = np.meshgrid(np.arange(size_px[0], dtype=np.float64), np.arange(size_px[1], dtype=np.float64))
    directions, _ = lens.rays(calibration.rgb, np.column_stack([x.ravel(), y.ravel()]))
    points_m = _intersect(np.column_stack([directions, np.ones(len(directions))]), plane[0][:, 2], plane[1])
    pixels, _ = lens.project(
        calibration.thermal, points_m @ calibration.rotation.T + calibration.translation_m
    )
    map_x, map_y = pixels.T.reshape(2, *x.shape).astype(np.float32)
    return cv2.remap(thermal_pixels, map_x, map_y, cv2.INTER_LINEAR)


def _to_rgb(calibration: Calibration, plane: tuple, thermal: np.ndarray) -> np.ndarray:
    """Thermal pixels (N, 2) moved to the RGB image by way of the board's plane: (N, 2) RGB pixels.

    Convention: thermal pixel -> ray -> point on the board's plane -> p_rgb = rotation.T @ (p_thermal - translation).
    """
    directions, _ = lens.rays(calibration.thermal, thermal.astype(np.float64))
    normal = calibration.rotation @ plane[0][:, 2]
    centre_m = calibration.rotation @ plane[1] + calibration.translation_m
    points_m = _intersect(np.column_stack([directions, np.ones(len(directions))]), normal, centre_m)
    return lens.project(calibration.rgb, (points_m - calibration.translation_m) @ calibration.rotation)[0]


def _intersect(rays: np.ndarray, normal: np.ndarray, point_m: np.ndarray) -> np.ndarray:
    """Points (N, 3) where rays (N, 3) from the origin meet the plane."""
    along = rays @ normal
    along = np.where(np.abs(along) < 1e-9, 1e-9, along)
    return rays * (normal @ point_m / along)[:, None]


def _blend(rgb: np.ndarray, thermal: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    thermal = np.nan_to_num(thermal.astype(np.float32))
    low, high = np.percentile(thermal, (1, 99))
    unit = ((thermal - low) / max(high - low, 1e-6)).clip(0, 1)
    colour = cv2.applyColorMap((255 * unit).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return cv2.addWeighted(grey, 0.5, colour, 0.5, 0)


def _dots(panel: np.ndarray, points: np.ndarray, colour: tuple, radius: int = 2) -> None:
    for x, y in points.round().astype(int).tolist():
        cv2.circle(panel, (x, y), radius, colour, 1, cv2.LINE_AA)


def _crosses(panel: np.ndarray, points: np.ndarray, colour: tuple) -> None:
    height, width = panel.shape[:2]
    for x, y in points.clip(-9, (width + 9, height + 9)).round().astype(int).tolist():
        cv2.drawMarker(panel, (x, y), colour, cv2.MARKER_TILTED_CROSS, 7, 1, cv2.LINE_AA)


def _side_by_side(panels: list[np.ndarray]) -> np.ndarray:
    height = max(panel.shape[0] for panel in panels)
    return np.hstack(
        [cv2.copyMakeBorder(p, 0, height - p.shape[0], 4, 4, cv2.BORDER_CONSTANT) for p in panels]
    )
