"""Writes the held-out share of training sets as a set for `vovcam eval`, with the sets' own labels.

    python -m vovcam_train.held_out OUT.tar --data train-0.tar … [--set NAME …] [--exclude leaks.txt]

A photo is lossless at the size that training sees. Regions to ignore are boxes with `iscrowd`;
`labelled` lists the classes that the photo's set labels completely.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from pathlib import Path

from PIL import Image

from . import CLASSES
from . import data as datasets


def annotations(records: list[datasets.Record], classes) -> dict:
    """COCO form; `file_name` is the position in `records`."""
    images, boxes = [], []
    for number, r in enumerate(records):
        height, width = r.pixels.shape[:2]
        images.append({
            "id": number, "file_name": f"{number:05}.png", "width": width, "height": height,
            "set": r.set, "original_id": r.original_id,
            "labelled": [c for c, weight in zip(classes, r.background) if weight == 1],
        })  # fmt: skip
        regions = [(b, c, 0) for b, c in zip(r.boxes, r.labels)]
        for b, label in zip(r.ignore_boxes, r.ignore_labels):
            regions += [(b, c, 1) for c in (range(len(classes)) if label < 0 else [label])]
        for (x0, y0, x1, y1), label, ignore in regions:
            bbox = [round(float(v), 2) for v in (x0, y0, x1 - x0, y1 - y0)]
            boxes.append({
                "id": len(boxes) + 1, "image_id": number, "category_id": int(label) + 1,
                "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": ignore,
            })  # fmt: skip
    categories = [{"id": i + 1, "name": c} for i, c in enumerate(classes)]
    return {"images": images, "annotations": boxes, "categories": categories}


def write(records: list[datasets.Record], classes, out: Path) -> None:
    def add(name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(f"{out.stem}/{name}")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))

    with tarfile.open(out, "w") as tar:
        add("annotations.json", json.dumps(annotations(records, classes)).encode())
        for number, r in enumerate(records):
            png = io.BytesIO()
            Image.fromarray(r.pixels).save(png, "PNG", compress_level=1)
            add(f"images/{number:05}.png", png.getvalue())


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path)
    p.add_argument("--data", action="append", required=True, help="as for train.py; repeatable")
    p.add_argument("--classes", default=",".join(CLASSES), help="comma-separated, in output order")
    p.add_argument("--set", action="append", default=[], help="value of an image's `set`; repeatable [all]")
    p.add_argument("--exclude-set", action="append", default=[], help="value of an image's `set` to leave out")
    p.add_argument("--exclude", type=Path, help="text file, lines 'SET ORIGINAL_ID': photos to leave out")
    p.add_argument("--held-out", type=float, default=0.04, help="share, as in the training run [%(default)s]")
    p.add_argument("--long-side", type=int, default=352, help="as in the training run [%(default)s]")
    p.add_argument("--photo-cache", type=Path, help="the training run's [none]")
    a = p.parse_args()
    classes = tuple(a.classes.split(","))
    records = datasets.load_all(a.data, classes, a.long_side, set(a.exclude_set), a.photo_cache, 2)
    left_out = datasets.read_exclusions(a.exclude) if a.exclude else set()
    records = [r for r in records if (r.set, r.original_id) not in left_out and (not a.set or r.set in a.set)]
    _, held_out = datasets.split(records, a.held_out)
    write(held_out, classes, a.out)
    print(f"wrote {len(held_out)} photos to '{a.out}'")


if __name__ == "__main__":
    main()
