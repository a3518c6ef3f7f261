"""COCO evaluation of a model on a labelled set, honouring `labelled`.

    python -m vovcam_train.evaluate MODEL.json --data eval-coco.tar [--json OUT]

Photos are letterboxed (bilinear, centred, pad 114) to a square; detections and boxes of
classes that a photo's set does not label are dropped; `iscrowd` boxes are ignored.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from . import MEAN, PAD_VALUE, STD
from .data import Record, load
from .model import Detector, decode_boxes, flatten

MIN_BOXES = 15
VOC5 = ("person", "car", "bus", "train", "cat")


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 RGB [N, 3, H, W] → f32, (u8 / 255 − mean) / std, channels_last."""
    mean = torch.tensor(MEAN, device=pixels.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(STD, device=pixels.device).view(1, 3, 1, 1) * 255
    return ((pixels.float() - mean) / std).contiguous(memory_format=torch.channels_last)


def letterbox(image: np.ndarray, side: int) -> tuple[np.ndarray, float, int, int]:
    """RGB [h, w, 3] → [side, side, 3], scale, left and top padding in pixels."""
    h, w = image.shape[:2]
    scale = min(side / w, side / h)
    rw, rh = round(w * scale), round(h * scale)
    left, top = (side - rw) // 2, (side - rh) // 2
    out = np.full((side, side, 3), PAD_VALUE, np.uint8)
    out[top : top + rh, left : left + rw] = cv2.resize(image, (rw, rh), interpolation=cv2.INTER_LINEAR)
    return out, scale, left, top


@torch.inference_mode()
def detect(model: Detector, records: list[Record], side: int, autocast=None, floor=0.01, nms_iou=0.6, most=100):
    """Detections per record: array [k, 6] of class, score, x1, y1, x2, y2 in photo pixels."""
    device = next(model.parameters()).device
    found = []
    for start in range(0, len(records), 16):
        boxed = [letterbox(r.pixels, side) for r in records[start : start + 16]]
        x = torch.from_numpy(np.stack([b[0] for b in boxed])).permute(0, 3, 1, 2).to(device)
        with autocast() if autocast else contextlib.nullcontext():
            outputs = model(normalise(x))
        logits, box_logits, points, strides = flatten(outputs)
        scores = logits.sigmoid().cpu().numpy()
        boxes = decode_boxes(box_logits, points, strides).cpu().numpy()
        for i, (_, scale, left, top) in enumerate(boxed):
            h, w = records[start + i].pixels.shape[:2]
            found.append(_suppress(scores[i], (boxes[i] - (left, top, left, top)) / scale, w, h, floor, nms_iou, most))
    return found


def _suppress(scores, boxes, width, height, floor, nms_iou, most) -> np.ndarray:
    boxes = boxes.clip(0, (width, height, width, height))
    cell, cls = np.nonzero(scores > floor)
    score = scores[cell, cls]
    order = np.argsort(-score)[:3000]
    cell, cls, score = cell[order], cls[order], score[order]
    b = boxes[cell]
    xywh = np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1)
    if not len(b):
        return np.zeros((0, 6), np.float32)
    kept = cv2.dnn.NMSBoxesBatched(xywh.tolist(), score.tolist(), cls.tolist(), floor, nms_iou)
    kept = np.array(kept, int).reshape(-1)
    kept = kept[np.argsort(-score[kept])][:most]
    return np.concatenate([cls[kept, None], score[kept, None], b[kept]], 1).astype(np.float32)


def measure(records: list[Record], found: list[np.ndarray], classes) -> dict:
    """COCO figures; means run over the classes with at least MIN_BOXES boxes."""
    images, annotations, results = [], [], []
    for i, (r, d) in enumerate(zip(records, found), start=1):
        images.append({"id": i, "width": r.pixels.shape[1], "height": r.pixels.shape[0]})
        rows = [(b, c, 0) for b, c in zip(r.boxes, r.labels)]
        rows += [(b, c, 1) for b, c in zip(r.ignore_boxes, r.ignore_labels)]
        for (x1, y1, x2, y2), cls, crowd in rows:
            if r.background[cls] > 0:
                w, h = float(x2 - x1), float(y2 - y1)
                annotations.append({
                    "id": len(annotations) + 1, "image_id": i, "category_id": int(cls) + 1,
                    "bbox": [float(x1), float(y1), w, h], "area": w * h, "iscrowd": crowd,
                })  # fmt: skip
        for cls, score, x1, y1, x2, y2 in d.tolist():
            if r.background[int(cls)] > 0:
                results.append({
                    "image_id": i, "category_id": int(cls) + 1, "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1],
                })  # fmt: skip
    categories = [{"id": i + 1, "name": c} for i, c in enumerate(classes)]
    counts = np.bincount([a["category_id"] - 1 for a in annotations if not a["iscrowd"]], minlength=len(classes))
    counted = [i for i in range(len(classes)) if counts[i] >= MIN_BOXES]
    if not results or not counted:
        return {"images": len(images), "AP": 0.0, "AP50": 0.0, "AP_small": 0.0, "classes": {}}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": images, "annotations": annotations, "categories": categories}
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"]  # [iou, recall, class, area, max detections]

    def ap(iou, cls, area=0) -> float:
        values = precision[iou, :, cls, area, -1]
        values = values[values > -1]
        return float(values.mean()) if values.size else float("nan")

    per_class = {
        classes[i]: {"AP": ap(slice(None), i), "AP50": ap(0, i), "boxes": int(counts[i])} for i in counted
    }
    mean = {k: float(np.mean([c[k] for c in per_class.values()])) for k in ("AP", "AP50")}
    areas = {}
    for area, name in ((1, "AP_small"), (2, "AP_medium"), (3, "AP_large")):
        values = [v for v in (ap(slice(None), i, area) for i in counted) if v == v]
        areas[name] = float(np.mean(values)) if values else None
    five = [per_class[c]["AP50"] for c in VOC5 if c in per_class]
    return {"images": len(images), **mean, **areas, "AP50_voc5": float(np.mean(five)) if len(five) == len(VOC5) else None,
            "classes": per_class}  # fmt: skip


def show(split: str, side: int, figures: dict) -> None:
    """Two lines for the terminal: means, then AP50 per class."""
    means = (f"{k} {figures[k]:.3f}" for k in ("AP", "AP50", "AP_small", "AP50_voc5") if figures.get(k) is not None)
    print(split, f"at {side}:", *means)
    print("   ", ", ".join(f"{c} {v['AP50']:.3f}" for c, v in figures["classes"].items()), flush=True)


def main() -> None:
    from .export import load_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="manifest (.json) of an exported model")
    parser.add_argument("--data", action="append", required=True, help="COCO tar or folder; may be repeated")
    parser.add_argument("--side", type=int, help="input side in pixels [manifest's input_size]")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args()
    model, manifest = load_model(args.model)
    side = args.side or manifest["input_size"]
    report = {}
    for path in args.data:
        records = load(path, manifest["classes"], 10_000)
        figures = measure(records, detect(model, records, side), manifest["classes"])
        report[Path(path).stem] = figures
        show(Path(path).stem, side, figures)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
