"""Classical fusion, and how methods are ranked."""

import subprocess
import sys

import numpy as np
import pytest

from fusionproxy_ros.metrics import classical, fusion_metrics, scores


@pytest.mark.parametrize("name", classical.CLASSICAL)
def test_classical_fusion_of_two_equal_images_is_that_image(textures, name):
    fused = classical.CLASSICAL[name](textures[0], textures[0])
    assert fused.dtype == np.uint8 and np.abs(fused.astype(int) - textures[0]).max() <= 1


def test_mean_rank_counts_one_for_the_best_by_the_ranking_metrics_alone():
    means = {
        "good": dict.fromkeys(fusion_metrics.METRICS, 2.0) | {"SD": 0.0},
        "equal": dict.fromkeys(fusion_metrics.METRICS, 2.0),
        "bad": dict.fromkeys(fusion_metrics.METRICS, 1.0) | {"SD": 9.0},
    }
    assert scores.mean_ranks(means) == {"good": 1, "equal": 1, "bad": 3}


def test_a_picture_is_judged_without_torch_and_without_ros():
    code = "import sys; sys.modules['torch'] = sys.modules['rclpy'] = None; "
    code += "from fusionproxy_ros.metrics import classical, fusion_metrics, robustness, scores"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
