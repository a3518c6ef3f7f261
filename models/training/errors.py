"""What a detector's errors cost, in the manner of TIDE (Bolya et al., arXiv 2008.08115).

    python errors.py ../vovnet27_slim.json yolox_nano.onnx --data eval-coco.tar … [--held-out 0.04] --out errors.json

Every detection that finds nothing is of one kind: wrong class, badly placed, both, a duplicate, or
background; an object that no detection comes near is missed. The cost of a kind is what AP50 gains when
an oracle mends it. `--held-out` looks at the held-out share of each --data instead of all of it.
Prints tables in Markdown; --out also keeps the numbers and the worst photos.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vovcam_train import CLASSES
from vovcam_train import data as datasets
from vovcam_train.evaluate import MIN_BOXES, detect

KINDS = ("class", "place", "both", "duplicate", "background")
GOOD, NEAR = 0.5, 0.1
SIZES = (("small", 0, 32**2), ("medium", 32**2, 96**2), ("large", 96**2, np.inf))


@dataclass
class Detection:
    photo: int
    cls: int
    score: float
    kind: str  # "found" or one of KINDS
    target: int  # object that it finds, or would find if mended; −1


@dataclass
class Judged:
    detections: list[Detection]
    objects: list[tuple[int, int, float]]  # photo, class, area
    found: np.ndarray  # bool [objects]
    near: np.ndarray  # bool [objects], mended by the class or the place of some detection


def overlaps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU, and the share of each `a` inside each `b`."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.clip(high - low, 0, None).prod(-1)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b))
    return inter / (area_a[:, None] + area_b[None] - inter + 1e-9), inter / (area_a[:, None] + 1e-9)


def judge(records: list[datasets.Record], found: list[np.ndarray]) -> Judged:
    """`found`: per record [k, 6] of class, score, x1, y1, x2, y2, best first."""
    out = Judged([], [], np.zeros(0, bool), np.zeros(0, bool))
    marks: list[list[bool]] = [[], []]
    for photo, (r, d) in enumerate(zip(records, found)):
        counted = r.background[r.labels] > 0
        boxes, labels = r.boxes[counted], r.labels[counted]
        first = len(out.objects)
        out.objects += [(photo, int(c), float((b[2:] - b[:2]).prod())) for b, c in zip(boxes, labels)]
        for mark in marks:
            mark += [False] * len(boxes)
        iou, _ = overlaps(d[:, 2:], boxes)
        _, ignored = overlaps(d[:, 2:], r.ignore_boxes)
        for k, (cls, score) in enumerate(d[:, :2]):
            cls = int(cls)
            if r.background[cls] == 0:
                continue
            same = labels == cls
            free = np.array([not marks[0][first + j] for j in range(len(boxes))], bool)
            good = iou[k] * same * free
            if len(boxes) and good.max() >= GOOD:
                best = int(good.argmax())
                marks[0][first + best] = True
                out.detections.append(Detection(photo, cls, score, "found", first + best))
                continue
            if (ignored[k][(r.ignore_labels == cls) | (r.ignore_labels < 0)] >= 0.5).any():
                continue
            own, other = iou[k] * same, iou[k] * ~same
            best_own, best_other = (x.max() if len(boxes) else 0.0 for x in (own, other))
            if best_own >= GOOD:
                kind, target = "duplicate", -1
            elif best_own >= NEAR:
                kind, target = "place", first + int(own.argmax())
            elif best_other >= GOOD:
                kind, target = "class", first + int(other.argmax())
            elif best_other >= NEAR:
                kind, target = "both", -1
            else:
                kind, target = "background", -1
            if target >= 0:
                marks[1][target] = True
            out.detections.append(Detection(photo, cls, score, kind, target))
    out.found, out.near = (np.array(m, bool) for m in marks)
    return out


def ap50(judged: Judged, mend: str = "") -> dict[int, float]:
    """AP50 by class, with one kind of error mended: a detection of the wrong class or place then finds its
    object unless another does, every other wrong one goes; "missed" takes the missed objects out."""
    classes = {}
    counts = np.bincount([c for _, c, _ in judged.objects], minlength=len(CLASSES))
    hits: dict[int, list[tuple[float, bool]]] = {}
    taken = judged.found.copy()
    for d in sorted(judged.detections, key=lambda d: -d.score):
        cls, hit = d.cls, d.kind == "found"
        if d.kind == mend:
            if d.target < 0 or taken[d.target]:
                continue
            taken[d.target] = hit = True
            cls = judged.objects[d.target][1]
        hits.setdefault(cls, []).append((d.score, hit))
    for cls in np.flatnonzero(counts >= MIN_BOXES):
        total = counts[cls]
        if mend == "missed":
            missed = ~judged.found & ~judged.near
            total -= sum(1 for j in np.flatnonzero(missed) if judged.objects[j][1] == cls)
        true = np.array([h for _, h in hits.get(cls, [])], float)
        if not len(true) or not total:
            classes[int(cls)] = 0.0
            continue
        recall, precision = true.cumsum() / total, true.cumsum() / np.arange(1, len(true) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
        classes[int(cls)] = float(np.append(precision, 0.0)[np.minimum(at, len(precision))].mean())
    return classes


def mean(values) -> float:
    values = list(values)
    return float(np.mean(values)) if values else 0.0


def summary(judged: Judged, threshold: float) -> dict:
    """Costs of the kinds, and what happens at one score threshold by class and by size."""
    base = ap50(judged)
    row = {"AP50": mean(base.values()), "person": base.get(0)}
    row["cost"] = {k: mean(ap50(judged, k).values()) - row["AP50"] for k in (*KINDS, "missed")}
    row["person_cost"] = {k: ap50(judged, k).get(0, 0.0) - (base.get(0) or 0.0) for k in (*KINDS, "missed")}
    shown = [d for d in judged.detections if d.score >= threshold]
    hit = np.zeros(len(judged.objects), bool)
    hit[[d.target for d in shown if d.kind == "found"]] = True
    row["at_threshold"] = {}
    for c, name in enumerate(CLASSES):
        own = [j for j, o in enumerate(judged.objects) if o[1] == c]
        mine = [d for d in shown if d.cls == c]
        if len(own) >= MIN_BOXES:
            row["at_threshold"][name] = {
                "objects": len(own), "recall": float(hit[own].mean()),
                "precision": mean(d.kind == "found" for d in mine),
                **{k: sum(d.kind == k for d in mine) for k in KINDS},
                **{s: [sum(low <= judged.objects[j][2] < high for j in own),
                       mean(hit[j] for j in own if low <= judged.objects[j][2] < high)] for s, low, high in SIZES},
            }  # fmt: skip
    return row


def worst(judged: Judged, records, threshold: float, most: int = 60) -> list[dict]:
    """Photos with the most missed objects and false boxes."""
    bad = np.zeros(len(records))
    for d in judged.detections:
        bad[d.photo] += (d.score >= threshold) * (d.kind != "found")
    hit = {d.target for d in judged.detections if d.kind == "found" and d.score >= threshold}
    for j, (photo, _, _) in enumerate(judged.objects):
        bad[photo] += j not in hit
    order = np.argsort(-bad, kind="stable")[:most]
    return [{"key": records[i].key, "set": records[i].set, "errors": int(bad[i])} for i in order]


def detector(path: Path):
    """records → detections of a manifest or of a YOLOX file."""
    if path.suffix == ".onnx":
        from vovcam_train import teacher

        session, columns = teacher._session(str(path), 1), [teacher.COCO_INDEX[c] for c in CLASSES]
        return lambda records: [
            np.array(teacher.detect(session, r.pixels, columns, 0.01), np.float32).reshape(-1, 6)[:100] for r in records
        ]
    from vovcam_train.export import load_model

    model, manifest = load_model(path)
    return lambda records: detect(model, records, manifest["input_size"])


def table(rows: dict[str, dict]) -> str:
    kinds = (*KINDS, "missed")
    lines = [f"| | AP50 | {' | '.join(kinds)} |", "|---" * (len(kinds) + 2) + "|"]
    for name, r in rows.items():
        lines.append(f"| {name} | {r['AP50']:.3f} | " + " | ".join(f"{100 * r['cost'][k]:.1f}" for k in kinds) + " |")
        if r["person"] is not None:
            costs = " | ".join(f"{100 * r['person_cost'][k]:.1f}" for k in kinds)
            lines.append(f"| {name}, person | {r['person']:.3f} | {costs} |")
    lines += ["", "| | class | objects | recall | small | medium | large | precision | " + " | ".join(KINDS) + " |",
              "|---" * (8 + len(KINDS)) + "|"]  # fmt: skip
    for name, r in rows.items():
        for c, v in r["at_threshold"].items():
            sizes = " | ".join(f"{v[s][1]:.2f} ({v[s][0]})" if v[s][0] else "–" for s, _, _ in SIZES)
            counts = " | ".join(str(v[k]) for k in KINDS)
            lines.append(
                f"| {name} | {c} | {v['objects']} | {v['recall']:.2f} | {sizes} | {v['precision']:.2f} | {counts} |"
            )
    return "\n".join(lines)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="+", type=Path, help="manifests (.json) and YOLOX files (.onnx)")
    p.add_argument("--data", action="append", required=True, help="COCO tar or folder; repeatable")
    p.add_argument("--exclude-set", action="append", default=[])
    p.add_argument("--held-out", type=float, help="share of scenes; all files together become one row, and one a set")
    p.add_argument("--threshold", type=float, default=0.35, help="score of what is shown [%(default)s]")
    p.add_argument("--out", type=Path, help="JSON for the numbers")
    args = p.parse_args()
    groups: dict[str, list[datasets.Record]] = {}
    for path in args.data:
        records = datasets.load(path, CLASSES, 10_000, set(args.exclude_set))
        if args.held_out:
            held = datasets.split(records, args.held_out)[1]
            groups.setdefault("held out", []).extend(held)
            for r in held:
                groups.setdefault(f"held out, {r.set}", []).append(r)
        else:
            groups[Path(path).stem] = records
    groups = {k: v for k, v in groups.items() if len(v) >= 20}
    report, found_of = {}, {}
    for model in args.models:
        run = detector(model)
        rows = {}
        for name, records in groups.items():
            for r in records:
                if (model, r.key) not in found_of:
                    found_of[model, r.key] = run([r])[0]
            judged = judge(records, [found_of[model, r.key] for r in records])
            rows[name] = summary(judged, args.threshold) | {"worst": worst(judged, records, args.threshold)}
        print(f"\n### {model.stem}\n\n{table(rows)}", flush=True)
        report[model.stem] = rows
    if args.out:
        args.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
