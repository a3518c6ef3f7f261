import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from golden import goldens
from vovcam_train import CLASSES
from vovcam_train.data import Record
from vovcam_train.ema import Ema
from vovcam_train.evaluate import letterbox, measure
from vovcam_train.export import class_thresholds, export, load_model
from vovcam_train.model import Detector, NetworkConfig, flatten, load_backbone
from vovcam_train.schedule import Schedule, parse_stages


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Detector(NetworkConfig(classes=len(CLASSES))).eval()


def test_backbone_has_the_published_size(model):
    assert sum(p.numel() for p in model.backbone.parameters()) == 3_012_736


@torch.inference_mode()
def test_shapes(model):
    features = model.backbone(torch.zeros(1, 3, 64, 96))
    assert {s: tuple(f.shape[1:]) for s, f in features.items()} == {
        4: (128, 16, 24), 8: (256, 8, 12), 16: (384, 4, 6), 32: (512, 2, 3),
    }  # fmt: skip
    cls, box, points, strides = flatten(model(torch.zeros(1, 3, 64, 96)))
    assert cls.shape == (1, 126, 12) and box.shape == (1, 126, 4, 16)
    assert points[1].tolist() == [12, 4] and strides[-1] == 32


def test_export_and_load_agree(model, tmp_path):
    export(model, tmp_path / "vovnet27_slim.json", CLASSES, {"recipe": "r", "image_passes": 0, "data": []}, [], 320)
    state = load_file(tmp_path / "vovnet27_slim.safetensors")
    assert state["backbone.stem.stem_1/conv.weight"].dtype == torch.float16
    assert state["backbone.stage5.OSA5_1.concat.OSA5_1_concat/norm.running_var"].dtype == torch.float32
    assert state["head.reg_pred.bias"].dtype == torch.float32
    loaded, manifest = load_model(tmp_path / "vovnet27_slim.json")
    assert manifest["network"]["strides"] == [8, 16, 32] and manifest["format"] == "vovcam-model.v1"
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(flatten(loaded(x))[0], flatten(model(x))[0], atol=2e-2)
    result = goldens(tmp_path / "vovnet27_slim.json")
    assert len(json.dumps(result)) < 60_000
    assert result["cases"][0]["tensors"]["box_s8"]["shape"] == [64, 8, 12]


def test_thresholds_come_from_a_report(model, tmp_path):
    def point(score):
        return {"score": score, "precision": 0.81, "recall": 0.5}

    report = {"format": "vovcam-eval.v1", "classes": [
        {"name": "person", "in_mean": True, "at_precision": point(0.3712)},
        {"name": "car", "in_mean": True},
        {"name": "bus", "in_mean": False, "at_precision": point(0.2)},
    ]}  # fmt: skip
    thresholds = class_thresholds(report)
    assert thresholds == {"person": 0.38}, "rounded upwards, so that the precision still holds"
    export(model, tmp_path / "m.json", CLASSES, {}, [], 320, thresholds)
    written = json.loads((tmp_path / "m.json").read_text())["thresholds"]
    assert written == {"score": 0.35, "classes": {"person": 0.38}, "nms_iou": 0.6}
    with pytest.raises(ValueError, match="expected a report"):
        class_thresholds({"classes": []})


def test_damaged_weights_are_refused(model, tmp_path):
    export(model, tmp_path / "m.json", CLASSES, {}, [], 320)
    (tmp_path / "m.safetensors").open("ab").write(b"x")
    with pytest.raises(ValueError, match="expected sha256"):
        load_model(tmp_path / "m.json")


@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_backbone_checkpoint_in_any_prefix(model, prefix):
    other = Detector(NetworkConfig(classes=1))
    state = {prefix + k: v for k, v in model.backbone.state_dict().items() if "num_batches" not in k}
    assert load_backbone(other, {**state, prefix + "classifier.weight": torch.zeros(1)}) == len(state)
    assert torch.equal(other.backbone.stem[0].weight, model.backbone.stem[0].weight)


def test_wrong_backbone_names_the_tensor(model):
    with pytest.raises(ValueError, match="stem.stem_1/conv.weight"):
        load_backbone(model, {"conv1.weight": torch.zeros(1)})


def test_ema_follows(model):
    ema = Ema(model, decay=0.5, ramp_steps=1e-3)
    before = ema.model.head.cls_pred.bias.clone()
    with torch.no_grad():
        model.head.cls_pred.bias += 1
    ema.update()
    assert torch.allclose(ema.model.head.cls_pred.bias, before + 0.5)


def test_schedule_ends_annealed():
    schedule = Schedule(parse_stages("0.5:160,1:320"), lr=1.0, warmup_steps=10)
    assert schedule.learning_rate(0.0, 0) == pytest.approx(0.1)
    assert schedule.learning_rate(0.1, 100) == 1.0
    assert schedule.learning_rate(1.0, 100) == pytest.approx(schedule.last_lr)
    rng = np.random.default_rng(0)
    assert [schedule.side(p, rng) for p in (0.0, 0.6, 1.0)] == [160, 320, 320]
    assert schedule.policy(0.95).mosaic == 0
    with pytest.raises(ValueError, match="multiples of 32"):
        parse_stages("1:100")


def test_letterbox_is_centred():
    out, scale, left, top = letterbox(np.zeros((50, 100, 3), np.uint8), 320)
    assert (scale, left, top) == (3.2, 0, 80) and out[79, 0, 0] == 114 and out[80, 0, 0] == 0


def record(background):
    boxes = np.array([[10, 10, 50, 50]], np.float32)
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    pixels = np.zeros((100, 100, 3), np.uint8)
    return Record("k", "s", "o", pixels, boxes, np.array([0]), np.ones(1, np.float32), *none, background)


def test_unlabelled_detections_cost_nothing():
    background = np.array([1] + [0] * 11, np.float32)
    records = [record(background) for _ in range(20)]
    right = [0, 0.5, 10, 10, 50, 50]
    wrong_class = [1, 0.9, 60, 60, 90, 90]
    figures = measure(records, [np.array([right, wrong_class], np.float32)] * 20, CLASSES)
    assert figures["AP50"] == pytest.approx(1.0) and list(figures["classes"]) == ["person"]
    false = [0, 0.9, 60, 60, 90, 90]
    assert measure(records, [np.array([right, false], np.float32)] * 20, CLASSES)["AP50"] < 0.6
