"""YOLOX (Apache-2.0, ONNX) as a teacher: filled-in labels, and dense features to imitate.

The network wants BGR 0–255 in an exact 416×416 when its own head is used; its convolutions
run at any multiple of 32, which is what the dense features use.

    python -m vovcam_train.teacher yolox_nano.onnx --data eval-coco.tar

measures the teacher itself with the evaluator that measures our models.
"""

from __future__ import annotations

import argparse
import json
import tarfile
import tempfile
from pathlib import Path

import cv2
import numpy as np

COCO_INDEX = {
    "person": 0, "bicycle": 1, "car": 2, "motorcycle": 3, "bus": 5, "train": 6,
    "truck": 7, "cat": 15, "dog": 16, "horse": 17, "sheep": 18, "cow": 19,
}  # fmt: skip
LABEL_SIDE = 416
FEATURES = {
    8: "/backbone/C3_p3/conv3/act/Mul_output_0",
    16: "/backbone/C3_n3/conv3/act/Mul_output_0",
    32: "/backbone/C3_n4/conv3/act/Mul_output_0",
}


def _session(path: str, threads: int):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in ort.get_available_providers()]
    return ort.InferenceSession(path, options, providers=providers)


def _decode(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[3549, 85] → boxes x1 y1 x2 y2 in input pixels [3549, 4], scores [3549, 80]."""
    grids, strides = [], []
    for s in (8, 16, 32):
        n = LABEL_SIDE // s
        y, x = np.mgrid[0:n, 0:n]
        grids.append(np.stack([x, y], -1).reshape(-1, 2))
        strides.append(np.full((n * n, 1), s))
    grid, stride = np.concatenate(grids), np.concatenate(strides)
    centre = (raw[:, :2] + grid) * stride
    size = np.exp(raw[:, 2:4]) * stride
    return np.concatenate([centre - size / 2, centre + size / 2], 1), raw[:, 4:5] * raw[:, 5:]


def detect(session, image_rgb: np.ndarray, columns: list[int], floor: float) -> list[list[float]]:
    """Detections [class, score, x1, y1, x2, y2] in pixels of `image_rgb`, best first."""
    h, w = image_rgb.shape[:2]
    scale = min(LABEL_SIDE / h, LABEL_SIDE / w)
    canvas = np.full((LABEL_SIDE, LABEL_SIDE, 3), 114, np.uint8)
    rh, rw = round(h * scale), round(w * scale)
    canvas[:rh, :rw] = cv2.resize(image_rgb, (rw, rh), interpolation=cv2.INTER_LINEAR)
    blob = np.ascontiguousarray(canvas[:, :, ::-1].transpose(2, 0, 1)[None], dtype=np.float32)
    raw = session.run(None, {session.get_inputs()[0].name: blob})[0][0]
    boxes, scores = _decode(raw)
    boxes = boxes / scale
    found = []
    for index, column in enumerate(columns):
        s = scores[:, column]
        keep = np.flatnonzero(s >= floor)
        if not len(keep):
            continue
        xywh = np.concatenate([boxes[keep, :2], boxes[keep, 2:] - boxes[keep, :2]], 1)
        for k in np.array(cv2.dnn.NMSBoxes(xywh.tolist(), s[keep].tolist(), floor, 0.6)).reshape(-1):
            x1, y1, x2, y2 = boxes[keep[k]]
            box = [max(x1, 0.0), max(y1, 0.0), min(x2, w), min(y2, h)]
            found.append([index, round(float(s[keep[k]]), 3)] + [round(float(v), 1) for v in box])
    return sorted(found, key=lambda d: -d[1])


def fill_labels(onnx_path: str, records, classes, cache: Path, floor: float = 0.15, threads: int = 2) -> dict:
    """Runs the teacher once over `records` (key, RGB image); keeps the result in `cache` (JSON)."""
    filled = json.loads(cache.read_text()) if cache.exists() else {}
    missing = [r for r in records if r.key not in filled]
    if missing:
        session = _session(onnx_path, threads)
        columns = [COCO_INDEX[c] for c in classes if c in COCO_INDEX]
        position = [i for i, c in enumerate(classes) if c in COCO_INDEX]
        for r in missing:
            found = detect(session, r.pixels, columns, floor)
            filled[r.key] = [[position[d[0]], *d[1:]] for d in found]
        cache.write_text(json.dumps(filled))
    return filled


class FeatureTeacher:
    """Dense features of the teacher's neck at strides 8, 16, 32, for any input multiple of 32."""

    def __init__(self, onnx_path: str, threads: int):
        import onnx

        model = onnx.load(onnx_path)
        shape = model.graph.input[0].type.tensor_type.shape
        for axis, name in ((0, "n"), (2, "h"), (3, "w")):
            shape.dim[axis].dim_param = name
        del model.graph.output[:]
        for tensor in FEATURES.values():
            model.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            file.write(model.SerializeToString())
            file.flush()
            self.session = _session(file.name, threads)
        self.input = model.graph.input[0].name
        probe = self(np.zeros((1, 3, 64, 64), np.float32))
        self.channels = {s: f.shape[1] for s, f in probe.items()}

    def __call__(self, bgr: np.ndarray) -> dict[int, np.ndarray]:
        """BGR 0–255 f32 [N, 3, H, W] → {stride: [N, C, H/s, W/s]}."""
        return dict(zip(FEATURES, self.session.run(list(FEATURES.values()), {self.input: bgr})))


def results(path: str, records, found) -> list[dict]:
    """Detections as COCO results of a tar."""
    from . import CLASSES

    with tarfile.open(path) as tar:
        (name,) = (n for n in tar.getnames() if n.endswith("/annotations.json"))
        doc = json.loads(tar.extractfile(name).read().decode("utf-8-sig"))
    image = {i["file_name"]: i["id"] for i in doc["images"]}
    category = {str(c.get("name", c["id"])).strip(): c["id"] for c in doc["categories"]}
    return [
        {"image_id": image[r.key.split("/", 1)[1]], "category_id": category[CLASSES[int(cls)]],
         "bbox": [round(float(v), 2) for v in (x1, y1, x2 - x1, y2 - y1)], "score": round(float(score), 4)}
        for r, rows in zip(records, found) for cls, score, x1, y1, x2, y2 in rows if CLASSES[int(cls)] in category
    ]  # fmt: skip


def main() -> None:
    from . import CLASSES
    from .data import load
    from .evaluate import measure, show

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("onnx", help="YOLOX with the 80 COCO classes, 416×416")
    parser.add_argument("--data", action="append", required=True, help="COCO tar or folder; may be repeated")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--detections-out", type=Path, help="folder: COCO results a split, for vovcam eval --detections")
    args = parser.parse_args()
    session = _session(args.onnx, 1)
    columns = [COCO_INDEX[c] for c in CLASSES]
    report = {}
    for path in args.data:
        records = load(path, CLASSES, 10_000)
        found = [np.array(detect(session, r.pixels, columns, 0.01), np.float32).reshape(-1, 6)[:100] for r in records]
        if args.detections_out:
            args.detections_out.mkdir(parents=True, exist_ok=True)
            (args.detections_out / f"{Path(path).stem}.json").write_text(json.dumps(results(path, records, found)))
            continue
        figures = report[Path(path).stem] = measure(records, found, CLASSES)
        show(Path(path).stem, LABEL_SIDE, figures)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
