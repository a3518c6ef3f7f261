"""Task-aligned assignment (Feng et al., TOOD, arXiv 2108.07755): each object takes the
`top` cells whose score^alpha · IoU^beta is highest; targets are graded by that quality."""

from __future__ import annotations

import torch
from torch import Tensor


def pair_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every box of a [N, M, 4] with every box of b [N, P, 4] → [N, M, P]."""
    low = torch.maximum(a[:, :, None, :2], b[:, None, :, :2])
    high = torch.minimum(a[:, :, None, 2:], b[:, None, :, 2:])
    inter = (high - low).clamp_(min=0).prod(-1)
    area_a = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1)
    return inter / (area_a[:, :, None] + area_b[:, None] - inter + 1e-9)


def inside(points: Tensor, strides: Tensor, boxes: Tensor) -> Tensor:
    """Which cells may stand for which box → bool [N, M, P]. A box narrower than two cells is
    widened to them, or the smallest objects would own no cell at all."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = (boxes[..., 2:] - boxes[..., :2]) / 2
    reach = torch.maximum(half[:, :, None], strides.clamp(max=float(strides.min()))[None, None, :, None])
    return ((points[None, None] - centre[:, :, None]).abs() < reach).all(-1)


@torch.no_grad()
def assign(
    scores: Tensor, boxes: Tensor, points: Tensor, strides: Tensor,
    gt_boxes: Tensor, gt_labels: Tensor, gt_weights: Tensor,
    top: int = 10, alpha: float = 0.5, beta: float = 6.0,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """scores [N, P, C] (after sigmoid), boxes [N, P, 4], gt_* [N, M, …] with weight 0 as padding.

    Returns the object of each cell [N, P] (−1 = background), its target box [N, P, 4] and its
    soft class target [N, P]: the cell's alignment scaled so that the object's best equals its best IoU.
    """
    n, m = gt_labels.shape
    real = gt_weights > 0
    iou = pair_iou(gt_boxes, boxes)
    score = scores.gather(2, gt_labels[:, None, :].expand(n, boxes.shape[1], m)).transpose(1, 2)
    candidate = inside(points, strides, gt_boxes) & real[..., None]
    quality = (score.clamp(min=1e-6).pow(alpha) * iou.pow(beta)) * candidate
    # The tie-break keeps untrained boxes (IoU 0 everywhere) from leaving an object without a cell.
    distance = (points[None, None] - (gt_boxes[..., :2] + gt_boxes[..., 2:])[:, :, None] / 2).square().sum(-1)
    rank = torch.where(candidate, quality + 1e-9 / (1.0 + distance), -torch.ones_like(quality))
    value, index = rank.topk(min(top, rank.shape[-1]), dim=-1)
    chosen = torch.zeros_like(candidate).scatter_(2, index, value > 0)
    # A cell wanted by several objects goes to the one it overlaps most.
    overlap = torch.where(chosen, iou + 1e-6, torch.zeros_like(iou))
    best, owner = overlap.max(dim=1)
    owner = torch.where(best > 0, owner, torch.full_like(owner, -1))
    mine = chosen & (owner[:, None] == torch.arange(m, device=owner.device)[None, :, None])
    quality = torch.where(mine, quality + 1e-9, torch.zeros_like(quality))
    best_iou = torch.where(mine, iou, torch.zeros_like(iou)).amax(-1, keepdim=True)
    graded = quality / quality.amax(-1, keepdim=True).clamp(min=1e-9) * best_iou
    target = graded.amax(1) * (owner >= 0)
    picked = owner.clamp(min=0)
    target_boxes = gt_boxes.gather(1, picked[..., None].expand(-1, -1, 4))
    return owner, target_boxes, target * gt_weights.gather(1, picked)
