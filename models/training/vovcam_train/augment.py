"""Augmentation and batching: zoom, shift, flip, colour, mosaic; one warp per photo.

A sample is a square canvas filled with 114, its boxes, and a background map at stride 8:
for each class the weight of "there is nothing here". The map is what carries class masks
and ignore regions through a mosaic of photos whose sets label different classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from . import PAD_VALUE
from .data import Record

MAP_STRIDE = 8
MIN_SIDE_PX = 3.0
MIN_VISIBLE = 0.35
MAX_BOXES = 80


@dataclass(frozen=True)
class Policy:
    """How strong the augmentation is; `zoom` is relative to the photo filling the canvas."""

    mosaic: float = 0.5
    zoom: tuple[float, float] = (0.5, 2.5)
    mosaic_zoom: tuple[float, float] = (0.5, 2.0)
    aspect: float = 0.15
    colour: bool = True


FINAL = Policy(mosaic=0.0, zoom=(0.6, 1.6), aspect=0.05)
STRETCHED_ASPECT = 0.45  # of a photo whose true ratio of sides is not known; log of width / height


class Canvas:
    def __init__(self, side: int, classes: int):
        self.side = side
        self.pixels = np.full((side, side, 3), PAD_VALUE, np.uint8)
        cells = side // MAP_STRIDE
        self.background = np.ones((classes, cells, cells), np.float32)
        self.boxes: list[np.ndarray] = []
        self.labels: list[int] = []
        self.weights: list[float] = []

    def _ignore(self, box: np.ndarray, label: int) -> None:
        x1, y1 = np.floor(box[:2] / MAP_STRIDE).astype(int).clip(0)
        x2, y2 = np.ceil(box[2:] / MAP_STRIDE).astype(int)
        rows = slice(None) if label < 0 else slice(label, label + 1)
        self.background[rows, y1:y2, x1:x2] = 0.0

    def paste(self, record: Record, region: tuple[int, int, int, int], matrix: np.ndarray, flip: bool) -> None:
        """Warps `record` by `matrix` (2×3, photo → canvas pixels) into `region` x1 y1 x2 y2."""
        x1, y1, x2, y2 = region
        local = matrix.copy()
        local[:, 2] -= (x1, y1)
        shrink = min(abs(local[0, 0]), local[1, 1]) < 0.6
        source = record.pixels
        if shrink:  # Halve first: plain bilinear below 0.5 aliases, and area warps are slow.
            source = cv2.resize(source, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            local[:, :2] *= 2
        # OpenCV counts from the centres of pixels, boxes from their edges
        local[:, 2] += local[:, :2].sum(1) / 2 - 0.5
        self.pixels[y1:y2, x1:x2] = cv2.warpAffine(
            source, local, (x2 - x1, y2 - y1), flags=cv2.INTER_LINEAR, borderValue=(PAD_VALUE,) * 3
        )
        cells = [round(v / MAP_STRIDE) for v in region]
        self.background[:, cells[1] : cells[3], cells[0] : cells[2]] = record.background[:, None, None]
        limits = np.array([x1, y1, x2, y2], np.float32)
        for boxes, labels, weights in (
            (record.ignore_boxes, record.ignore_labels, None),
            (record.boxes, record.labels, record.weights),
        ):
            self._add(boxes, labels, weights, matrix, flip, limits)

    def _add(self, boxes, labels, weights, matrix, flip, limits) -> None:
        if not len(boxes):
            return
        moved = boxes * matrix[[0, 1, 0, 1], [0, 1, 0, 1]] + matrix[[0, 1, 0, 1], 2]
        if flip:
            moved = moved[:, [2, 1, 0, 3]]
        kept = np.concatenate([np.maximum(moved[:, :2], limits[:2]), np.minimum(moved[:, 2:], limits[2:])], 1)
        size = (kept[:, 2:] - kept[:, :2]).clip(0)
        visible = size.prod(1) / np.maximum((moved[:, 2:] - moved[:, :2]).prod(1), 1e-6)
        for i in np.flatnonzero(size.min(1) > 0.5):
            usable = weights is not None and visible[i] >= MIN_VISIBLE and size[i].min() >= MIN_SIDE_PX
            if usable:
                self.boxes.append(kept[i]), self.labels.append(int(labels[i])), self.weights.append(float(weights[i]))
            else:
                self._ignore(kept[i], int(labels[i]))

    def finish(self) -> None:
        """Keeps at most MAX_BOXES; the rest becomes regions without loss."""
        for i in range(MAX_BOXES, len(self.boxes)):
            self._ignore(self.boxes[i], self.labels[i])
        del self.boxes[MAX_BOXES:], self.labels[MAX_BOXES:], self.weights[MAX_BOXES:]


def _matrix(rng, record, region, zoom, aspect, flip, fill: bool) -> np.ndarray:
    """A random zoom and shift of the photo within `region`; with `fill` the zoom is relative
    to covering it in area (mosaic), else to fitting inside."""
    h, w = record.pixels.shape[:2]
    x1, y1, x2, y2 = region
    rw, rh = x2 - x1, y2 - y1
    base = np.sqrt(rw * rh / (w * h)) if fill else min(rw / w, rh / h)
    scale = base * np.exp(rng.uniform(np.log(zoom[0]), np.log(zoom[1])))
    aspect = STRETCHED_ASPECT if record.stretched else aspect
    stretch = np.exp(rng.uniform(-aspect, aspect))
    sx, sy = scale * np.sqrt(stretch), scale / np.sqrt(stretch)
    dx, dy = x1 + rng.uniform() * (rw - w * sx), y1 + rng.uniform() * (rh - h * sy)
    if flip:
        return np.array([[-sx, 0, dx + w * sx], [0, sy, dy]], np.float64)
    return np.array([[sx, 0, dx], [0, sy, dy]], np.float64)


def _colour(rng, pixels: np.ndarray) -> np.ndarray:
    """Brightness, contrast, gamma and cast by one table per channel; sometimes grey or blurred."""
    ramp = np.arange(256, dtype=np.float32) / 255
    curve = ramp ** np.exp(rng.uniform(-0.4, 0.4))
    curve = (curve - 0.5) * rng.uniform(0.7, 1.3) + 0.5 + rng.uniform(-0.12, 0.12)
    table = curve[:, None] * rng.uniform(0.88, 1.12, 3)[None]
    pixels = cv2.LUT(pixels, (table * 255).clip(0, 255).astype(np.uint8)[None])
    draw = rng.uniform()
    if draw < 0.35:
        grey = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        share = 1.0 if draw < 0.06 else rng.uniform(-0.5, 0.7)
        pixels = cv2.addWeighted(pixels, 1.0 - share, grey, share, 0.0)
    if rng.uniform() < 0.05:
        pixels = cv2.blur(pixels, (3, 3))
    return pixels


def sample(rng, records: list[Record], picks: list[int], side: int, policy: Policy) -> Canvas:
    """One training canvas from one photo (`len(picks) == 1`) or a mosaic of four."""
    canvas = Canvas(side, len(records[0].background))
    if len(picks) == 1:
        regions = [(0, 0, side, side)]
    else:  # The cross lies on the background map's grid, so that masks stay exact.
        cx, cy = (int(round(rng.uniform(0.3, 0.7) * side / MAP_STRIDE)) * MAP_STRIDE for _ in range(2))
        regions = [(0, 0, cx, cy), (cx, 0, side, cy), (0, cy, cx, side), (cx, cy, side, side)]
    mosaic = len(picks) > 1
    for pick, region in zip(picks, regions):
        record = records[pick]
        flip = bool(rng.uniform() < 0.5)
        zoom = policy.mosaic_zoom if mosaic else policy.zoom
        matrix = _matrix(rng, record, region, zoom, policy.aspect, flip, fill=mosaic)
        canvas.paste(record, region, matrix, flip)
    canvas.finish()
    if policy.colour:
        canvas.pixels = _colour(rng, canvas.pixels)
    return canvas


@dataclass(frozen=True)
class BatchPlan:
    """What one batch is made of; drawn by the trainer, carried out by a loader process."""

    picks: list[list[int]]
    side: int
    policy: Policy
    seed: int


class BatchSet(torch.utils.data.Dataset):
    """Maps a BatchPlan to tensors: pixels uint8 [N, 3, S, S] RGB, boxes [N, M, 4], labels,
    weights [N, M] (weight 0 = padding), background [N, classes, S/8, S/8]."""

    def __init__(self, records: list[Record]):
        self.records = records

    def __getitem__(self, plan: BatchPlan) -> dict[str, torch.Tensor]:
        cv2.setNumThreads(0)
        rng = np.random.default_rng(plan.seed)
        canvases = [sample(rng, self.records, picks, plan.side, plan.policy) for picks in plan.picks]
        most = max(1, max(len(c.boxes) for c in canvases))
        boxes = np.zeros((len(canvases), most, 4), np.float32)
        labels = np.zeros((len(canvases), most), np.int64)
        weights = np.zeros((len(canvases), most), np.float32)
        for i, c in enumerate(canvases):
            if c.boxes:
                n = len(c.boxes)
                boxes[i, :n], labels[i, :n], weights[i, :n] = np.stack(c.boxes), c.labels, c.weights
        pixels = np.stack([c.pixels for c in canvases]).transpose(0, 3, 1, 2)
        return {
            "pixels": torch.from_numpy(np.ascontiguousarray(pixels)),
            "boxes": torch.from_numpy(boxes),
            "labels": torch.from_numpy(labels),
            "weights": torch.from_numpy(weights),
            "background": torch.from_numpy(np.stack([c.background for c in canvases])),
        }
