from card import classes, splits


def report(ap50, boxes=20, small=0.25):
    figures = {"AP": 0.5, "AP50": ap50, "AP_small": small, "AP_medium": 0.5, "AP_large": None}
    return {"eval-a": {"images": 3, **figures, "classes": {"person": {"AP": 0.5, "AP50": ap50, "boxes": boxes}}}}


def test_each_cell_is_ours_beside_the_peers():
    assert splits(report(0.75), report(0.5)).splitlines()[2] == (
        "| a | 3 | 0.500 / 0.500 | 0.750 / 0.500 | 0.250 / 0.250 | 0.500 / 0.500 | – / – |"
    )
    rows = classes(report(0.75), report(0.5)).splitlines()
    assert rows[:3] == ["| class | a |", "|---|---|", "| person | 0.750 / 0.500 (20) |"]
    assert rows[3] == "| bicycle | – |"
