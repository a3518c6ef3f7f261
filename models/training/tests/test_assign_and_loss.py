import torch

from vovcam_train.assign import assign, inside, pair_iou
from vovcam_train.loss import LossWeights, background_weights, detection_loss, distribution_focal, giou
from vovcam_train.model import decode_boxes


def grid(side: int, stride: int):
    n = side // stride
    y, x = torch.meshgrid(torch.arange(n) + 0.5, torch.arange(n) + 0.5, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2) * stride, torch.full((n * n,), float(stride))


def test_iou_of_known_boxes():
    a = torch.tensor([[[0.0, 0, 10, 10]]])
    b = torch.tensor([[[5.0, 0, 15, 10], [20, 20, 30, 30]]])
    assert torch.allclose(pair_iou(a, b)[0, 0], torch.tensor([1 / 3, 0.0]))


def test_giou_is_one_for_equal_and_negative_for_apart():
    box = torch.tensor([[0.0, 0, 10, 10]])
    assert torch.allclose(giou(box, box), torch.ones(1))
    assert giou(box, box + 30).item() < 0


def test_smallest_box_owns_a_cell():
    points, strides = grid(64, 8)
    tiny = torch.tensor([[[30.5, 30.5, 33.0, 33.5]]])  # between four cell centres
    assert inside(points, strides, tiny)[0, 0].sum() == 4


def test_cell_goes_to_the_object_it_overlaps_most_and_padding_gets_none():
    points, strides = grid(64, 8)
    gt = torch.tensor([[[0.0, 0, 32, 32], [0, 0, 64, 64], [0, 0, 64, 64]]])
    boxes = gt[:, :1].expand(1, len(points), 4)  # every cell predicts the first object exactly
    scores = torch.full((1, len(points), 2), 0.5)
    labels, weights = torch.tensor([[0, 1, 1]]), torch.tensor([[1.0, 1.0, 0.0]])
    owner, target_boxes, soft = assign(scores, boxes, points, strides, gt, labels, weights)
    assert (owner == 0).sum() == 10 and not (owner == 2).any()
    assert torch.equal(target_boxes[owner == 0][0], gt[0, 0])
    assert torch.allclose(soft[owner == 0].max(), torch.tensor(1.0), atol=1e-4)
    assert (soft[owner < 0] == 0).all()


def test_untrained_boxes_still_get_cells():
    points, strides = grid(64, 8)
    boxes = points.repeat(1, 2)[None] + 500.0  # IoU 0 everywhere
    gt, labels = torch.tensor([[[8.0, 8, 40, 40]]]), torch.tensor([[0]])
    owner, _, _ = assign(torch.full((1, 64, 1), 0.1), boxes, points, strides, gt, labels, torch.ones(1, 1))
    assert (owner == 0).sum() == 10


def test_distribution_focal_is_least_at_the_true_distance():
    distance = torch.tensor([[3.25, 3.25, 3.25, 3.25]])
    exact = torch.full((1, 4, 16), -20.0)
    exact[..., 3], exact[..., 4] = torch.tensor(0.75).log(), torch.tensor(0.25).log()
    shifted = exact.roll(2, -1)
    assert distribution_focal(exact, distance) < distribution_focal(shifted, distance)
    points, strides = torch.tensor([[100.0, 100.0]]), torch.tensor([8.0])
    box = decode_boxes(exact[None], points, strides)[0, 0]
    assert torch.allclose(box, torch.tensor([74.0, 74, 126, 126]), atol=1e-3)


def test_background_map_is_read_at_cell_centres():
    background = torch.zeros(1, 1, 8, 8)
    background[0, 0, 1, 1] = 1.0  # pixels 8…16: centre of the first stride-16 cell lies at 8
    background[0, 0, 2, 2] = 2.0  # pixels 16…24: centre of the first stride-32 cell lies at 16
    weights = background_weights(background, (8, 16, 32))[0, :, 0]
    assert weights[9] == 1.0 and weights[64] == 1.0 and weights[80] == 2.0


def outputs(side: int, classes: int):
    torch.manual_seed(0)
    return {
        s: (torch.randn(1, classes, side // s, side // s), torch.randn(1, 64, side // s, side // s).requires_grad_())
        for s in (8, 16, 32)
    }


def batch(background: float):
    return {
        "boxes": torch.zeros(1, 1, 4), "labels": torch.zeros(1, 1, dtype=torch.long), "weights": torch.zeros(1, 1),
        "background": torch.full((1, 2, 8, 8), background),
    }  # fmt: skip


def test_unlabelled_classes_have_no_background_loss():
    assert detection_loss(outputs(64, 2), batch(1.0), LossWeights())[0] > 1
    assert detection_loss(outputs(64, 2), batch(0.0), LossWeights())[0] == 0


def test_a_positive_counts_even_where_its_background_does_not():
    b = batch(0.0)
    b["boxes"][0, 0], b["weights"][0, 0] = torch.tensor([8.0, 8, 40, 40]), 1.0
    loss, parts = detection_loss(outputs(64, 2), b, LossWeights())
    loss.backward()
    assert parts["cls"] > 0 and parts["iou"] > 0 and parts["dfl"] > 0
