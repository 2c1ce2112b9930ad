"""The measurements of `fusionproxy evaluate` against what can be worked out by hand, and the command itself."""

import json

import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from fusionproxy_ros import cli
from fusionproxy_ros.distill import baselines, data, evaluate, metrics, robustness, sheet, tables
from fusionproxy_ros.distill.ensemble import summarise
from fusionproxy_ros.distill.tensors import TensorFileError
from fusionproxy_ros.student import Student, save_student


def only_luma(luma, thermal):
    return luma


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    save_student(Student((8, 8, 8)), tmp_path / "small.safetensors", {})
    return tmp_path / "small.safetensors"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(evaluate, "TIMED_RUNS", 3)
    monkeypatch.setattr(evaluate, "THREADS", 1)


def example(set_name, name, bgr, thermal=None):
    thermal = bgr[..., 0] if thermal is None else thermal
    return data.Example(data.PairFile(set_name, name, None, None), bgr, np.ascontiguousarray(thermal))


def grey(level, size=(48, 64)):
    return np.full((*size, 3), level, np.uint8)


# baselines, ranks


@pytest.mark.parametrize("name", baselines.CLASSICAL)
def test_classical_fusion_of_two_equal_images_is_that_image(textures, name):
    fused = baselines.CLASSICAL[name](textures[0], textures[0])
    assert fused.dtype == np.uint8 and np.abs(fused.astype(int) - textures[0]).max() <= 1


def test_mean_rank_counts_one_for_the_best_by_the_ranking_metrics_alone():
    means = {
        "good": dict.fromkeys(metrics.METRICS, 2.0) | {"SD": 0.0},
        "equal": dict.fromkeys(metrics.METRICS, 2.0),
        "bad": dict.fromkeys(metrics.METRICS, 1.0) | {"SD": 9.0},
    }
    assert tables.mean_ranks(means) == {"good": 1, "equal": 1, "bad": 3}


def test_night_is_told_by_the_name_in_msrs_and_by_brightness_elsewhere():
    assert evaluate.is_night(example("msrs", "00001N", grey(200)))
    assert not evaluate.is_night(example("msrs", "00001D", grey(20)))
    assert evaluate.is_night(example("m3fd", "00001D", grey(20)))
    assert not evaluate.is_night(example("m3fd", "00001N", grey(200)))


# misaligned and useless thermal


def test_misalignment_is_30_px_and_10_degrees_the_same_in_every_run_and_another_for_each_pair():
    def peak(x, y, name):
        spot = np.zeros((201, 301), np.uint8)
        cv2.circle(spot, (x, y), 4, 255, -1)
        moved = robustness.misaligned(spot, name)
        return np.argwhere(moved > 127).mean(0)[::-1]

    headings = set()
    for name in ("msrs/00001N", "msrs/00002N", "m3fd/00001N"):
        centre, right = peak(150, 100, name), peak(220, 100, name)
        assert np.hypot(*(centre - (150, 100))) == pytest.approx(30, abs=0.5)
        turn = np.degrees(np.arctan2(*(right - centre)[::-1]))
        assert abs(turn) == pytest.approx(10, abs=0.5)
        assert (peak(150, 100, name) == centre).all()
        headings.add(tuple(centre.round()))
    assert len(headings) == 3


def test_a_ghost_is_an_edge_of_misaligned_thermal_where_rgb_has_none():
    luma, thermal = np.full((2, 120, 160), 40, np.uint8)
    luma[:, 40:] = 140
    thermal[:, 100:] = 140
    assert robustness.ghost(luma, luma, thermal) == 0
    assert robustness.ghost(baselines.average(luma, thermal), luma, thermal) == pytest.approx(1, abs=0.01)
    assert robustness.ghost(thermal, luma, thermal) > 1
    faint = luma + thermal // 4
    assert robustness.ghost(faint, luma, thermal) == pytest.approx(0.25, abs=0.02)


def test_thermal_edges_on_those_of_rgb_are_no_ghosts():
    luma, thermal = np.full((2, 120, 160), 40, np.uint8)
    luma[:, 40:] = 140
    thermal[:, 43:] = 140
    assert robustness.ghost(thermal, luma, thermal) == 0


def test_where_rgb_has_no_edges_none_is_doubled(textures):
    assert robustness.ghost(textures[1], np.full_like(textures[0], 9), textures[1]) == 0


def test_what_useless_thermal_does_to_luma_is_its_worst_psnr(textures):
    luma = textures[0]
    assert robustness.flat_thermal_psnr(luma, only_luma) == float("inf")
    worst = robustness.flat_thermal_psnr(luma, lambda y, t: t)
    assert worst == min(metrics.psnr(np.full_like(luma, level), luma) for level in (0, 255))
    noise = robustness.noisy_thermal_psnr(luma, lambda y, t: y + (t.astype(float) - 128))
    assert noise == pytest.approx(20 * np.log10(255), abs=0.5)


# video


@pytest.fixture
def clip():
    """Both sources move, and rest in the left half but for noise; 6 frames of 64x96."""
    rng = np.random.default_rng(0)
    frames = []
    for index in range(6):
        pair = []
        for step in (7, 11):
            image = rng.integers(60, 62, (64, 96)).astype(np.uint8)
            image[:, 48:] += np.uint8(step * index)
            image[20:40, 50 + step * index // 2 : 70 + step * index // 2] += np.uint8(50)
            pair.append(image)
        frames.append(tuple(pair))
    return frames


def test_a_clip_that_stands_still_does_not_flicker(textures):
    assert robustness.flicker([tuple(textures)] * 4, baselines.maximum) == (0, 0)


def test_rgb_itself_flickers_by_one_and_leaves_no_residual(clip):
    assert robustness.flicker(clip, only_luma) == pytest.approx((1, 0), abs=1e-5)


def test_any_fixed_mixture_of_the_sources_leaves_no_residual(clip):
    _, residual = robustness.flicker(clip, lambda y, t: 0.5 * y + 0.25 * t + 30)
    assert residual == pytest.approx(0, abs=1e-5)


def test_a_gain_that_swings_from_frame_to_frame_is_flicker_and_residual(clip):
    swing = iter([0, 8] * 3)

    def swinging(luma, thermal):
        return luma.astype(float) + next(swing)

    flicker, residual = robustness.flicker(clip, swinging)
    noise = 0.5  # mean change of a pixel that is 60 or 61
    assert flicker == pytest.approx(8 / noise, rel=0.1)
    assert residual > 0.3


def write_clip(path, level):
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for index in range(5):
        video.write(grey(level + 10 * index))
    video.release()


def test_clips_are_read_in_pairs_and_a_missing_half_is_named(tmp_path):
    write_clip(tmp_path / "b_rgb.mp4", 50)
    write_clip(tmp_path / "b_thermal.mp4", 100)
    ((name, clip),) = robustness.clips(tmp_path)
    assert name == "b" and len(clip) == 5
    assert [round(float(image.mean()), -1) for image in clip[2]] == [70, 120]
    (tmp_path / "b_thermal.mp4").unlink()
    with pytest.raises(data.DataError, match=r"b_thermal\.mp4"):
        list(robustness.clips(tmp_path))


# teacher


def test_the_teacher_is_looked_up_by_its_picture(tmp_path, textures):
    luma, thermal = textures
    samples = np.stack([np.full(luma.shape, level, np.float32) for level in (0.25, 0.75)])
    summarise("a", luma, thermal, samples, None).save(tmp_path / "a.safetensors")
    teacher = evaluate.TeacherMeans(tmp_path)
    assert (teacher(luma, thermal) == 128).all()
    students = {"its equal": lambda y, t: np.full_like(y, 127), "luma": only_luma}
    distances = evaluate.to_teacher(teacher, students)
    assert distances["its equal"]["PSNR dB"] == pytest.approx(20 * np.log10(255 / 0.5), abs=0.01)
    assert distances["its equal"]["SSIM"] > 0.99 > distances["luma"]["SSIM"]


def test_a_folder_without_ensembles_and_a_file_that_is_none_are_named(tmp_path, textures):
    with pytest.raises(TensorFileError, match="no ensembles"):
        evaluate.TeacherMeans(tmp_path)
    save_file({"luma": textures[0]}, tmp_path / "a.safetensors")
    with pytest.raises(TensorFileError, match=r"a\.safetensors: not a teacher ensemble"):
        evaluate.TeacherMeans(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(TensorFileError, match=r"a\.safetensors: not an intact safetensors file"):
        evaluate.TeacherMeans(tmp_path)


# sheet


def test_the_sheet_shows_pairs_from_dark_to_bright_and_a_column_per_method():
    examples = [example("m3fd", str(level), grey(level)) for level in (250, 10, 90, 170)]
    assert [one.file.id for one in sheet.evenly(examples, 2)] == ["10", "250"]
    assert [one.file.id for one in sheet.evenly(examples, 9)] == ["10", "90", "170", "250"]
    assert sheet.evenly([], 3) == []
    picture = sheet.sheet(examples[:2], {"luma": only_luma, "half": lambda y, t: y // 2})
    assert picture.shape == (32 + 2 * 300, 4 * sheet.CELL_PX, 3)
    assert [picture[32 + 150, column * 400 + 200, 1] for column in range(4)] == [250, 250, 250, 125]


# the command


def run(pair_folder, out, *more):
    return cli.main(["evaluate", "--data", str(pair_folder), "--out", str(out), *(str(m) for m in more)])


def test_the_command_judges_each_student_against_classical_fusion_and_the_teacher(
    pair_folder, tmp_path, checkpoint, quick, capsys
):
    held_out = data.load(data.split(data.find_pairs(pair_folder))[1][0])
    samples = np.stack([held_out.luma.astype(np.float32) / 255] * 2)
    ensemble = summarise("one", held_out.luma, held_out.thermal, samples, None)
    ensemble.save(tmp_path / "ensembles" / "one.safetensors")
    (pair_folder.parent / "video").mkdir()
    for half, level in (("rgb", 50), ("thermal", 90)):
        write_clip(pair_folder.parent / "video" / f"walk_{half}.mp4", level)
    out = tmp_path / "report"
    arguments = (
        "--student",
        checkpoint,
        "--student",
        f"again={checkpoint}",
        "--ensembles",
        tmp_path / "ensembles",
    )
    assert run(pair_folder, out, *arguments) == 0

    means, report = (json.loads((out / name).read_text()) for name in ("metrics.json", "report.json"))
    assert list(means) == ["m3svd", "msrs", "day", "night", "all", "teacher"]
    assert list(means["all"]) == [*baselines.CLASSICAL, "small", "again"]
    assert list(means["teacher"]) == [*baselines.CLASSICAL, "teacher", "small", "again"]
    assert means["all"]["small"] == pytest.approx(means["all"]["again"], rel=1e-9)  # sums of floats
    assert means["all"]["small"].keys() == metrics.METRICS.keys()
    assert report.keys() == evaluate.MEASURES.keys()
    assert report["mean_rank"].keys() == means.keys()
    for measure in ("to_teacher", "misaligned", "useless_thermal"):
        assert list(report[measure]) == ["small", "again"], measure
    assert report["misaligned"]["small"].keys() == {*metrics.RANKED, "ghost", "ghost, worst"}
    assert report["flicker"]["maximum"].keys() == {"walk"}
    assert report["ms_per_frame"]["small"].keys() == {"luma", "Fuser.fuse"}
    columns = 2 + 2 + 2  # sources, classical, students
    assert cv2.imread(str(out / "sheet.png")).shape[1] == columns * sheet.CELL_PX
    assert cv2.imread(str(out / "teacher.png")).shape[1] == (columns + 1) * sheet.CELL_PX
    assert "doubled edges" in capsys.readouterr().out


def test_without_teacher_and_clips_the_rest_is_measured_and_the_lack_is_said(
    pair_folder, tmp_path, checkpoint, quick, capsys
):
    assert run(pair_folder, tmp_path / "report", "--student", checkpoint) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert evaluate.MEASURES.keys() - report.keys() == {"to_teacher", "flicker", "flicker_residual"}
    assert "flicker is not measured" in capsys.readouterr().out


def test_another_method_s_pictures_are_ranked_as_the_method_would_be(
    pair_folder, tmp_path, checkpoint, quick, capsys
):
    held_out = [data.load(pair) for pair in data.split(data.find_pairs(pair_folder))[1]]
    for each in held_out:
        path = tmp_path / "theirs" / each.file.set / f"{each.file.id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.maximum(each.luma, each.thermal))
    arguments = "--student", checkpoint, "--pictures", tmp_path / "theirs"
    assert run(pair_folder, tmp_path / "report", *arguments) == 0
    means, report = (
        json.loads((tmp_path / "report" / n).read_text()) for n in ("metrics.json", "report.json")
    )
    assert means["all"]["theirs"] == pytest.approx(means["all"]["maximum"], rel=1e-9)  # sums of floats
    assert "theirs" in report["mean_rank"]["all"]
    assert list(report["misaligned"]) == ["small"], "pictures cannot be made of other pairs"
    path.unlink()
    assert run(pair_folder, tmp_path / "report", *arguments) == 2
    assert f"{path}: not a picture of" in capsys.readouterr().err


def test_two_methods_of_one_name_and_a_missing_student_are_refused(pair_folder, tmp_path, checkpoint, capsys):
    for name in ("maximum", "teacher", "small"):
        students = "--student", checkpoint, "--student", f"{name}={checkpoint}"
        assert run(pair_folder, tmp_path, *students) == 2
        assert f"two methods are called {name}" in capsys.readouterr().err
    assert run(pair_folder, tmp_path, "--student", tmp_path / "none.safetensors") == 2
    assert "none.safetensors: no such checkpoint" in capsys.readouterr().err
