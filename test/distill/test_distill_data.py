"""Finding, splitting by scene and decoding pairs; and files of tensors; crops are in test_augment.py."""

import importlib

import cv2
import numpy as np
import pytest

from fusionproxy_ros.core.pictures import to_grey_levels
from fusionproxy_ros.distill import data
from fusionproxy_ros.fusion.weights import DEFAULT_STUDENT


def test_no_scene_is_on_both_sides_of_the_split(pair_folder):
    pairs = data.find_pairs(pair_folder)
    training, held_out = data.split(pairs)
    assert set(training) | set(held_out) == set(pairs) and not set(training) & set(held_out)
    assert held_out and training
    for frames in data.group_by_scene(pairs).values():
        assert set(frames) <= set(training) or set(frames) <= set(held_out)
    assert data.split(list(reversed(pairs)))[1] == held_out


def test_scenes_are_clips_drives_and_runs_of_neighbouring_numbers(pair_folder):
    by_scene = data.group_by_scene(data.find_pairs(pair_folder))
    members = {name: [pair.id for pair in frames] for name, frames in by_scene.items()}
    assert members["msrs/N1"] == ["00001N", "00005N"]
    assert members["msrs/N300"] == ["00300N", "00305N"]
    assert members["m3svd/a"] == ["a_0000"]


def test_the_real_pairs_split_by_scene(shared_data):
    pairs = data.find_pairs(shared_data / "pairs")
    training, held_out = data.split(pairs)
    for name in ("m3fd", "m3svd", "msrs", "roadscene"):
        share = sum(pair.set == name for pair in held_out) / sum(pair.set == name for pair in pairs)
        assert 0.15 < share < 0.25, name
    # Frames a repository renamed are neighbours of those it took them from.
    night = next(
        frames for frames in data.group_by_scene(pairs).values() if any(p.id == "00004N" for p in frames)
    )
    assert "tdrmf_00005N" in {pair.id for pair in night}
    clips = [
        {pair.id.rpartition("_")[0] for pair in side if pair.set == "m3svd"} for side in (training, held_out)
    ]
    assert not clips[0] & clips[1]


def test_a_folder_without_pairs_is_named(tmp_path):
    with pytest.raises(data.DataError, match="no pairs below"):
        data.find_pairs(tmp_path)


def test_a_pair_without_partner_or_with_another_size_is_named(pair_folder):
    pairs = data.find_pairs(pair_folder)
    cv2.imwrite(str(pairs[0].thermal), np.zeros((10, 10), np.uint8))
    with pytest.raises(data.DataError, match=pairs[0].thermal.name):
        data.load(pairs[0])
    pairs[0].thermal.unlink()
    with pytest.raises(data.DataError, match=f"{pairs[0].rgb}: no picture of that name in .*thermal"):
        data.find_pairs(pair_folder)


def test_luma_weighs_red_green_and_blue_after_bt601():
    rng = np.random.default_rng(0)
    bgr = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    luma = data.Example(data.PairFile("s", "1", None, None), bgr, bgr[..., 0]).luma
    assert np.abs(luma - bgr @ (0.114, 0.587, 0.299)).max() <= 0.51


def test_grey_levels_survive_the_way_to_a_tensor_and_back():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    tensor = data.to_tensor(levels)
    assert tensor.shape == (1, 1, 16, 16) and tensor.min() == 0 and tensor.max() == 1
    assert (to_grey_levels(tensor[0, 0].numpy()) == levels).all()
    assert (to_grey_levels(np.array([-1.0, 2.0, 0.4 / 255, 0.6 / 255])) == [0, 255, 0, 1]).all()


@pytest.mark.parametrize("program", ["teacher", "ensemble", "train", "night"])
def test_without_data_a_program_says_where_pairs_are_looked_for(program, monkeypatch, capsys):
    monkeypatch.delenv("FUSIONPROXY_DATA", raising=False)
    needed = {
        "ensemble": ["--teacher", "none", "--out", "none"],
        "train": ["--ensembles", "none", "--out", "none"],
        "night": ["--student", str(DEFAULT_STUDENT), "--out", "none"],
    }
    main = importlib.import_module(f"fusionproxy_ros.distill.{program}").main
    with pytest.raises(SystemExit):
        main(needed.get(program, []))
    assert "FUSIONPROXY_DATA is not set: give --data" in capsys.readouterr().err


def test_pairs_are_looked_for_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("FUSIONPROXY_DATA", str(tmp_path))
    assert data.default_pairs() == tmp_path / "pairs"
