"""What is said of outlier channels and tokens."""

from __future__ import annotations

import base64

import numpy as np

from edgec.compiler.outliers import heat_map, outlier_facts, pictures


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_normal_values_have_no_outliers() -> None:
    facts = outlier_facts(noise(2, 64, 256))
    assert facts is not None
    assert abs(facts["kurtosis"] - 3) < 0.1
    assert facts["channel_ratio"] < 2 and facts["token_ratio"] < 2
    assert facts["persistent_channels"] == facts["massive_tokens"] == 0


def test_outlier_channels_and_massive_tokens_are_counted() -> None:
    real = noise(2, 64, 256)
    real[..., [3, 200]] = 40 + noise(2, 64, 2)
    real[1, 5, 7] = 3000
    facts = outlier_facts(real)
    assert facts is not None
    assert facts["persistent_channels"] == 2 and facts["massive_tokens"] == 1
    assert facts["channel_ratio"] > 500 and facts["kurtosis"] > 100


def test_images_have_their_channels_on_axis_one() -> None:
    real = noise(2, 1, 8, 16, 16)
    real[:, :, 2] = 50 + noise(16, 16)
    facts = outlier_facts(real)
    assert facts is not None and facts["persistent_channels"] == 1


def test_vectors_and_integers_are_not_looked_at() -> None:
    assert outlier_facts(noise(4, 10)) is None
    assert outlier_facts(noise(1, 2, 256)) is None
    assert heat_map(np.zeros((1, 8, 8), np.int64)) is None


def test_heat_maps_keep_the_largest_of_what_a_cell_stands_for() -> None:
    real = np.full((2, 100, 300), 1e-6, np.float32)
    real[1, 99, 299] = 4
    drawn = heat_map(real)
    assert drawn is not None and (drawn["rows"], drawn["columns"]) == (32, 128)
    cells = np.frombuffer(base64.b64decode(drawn["cells"]), np.uint8).reshape(32, 128)
    assert drawn["largest"] == 4 and cells[-1, -1] == 255 and cells.sum() == 255


def test_pictures_are_of_what_was_evened_out_and_then_of_the_loudest() -> None:
    quiet, loud = noise(1, 16, 16), noise(1, 16, 16)
    loud[..., 0] *= 100
    real, before = {"a": quiet, "b": quiet, "c": loud}, {"a": loud, "b": quiet}
    rows = [
        {
            "value": name,
            "outliers": outlier_facts(real[name]),
            "outliers_before": outlier_facts(before[name]) if name in before else None,
        }
        for name in real
    ]
    found = pictures(rows, real, before)
    assert [p["value"] for p in found] == ["a", "c", "b"]
    assert [p["before"] is not None for p in found] == [True, False, False]
