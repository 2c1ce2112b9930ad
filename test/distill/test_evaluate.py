"""The measurements of `fusionproxy evaluate` against what can be worked out by hand, and the command itself."""

import json

import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from fusionproxy_ros.cli.__main__ import main
from fusionproxy_ros.core.pictures import LINE_PX
from fusionproxy_ros.distill import data, evaluate
from fusionproxy_ros.distill.ensemble import summarise
from fusionproxy_ros.fusion.network import Student, save_student
from fusionproxy_ros.metrics import classical, fusion_metrics

pytestmark = pytest.mark.slow


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


def test_night_is_told_by_the_name_in_msrs_and_by_brightness_elsewhere():
    assert evaluate.is_night(example("msrs", "00001N", grey(200)))
    assert not evaluate.is_night(example("msrs", "00001D", grey(20)))
    assert evaluate.is_night(example("m3fd", "00001D", grey(20)))
    assert not evaluate.is_night(example("m3fd", "00001N", grey(200)))


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
    with pytest.raises(data.TensorFileError, match="no ensembles"):
        evaluate.TeacherMeans(tmp_path)
    save_file({"luma": textures[0]}, tmp_path / "a.safetensors")
    with pytest.raises(data.TensorFileError, match=r"a\.safetensors: not a teacher ensemble"):
        evaluate.TeacherMeans(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(data.TensorFileError, match=r"a\.safetensors: not an intact safetensors file"):
        evaluate.TeacherMeans(tmp_path)


# sheet


def test_the_sheet_shows_pairs_from_dark_to_bright_and_a_column_per_method():
    examples = [example("m3fd", str(level), grey(level)) for level in (250, 10, 90, 170)]
    assert [one.file.id for one in evaluate.evenly(examples, 2)] == ["10", "250"]
    assert [one.file.id for one in evaluate.evenly(examples, 9)] == ["10", "90", "170", "250"]
    assert evaluate.evenly([], 3) == []
    picture = evaluate.contact_sheet(examples[:2], {"luma": only_luma, "half": lambda y, t: y // 2})
    assert picture.shape == (2 * (LINE_PX + 300), 4 * evaluate.CELL_PX, 3)
    assert [picture[LINE_PX + 150, column * 400 + 200, 1] for column in range(4)] == [250, 250, 250, 125]


def write_clip(path, level):
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for index in range(5):
        video.write(grey(level + 10 * index))
    video.release()


# the command


def run(pair_folder, out, *more):
    return main(["evaluate", "--data", str(pair_folder), "--out", str(out), *(str(m) for m in more)])


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
    assert list(means["all"]) == [*classical.CLASSICAL, "small", "again"]
    assert list(means["teacher"]) == [*classical.CLASSICAL, "teacher", "small", "again"]
    assert means["all"]["small"] == pytest.approx(means["all"]["again"], rel=1e-9)  # sums of floats
    assert means["all"]["small"].keys() == fusion_metrics.METRICS.keys()
    assert report.keys() == evaluate.MEASURES.keys()
    assert report["mean_rank"].keys() == means.keys()
    for measure in ("to_teacher", "misaligned", "useless_thermal"):
        assert list(report[measure]) == ["small", "again"], measure
    assert report["misaligned"]["small"].keys() == {*fusion_metrics.RANKED, "ghost", "ghost, worst"}
    assert report["flicker"]["maximum"].keys() == {"walk"}
    assert report["ms_per_frame"]["small"].keys() == {"luma", "Fuser.fuse"}
    columns = 2 + 2 + 2  # sources, classical, students
    assert cv2.imread(str(out / "sheet.png")).shape[1] == columns * evaluate.CELL_PX
    assert cv2.imread(str(out / "teacher.png")).shape[1] == (columns + 1) * evaluate.CELL_PX
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


def test_without_data_the_command_says_where_pairs_are_looked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("FUSIONPROXY_DATA", raising=False)
    assert main(["evaluate", "--out", str(tmp_path)]) == 2
    assert "FUSIONPROXY_DATA is not set: give --data" in capsys.readouterr().err
