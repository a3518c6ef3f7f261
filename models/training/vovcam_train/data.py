"""Labelled photos in memory: COCO JSON folders or tars, VOC XML folders.

Images are decoded once to uint8 RGB at the training long side. A record carries, beside
its boxes, which classes its set labels completely: for the others "no box" says nothing.
"""

from __future__ import annotations

import glob
import concurrent.futures
import hashlib
import io
import json
import pickle
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Callable, Iterator

import cv2
import numpy as np
from PIL import Image

from .annotations import LabelError, Photo, read_coco, read_voc

# raised when records are read differently, so that a photo cache from before is not used
READING = 2
VOC_CLASSES = frozenset(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorcycle person "
    "pottedplant sheep sofa train tvmonitor".split()
)
# what stands between a video's name and a frame's number in the data's names
FRAME_OF_A_VIDEO = re.compile(r"(_mp4|_I\d{5}|-_\d|_?frame\d|-\d{4}\.).*$")


@dataclass
class Record:
    """One photo. Boxes are x1 y1 x2 y2 in pixels of `pixels`."""

    key: str
    set: str
    original_id: str
    pixels: np.ndarray  # uint8 RGB [h, w, 3]
    boxes: np.ndarray  # f32 [n, 4]
    labels: np.ndarray  # int64 [n]
    weights: np.ndarray  # f32 [n], 1 for a human label, the score for a teacher's
    ignore_boxes: np.ndarray  # f32 [k, 4]
    ignore_labels: np.ndarray  # int64 [k], -1 = every class
    background: np.ndarray  # f32 [classes], weight of the background loss
    stretched: bool = False  # the true ratio of the sides is not known
    scale: float = 1.0  # pixels here per pixel of the stored image


def _decode(data: bytes, long_side: int) -> tuple[np.ndarray, float]:
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGB"))
    scale = long_side / max(pixels.shape[:2])
    if scale < 1.0:
        size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(pixels), min(scale, 1.0)


def _record(key, photo: Photo, data, classes, long_side) -> Record:
    pixels, scale = _decode(data, long_side)
    objects, info = photo.objects, photo.info
    array = np.array([o[2:] for o in objects], np.float32).reshape(-1, 4) * scale
    label = np.array([o[0] for o in objects], np.int64)
    crowd = np.array([bool(o[1]) for o in objects], bool)
    background = np.array([c in photo.labelled for c in classes], np.float32)
    return Record(
        key, info.get("set", "data"), str(info.get("original_id", key)), pixels,
        array[~crowd], label[~crowd], np.ones((~crowd).sum(), np.float32),
        array[crowd], label[crowd], background, bool(info.get("stretched", False)), scale,
    )  # fmt: skip


def _coco(photos: list[Photo], name: str, read: Callable[[str], bytes], classes, long_side, exclude) -> Iterator[Record]:
    for photo in photos:
        if photo.info.get("set") not in exclude:
            yield _record(f"{name}/{photo.file_name}", photo, read(photo.file_name), classes, long_side)


def _names(name: str) -> list[str]:
    """Where an image may be, below the annotation file: some tools write `images/` before its name, or
    the separators of Windows."""
    plain = [str(PurePosixPath(n)) for n in (name, name.replace("\\", "/"))]
    return [f"images/{n}" for n in plain] + plain


def _coco_tar(path: Path, classes, long_side, exclude) -> Iterator[Record]:
    with tarfile.open(path) as tar:
        # a file that stands in the tar twice is a link from the second time on
        members = {str(PurePosixPath(m.name)): m for m in tar.getmembers() if m.isfile() or m.islnk() or m.issym()}
        lists = [n for n in members if PurePosixPath(n).name == "annotations.json"]
        if len(lists) != 1:
            raise ValueError(f"'{path}': expected one 'annotations.json' in the tar, found {len(lists)}")
        root = PurePosixPath(lists[0]).parent

        def read(name: str) -> bytes:
            found = next((members[n] for n in (str(root / n) for n in _names(name)) if n in members), None)
            if found is None:
                raise LabelError(f"'{path}': the image '{name}' is missing, but the annotations name it")
            return tar.extractfile(found).read()

        data = tar.extractfile(members[lists[0]]).read()
        photos = read_coco(data, f"{path}:{lists[0]}", classes)
        yield from _coco(photos, path.stem, read, classes, long_side, exclude)


def _coco_folder(path: Path, classes, long_side, exclude) -> Iterator[Record]:
    file = path / "annotations.json"

    def read(name: str) -> bytes:
        found = next((path / n for n in _names(name) if (path / n).is_file()), None)
        if found is None:
            raise LabelError(f"'{path}': the image '{name}' is missing, but the annotations name it")
        return found.read_bytes()

    yield from _coco(read_coco(file.read_bytes(), file, classes), path.name, read, classes, long_side, exclude)


def _voc_image(path: Path, file: Path, name: str) -> Path:
    """The image of an XML file: by the name that it says, or else by the file's own."""
    folder = path / "JPEGImages"
    for named in (name, PurePosixPath(name.replace("\\", "/")).name):
        if named and (folder / named).is_file():
            return folder / named
    same_stem = sorted(f for f in folder.glob(f"{glob.escape(file.stem)}.*") if f.is_file())
    if not same_stem:
        raise LabelError(f"'{file}': filename: '{folder}' has neither '{name}' nor an image named '{file.stem}'")
    return same_stem[0]


def _voc_folder(path: Path, classes, long_side) -> Iterator[Record]:
    for file in sorted((path / "Annotations").iterdir()):
        # macOS puts a file '._NAME' beside each NAME
        if file.suffix.lower() != ".xml" or file.name.startswith("."):
            continue
        photo = read_voc(file, classes)
        photo.labelled = [c for c in classes if c in VOC_CLASSES]
        data = _voc_image(path, file, photo.file_name).read_bytes()
        yield _record(f"{path.name}/{file.stem}", photo, data, classes, long_side)


def load(path: str | Path, classes, long_side: int, exclude=()) -> list[Record]:
    """Reads a COCO tar, a COCO folder (`annotations.json`, `images/`) or a VOC folder
    (`Annotations/`, `JPEGImages/`). Sets named in `exclude` are left out before decoding."""
    path = Path(path)
    if path.is_file():
        return list(_coco_tar(path, classes, long_side, exclude))
    if (path / "annotations.json").is_file():
        return list(_coco_folder(path, classes, long_side, exclude))
    if (path / "Annotations").is_dir():
        return list(_voc_folder(path, classes, long_side))
    raise ValueError(f"'{path}': expected a COCO tar, a folder with 'annotations.json', or a VOC folder")


def _kept(path: str | Path, classes, long_side: int, exclude, folder: Path) -> Path:
    stat = Path(path).stat()
    what = repr((READING, str(path), stat.st_size, stat.st_mtime_ns, tuple(classes), long_side, sorted(exclude)))
    return folder / f"{Path(path).stem}-{hashlib.sha256(what.encode()).hexdigest()[:12]}.pickle"


def _keep(path: str | Path, classes, long_side: int, exclude, folder: Path) -> None:
    file = _kept(path, classes, long_side, exclude, folder)
    if not file.exists():
        records = load(path, classes, long_side, exclude)
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_bytes(pickle.dumps(records, protocol=5))
        part.replace(file)


def load_cached(path: str | Path, classes, long_side: int, exclude, folder: Path | None) -> list[Record]:
    """`load`, whose result is kept in `folder` for the next run: decoding takes minutes."""
    if folder is None:
        return load(path, classes, long_side, exclude)
    _keep(path, classes, long_side, exclude, folder)
    return pickle.loads(_kept(path, classes, long_side, exclude, folder).read_bytes())


def load_all(paths, classes, long_side: int, exclude, folder: Path | None, processes: int) -> list[Record]:
    """`load_cached` of several; those that are not kept yet are decoded side by side."""
    if folder is not None and len(paths) > 1 and processes > 1:
        with concurrent.futures.ProcessPoolExecutor(min(processes, len(paths))) as pool:
            for work in [pool.submit(_keep, path, classes, long_side, exclude, folder) for path in paths]:
                work.result()
    return [r for path in paths for r in load_cached(path, classes, long_side, exclude, folder)]


def scene(record: Record) -> str:
    """Frames of one video, and copies of one photo, share a scene name."""
    # names may have been cut at the front, so folders before them differ
    name = re.sub(r"\.rf\.[0-9a-zA-Z]+.*$", "", record.original_id.rsplit("/")[-1])
    return f"{record.set}:{FRAME_OF_A_VIDEO.sub('', name)}"


def split(records: list[Record], share: float) -> tuple[list[Record], list[Record]]:
    """(train, held out); by a hash of the scene, so that the split never moves and no scene is on both sides."""

    def held(r: Record) -> bool:
        digest = hashlib.sha256(scene(r).encode()).digest()
        return int.from_bytes(digest[:4], "big") / 2**32 < share

    return [r for r in records if not held(r)], [r for r in records if held(r)]


def _best_iou(box: np.ndarray, boxes: np.ndarray) -> float:
    if not len(boxes):
        return 0.0
    inter = np.clip(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None).prod(1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return float((inter / (area + (box[2:] - box[:2]).prod() - inter + 1e-9)).max())


def apply_teacher(
    record: Record, found: list[list[float]], positive: float, background: float, known: np.ndarray
) -> None:
    """Adds a teacher's detections for the classes that the record's set does not label:
    score ≥ `positive` becomes a box of that weight, less becomes a region without loss;
    elsewhere background of the classes that the teacher knows (bool [classes]) counts with weight
    `background` instead of 0."""
    unlabelled = record.background == 0
    boxes, labels, weights, ignored = [], [], [], []
    for cls, score, *xyxy in found:
        box = np.array(xyxy, np.float32)
        if not unlabelled[cls] or _best_iou(box, record.boxes[record.labels == cls]) > 0.4:
            continue
        if score >= positive:
            boxes.append(box), labels.append(cls), weights.append(score)
        else:
            ignored.append((box, cls))
    if boxes:
        record.boxes = np.concatenate([record.boxes, np.stack(boxes)])
        record.labels = np.concatenate([record.labels, np.array(labels, np.int64)])
        record.weights = np.concatenate([record.weights, np.array(weights, np.float32)])
    if ignored:
        record.ignore_boxes = np.concatenate([record.ignore_boxes, np.stack([b for b, _ in ignored])])
        record.ignore_labels = np.concatenate([record.ignore_labels, np.array([c for _, c in ignored], np.int64)])
    record.background = np.where(unlabelled & known, np.float32(background), record.background)


@dataclass(frozen=True)
class FusedRules:
    """What a fused teacher's score means; scores are not probabilities. From `positive` on a detection is
    a box whose weight rises to 1 at `certain`; from `seen` on it is a region without loss; below it is
    nothing. In a class that the set labels, a detection without a box of the set is believed to be
    an unlabelled object from `unlabelled` on, and becomes a region without loss."""

    seen: float = 0.15
    positive: float = 0.35
    certain: float = 0.55
    unlabelled: float = 0.5
    background: float = 0.95

    def weight(self, score: float) -> float:
        return float(np.clip((score - self.seen) / (self.certain - self.seen), 0.0, 1.0))


def read_fused(path: str | Path, classes) -> dict[str, list[list[float]]]:
    """`{"classes": […], "boxes": {file_name: [[class, x, y, w, h, score], …]}}` → record key →
    [[class, score, x1, y1, x2, y2], …], best first, in pixels of the stored image. The file is named
    after the tar or folder whose photos it describes."""
    path = Path(path)
    doc = json.loads(path.read_text())
    index = {i: classes.index(c) for i, c in enumerate(doc["classes"]) if c in classes}
    return {
        f"{path.stem}/{name}": sorted(
            ([index[int(c)], s, x, y, x + w, y + h] for c, x, y, w, h, s in rows if int(c) in index), key=lambda d: -d[1]
        )
        for name, rows in doc["boxes"].items()
    }


def apply_fused(record: Record, found: list[list[float]], rules: FusedRules, known: np.ndarray) -> dict[str, int]:
    """Completes a record by a fused teacher's detections (see `FusedRules`), so that every class the teacher
    knows (bool [classes]) has background where nobody sees anything. Boxes of the set stay as they are.
    Returns how many detections became what."""
    unlabelled = record.background == 0
    own_boxes, own_labels = record.boxes, record.labels
    new, ignored, counts = [], [], {"agreed": 0, "added": 0, "unsure": 0, "disputed": 0}
    for cls, score, *xyxy in found:
        box = np.array(xyxy, np.float32) * record.scale
        if score < rules.seen:
            continue
        other_name = _best_iou(box, own_boxes[own_labels != cls]) > 0.6
        if _best_iou(box, own_boxes[own_labels == cls]) > 0.4:
            counts["agreed"] += 1
        elif not unlabelled[cls]:
            if score >= rules.unlabelled and not other_name:  # on its own objects the set knows better
                ignored.append((box, cls))
                counts["disputed"] += 1
        elif score >= rules.positive and not other_name:
            new.append((box, cls, rules.weight(score)))
            counts["added"] += 1
        else:
            ignored.append((box, cls))
            counts["unsure"] += 1
    if new:
        boxes = np.stack([b for b, _, _ in new])
        labels = np.array([c for _, c, _ in new], np.int64)
        # what the set could not decide, and the teacher can, is no region without loss any more
        keep = [
            i for i, (b, c) in enumerate(zip(record.ignore_boxes, record.ignore_labels))
            if _best_iou(b, boxes[labels == c]) < 0.7
        ]  # fmt: skip
        record.ignore_boxes, record.ignore_labels = record.ignore_boxes[keep], record.ignore_labels[keep]
        record.boxes = np.concatenate([record.boxes, boxes])
        record.labels = np.concatenate([record.labels, labels])
        record.weights = np.concatenate([record.weights, np.array([w for _, _, w in new], np.float32)])
    if ignored:
        record.ignore_boxes = np.concatenate([record.ignore_boxes, np.stack([b for b, _ in ignored])])
        record.ignore_labels = np.concatenate([record.ignore_labels, np.array([c for _, c in ignored], np.int64)])
    record.background = np.where(unlabelled & known, np.float32(rules.background), record.background)
    return counts


def read_exclusions(path: str | Path) -> set[tuple[str, str]]:
    """Lines `SET ORIGINAL_ID`; `#` begins a remark."""
    lines = (line.strip() for line in Path(path).read_text().splitlines())
    return {tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")}


def repeat_factors(
    records: list[Record], classes: int, threshold: float, most: float, by_set: dict[str, float] | None = None
) -> np.ndarray:
    """Sampling weight per record: max over its classes of sqrt(threshold / image share),
    between 1 and `most` (Gupta et al., LVIS, arXiv 1908.03195), times the factor of its set."""
    share = np.zeros(classes)
    for r in records:
        share[np.unique(r.labels)] += 1
    share = np.maximum(share / len(records), 1e-9)
    per_class = np.clip(np.sqrt(threshold / share), 1.0, most)
    by_set = by_set or {}
    own = [per_class[np.unique(r.labels)].max() if len(r.labels) else 0.5 for r in records]
    return np.array([f * by_set.get(r.set, 1.0) for f, r in zip(own, records)])
