"""Losses: BCE on graded class targets, GIoU, distribution focal loss; class masks inside."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .assign import assign
from .augment import MAP_STRIDE
from .model import decode_boxes, flatten


@dataclass(frozen=True)
class LossWeights:
    cls: float = 1.0
    iou: float = 3.0
    dfl: float = 0.75


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of paired boxes [K, 4] → [K]."""
    inter = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(-1)
    union = (a[:, 2:] - a[:, :2]).clamp(min=0).prod(-1) + (b[:, 2:] - b[:, :2]).clamp(min=0).prod(-1) - inter
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=0).prod(-1)
    return inter / (union + 1e-7) - (hull - union) / (hull + 1e-7)


def distribution_focal(logits: Tensor, distance: Tensor) -> Tensor:
    """Cross-entropy to the two bins around `distance` [K, 4] (in strides); logits [K, 4, bins] → [K]."""
    bins = logits.shape[-1]
    target = distance.clamp(0, bins - 1.01)
    low = target.floor().long()
    share = target - low
    log_p = logits.log_softmax(-1)
    at_low = log_p.gather(-1, low[..., None])[..., 0]
    at_high = log_p.gather(-1, low[..., None] + 1)[..., 0]
    return -(at_low * (1 - share) + at_high * share).mean(-1)


def background_weights(background: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Map [N, C, S/8, S/8] → weight per cell [N, P, C]: the map's value at each cell's centre."""
    levels = []
    for s in strides:
        step, first = max(s // MAP_STRIDE, 1), s // (2 * MAP_STRIDE)
        level = background[:, :, first::step, first::step]
        if s < MAP_STRIDE:
            level = level.repeat_interleave(MAP_STRIDE // s, 2).repeat_interleave(MAP_STRIDE // s, 3)
        levels.append(level.flatten(2).transpose(1, 2))
    return torch.cat(levels, 1)


def detection_loss(outputs, batch: dict[str, Tensor], weights: LossWeights) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch, summed over cells and divided by the sum of the soft targets."""
    logits, box_logits, points, strides = flatten(outputs)
    boxes = decode_boxes(box_logits, points, strides)
    owner, target_boxes, soft = assign(
        logits.detach().sigmoid(), boxes.detach(), points, strides, batch["boxes"], batch["labels"], batch["weights"]
    )
    positive = owner >= 0
    labels = batch["labels"].gather(1, owner.clamp(min=0))
    target = torch.zeros_like(logits)
    target.scatter_(2, labels[..., None], (soft * positive)[..., None])
    mask = background_weights(batch["background"], tuple(outputs))
    mask = mask.scatter(2, labels[..., None], torch.where(positive[..., None], 1.0, mask.gather(2, labels[..., None])))
    total = soft.sum().clamp(min=1.0)
    cls = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * mask).sum() / total

    picked = positive.nonzero(as_tuple=True)
    share = soft[picked]
    goal = target_boxes[picked]
    iou = ((1 - giou(boxes[picked], goal)) * share).sum() / total
    at, scale = points[picked[1]], strides[picked[1]][:, None]
    sides = torch.cat([at - goal[:, :2], goal[:, 2:] - at], -1) / scale
    dfl = (distribution_focal(box_logits[picked], sides) * share).sum() / total
    loss = weights.cls * cls + weights.iou * iou + weights.dfl * dfl
    return loss, {"cls": cls.detach(), "iou": iou.detach(), "dfl": dfl.detach()}


def imitation_loss(features: dict[int, Tensor], adapters, wanted: dict[int, Tensor]) -> Tensor:
    """Mean squared error between the adapted features and the teacher's, whose channels are
    standardised over the batch: cells where the teacher is excited (objects) weigh most.
    The teacher's maps are resized to ours when it saw the picture at another scale."""
    losses = []
    for s, goal in wanted.items():
        mine = adapters[f"s{s}"](features[s]).float()
        if goal.shape[-2:] != mine.shape[-2:]:
            goal = F.interpolate(goal, mine.shape[-2:], mode="bilinear", align_corners=False, antialias=True)
        mean = goal.mean((0, 2, 3), keepdim=True)
        std = goal.std((0, 2, 3), keepdim=True)
        losses.append(F.mse_loss(mine, (goal - mean) / (std + 1e-3)))
    return torch.stack(losses).mean()
