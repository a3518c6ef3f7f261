"""Boxes from logits, and how far the boxes of two runtimes agree.

A large negative logit may differ much without any effect on a box, so a quantised network is
compared by what it finds.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

MANIFEST = json.loads((Path(__file__).resolve().parents[2] / "models" / "vovnet27_slim.json").read_text())
CLASSES = len(MANIFEST["classes"])
STRIDES = MANIFEST["network"]["strides"]
BINS = MANIFEST["network"]["box_bins"]
# about what the program draws: lower scores would compare noise with noise
MIN_SCORE = MANIFEST["thresholds"]["score"]
NMS_IOU = MANIFEST["thresholds"]["nms_iou"]


def iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Of one [x0, y0, x1, y1] with [n, 4]."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    area = np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return shared / np.maximum(area - shared, 1e-9)


def find(logits: np.ndarray, side: int) -> np.ndarray:
    """Flat logits (class then box of every level, cells outside channels) of a side×side picture →
    [n, 6]: x0, y0, x1, y1, score, class; after NMS by class, best score first."""
    found, at = [], 0
    for stride in STRIDES:
        width = side // stride
        cells = width * width
        scores = 1 / (1 + np.exp(-logits[at : at + cells * CLASSES].reshape(cells, CLASSES)))
        at += cells * CLASSES
        bins = logits[at : at + cells * 4 * BINS].reshape(cells, 4, BINS)
        at += cells * 4 * BINS
        weight = np.exp(bins - bins.max(axis=2, keepdims=True))
        reach = stride * (weight * np.arange(BINS)).sum(axis=2) / weight.sum(axis=2)
        centre = (np.stack([np.arange(cells) % width, np.arange(cells) // width], axis=1) + 0.5) * stride
        cell, kind = np.nonzero(scores >= MIN_SCORE)
        corners = np.concatenate([centre - reach[:, :2], centre + reach[:, 2:]], axis=1)
        found.append(np.column_stack([corners[cell], scores[cell, kind], kind]))
    left = np.concatenate(found)
    left = left[np.argsort(-left[:, 4], kind="stable")]
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[(left[:, 5] != best[5]) | (iou(best[:4], left[:, :4]) < NMS_IOU)]
    return np.array(kept).reshape(-1, 6)


def matches(found: np.ndarray, wanted: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of boxes of one class with an IoU of at least 0.5, best score first, each box once."""
    free, pairs = np.ones(len(wanted), bool), []
    for index, box in enumerate(found):
        overlap = np.where(free & (wanted[:, 5] == box[5]), iou(box[:4], wanted[:, :4]), 0.0)
        if len(overlap) and overlap.max() >= 0.5:
            pairs.append((index, int(overlap.argmax())))
            free[overlap.argmax()] = False
    return pairs


def agreement(found: list[np.ndarray], wanted: list[np.ndarray]) -> tuple[float, float]:
    """F1 of the boxes found in each picture against those wanted, and the largest difference of a
    score between two that match."""
    matched, total, difference = 0, 0, 0.0
    for a, b in zip(found, wanted, strict=True):
        pairs = matches(a, b)
        matched += len(pairs)
        total += len(a) + len(b)
        difference = max([difference, *(abs(float(a[i, 4] - b[j, 4])) for i, j in pairs)])
    return (2 * matched / total if total else 1.0), difference
