"""Reports of `vovcam eval --json` as the figures that `card.py` and `export --measured` read.

    python -m vovcam_train.reports OUT.json REPORT.json …

One report is one split at one input side; OUT.json has a split once, so one side a call.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

NAMES = {"AP": "ap", "AP50": "ap50", "AP_small": "ap_small", "AP_medium": "ap_medium", "AP_large": "ap_large"}
VOC5 = ("person", "car", "bus", "train", "cat")


def figures(report: dict) -> dict:
    """Raises ValueError on anything but a report."""
    if report.get("format") != "vovcam-eval.v1":
        raise ValueError(f"expected a report of 'vovcam eval --json', got format '{report.get('format')}'")
    # averages that nothing went into are absent or negative
    means = {name: v if (v := report["coco"].get(key)) is not None and v >= 0 else None for name, key in NAMES.items()}
    classes = {
        c["name"]: {"AP": c["coco"]["ap"], "AP50": c["coco"]["ap50"], "boxes": c["boxes"]}
        for c in report["classes"] if c["in_mean"]
    }  # fmt: skip
    five = [classes[c]["AP50"] for c in VOC5 if c in classes]
    out = {"images": report["images"], **means, "classes": classes}
    out["AP50_voc5"] = sum(five) / len(five) if len(five) == len(VOC5) else None
    if side := (report["detector"] or {}).get("input"):  # none for another program's detections
        out["input"] = int(side.split("x")[0])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("reports", nargs="+", type=Path)
    args = parser.parse_args()
    read = [json.loads(path.read_text()) for path in args.reports]
    splits = {report["dataset"]: figures(report) for report in read}
    if len(splits) < len(read):
        parser.error("two reports are of the same split")
    args.out.write_text(json.dumps(splits, indent=1))


if __name__ == "__main__":
    main()
