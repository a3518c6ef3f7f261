import pytest

from vovcam_train.export import measured_rows
from vovcam_train.reports import figures


def test_a_report_becomes_rows_of_the_manifest():
    coco = {"ap": 0.2, "ap50": 0.4, "ap_small": 0.1, "ap_medium": 0.2, "ap_large": None}
    report = {
        "format": "vovcam-eval.v1", "dataset": "eval-a", "images": 3, "detector": {"input": "640x640"}, "coco": coco,
        "classes": [{"name": "person", "boxes": 20, "in_mean": True, "coco": coco},
                    {"name": "car", "boxes": 2, "in_mean": False, "coco": coco}],
    }  # fmt: skip
    assert "input" not in figures(report | {"detector": None})
    rows = measured_rows({"eval-a": figures(report)}, 320)
    assert {r["input"] for r in rows} == {640} and [r["metric"] for r in rows] == ["AP", "AP50", "AP_small", "AP_medium", "AP50"]
    assert rows[-1]["class"] == "person" and rows[-1]["boxes"] == 20
    with pytest.raises(ValueError, match="expected a report"):
        figures({})
