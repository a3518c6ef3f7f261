import numpy as np
import pytest

import errors
from vovcam_train.data import Record


def record(boxes, labels, ignore=()):
    n = len(boxes)
    return Record(
        "a", "s", "a", np.zeros((100, 100, 3), np.uint8), np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64), np.ones(n, np.float32), np.array(ignore, np.float32).reshape(-1, 4),
        np.full(len(ignore), -1), np.array([1.0] * 11 + [0.0], np.float32),
    )  # fmt: skip


def test_every_kind_of_error_is_told_apart():
    photo = record([[0, 0, 20, 20], [40, 0, 60, 20], [0, 40, 20, 60], [70, 70, 90, 90]], [0, 0, 2, 0], [[60, 40, 100, 60]])
    found = np.array([
        [0, 0.9, 0, 0, 20, 20],  # found
        [0, 0.8, 0, 0, 20, 18],  # again
        [0, 0.7, 48, 0, 68, 20],  # beside the second
        [1, 0.6, 0, 40, 20, 60],  # a car taken for a bicycle
        [3, 0.5, 0, 50, 20, 70],  # and beside it
        [0, 0.4, 20, 70, 40, 90],  # nothing there
        [0, 0.35, 70, 42, 80, 58],  # in a region without loss
        [11, 0.3, 20, 70, 40, 90],  # of a class that the set does not label
    ])  # fmt: skip
    judged = errors.judge([photo], [found])
    assert [d.kind for d in judged.detections] == ["found", "duplicate", "place", "class", "both", "background"]
    assert judged.found.tolist() == [True, False, False, False] and judged.near.tolist() == [False, True, True, False]


def test_mending_gives_what_was_lost():
    photos = [record([[0, 0, 20, 20]], [0]) for _ in range(20)]
    found = [np.array([[0, 0.9, 0, 0, 20, 20] if i < 10 else [0, 0.8, 12, 0, 32, 20]], np.float32) for i in range(20)]
    judged = errors.judge(photos, found)
    assert errors.ap50(judged)[0] == pytest.approx(0.5, abs=0.01)
    assert errors.ap50(judged, "place")[0] == pytest.approx(1.0)
    assert errors.ap50(judged, "missed")[0] == pytest.approx(0.5, abs=0.01)
    row = errors.summary(judged, 0.35)
    assert row["cost"]["place"] == pytest.approx(0.5, abs=0.01)
    assert row["at_threshold"]["person"]["small"] == [20, 0.5] and "person" in errors.table({"x": row})
