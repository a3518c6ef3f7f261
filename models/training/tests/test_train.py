import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from train import Trainer, arguments
from vovcam_train.schedule import Schedule, parse_freeze, parse_stages


@pytest.fixture
def photos(tmp_path):
    """A COCO folder of four photos, each with one person, in sets of their own."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "images").mkdir(parents=True)
    document = {"categories": [{"id": 1, "name": "person"}], "images": [], "annotations": []}
    for i in range(4):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (96, 128, 3), np.uint8)).save(out, "PNG")
        (folder / f"images/{i}.png").write_bytes(out.getvalue())
        document["images"].append({"id": i, "file_name": f"{i}.png", "set": "s", "labelled": ["person"]})
        document["annotations"].append({"id": i, "image_id": i, "category_id": 1, "bbox": [16, 16, 64, 64]})
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder


def command(photos, out, *more):
    return [
        "train.py", "--data", str(photos), "--out", str(out), "--classes", "person", "--device", "cpu",
        "--batch", "2", "--stages", "1:128", "--workers", "0", "--threads", "1", "--warmup-steps", "1", "--held-out", "0",
        *more,
    ]  # fmt: skip


def trainer(monkeypatch, *command_line):
    monkeypatch.setattr(sys, "argv", command(*command_line))
    return Trainer(arguments())


def copied(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def changed(module, before, ending):
    return [k for k, v in module.state_dict().items() if k.endswith(ending) and not torch.equal(v, before[k])]


def test_a_frozen_part_keeps_its_weights_and_the_rest_learns(photos, tmp_path, monkeypatch):
    run = trainer(monkeypatch, photos, tmp_path / "run", "--passes", "8", "--freeze", "0.5:stem")
    batches = iter(run._loader())
    run.passes = 4  # half-way
    run.train_step(next(batches))
    parts = (run.model.backbone.stem, run.ema.model.backbone.stem, run.model.backbone.stage2)
    stem, averaged, stage2 = map(copied, parts)
    run.train_step(next(batches))
    weights = "conv.weight"
    assert not changed(run.model.backbone.stem, stem, weights) and not changed(run.ema.model.backbone.stem, averaged, weights)
    assert not changed(run.model.backbone.stem, stem, "running_mean")
    assert changed(run.model.backbone.stage2, stage2, weights)


def test_a_run_goes_on_from_its_checkpoint(photos, tmp_path, monkeypatch):
    first = trainer(monkeypatch, photos, tmp_path / "run", "--passes", "8", "--piece-minutes", "1e-9")
    first.run()
    assert first.passes == 2 and "goes on from here" in (tmp_path / "run/log.txt").read_text()
    second = trainer(monkeypatch, photos, tmp_path / "run", "--passes", "8")
    assert (second.passes, second.step) == (2, 1)
    assert all(torch.equal(v, second.model.state_dict()[k]) for k, v in first.model.state_dict().items())
    second.run()
    manifest = json.loads((tmp_path / "run/latest/vovnet27_slim.json").read_text())
    assert second.passes == 8 and manifest["training"]["image_passes"] == 8
    weights = str(tmp_path / "run/latest/vovnet27_slim.safetensors")
    third = trainer(monkeypatch, photos, tmp_path / "next", "--start-from", weights, "--start-whole")
    assert third.provenance()["image_passes"] == 8 and third.passes == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_of_the_whole_group_is_saved(photos, tmp_path, number):
    """The loader's process gets the signal too, and once took the trainer down with it."""
    program = Path(__file__).resolve().parents[1] / "train.py"
    line = [sys.executable, str(program), *command(photos, tmp_path / "run")[1:], "--workers", "1", "--save-every", "0"]
    child = subprocess.Popen(line, start_new_session=True, stdout=subprocess.PIPE, text=True)
    try:
        checkpoint, deadline = tmp_path / "run/checkpoint.pt", time.monotonic() + 120
        while not checkpoint.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)  # until the loader has delivered
        os.killpg(child.pid, number)
        output, _ = child.communicate(timeout=120)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == 0, output
    assert "goes on from here" in output


def test_a_folded_front_computes_the_same(photos, tmp_path, monkeypatch):
    run = trainer(monkeypatch, photos, tmp_path / "run")
    model = run.model.eval()
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.uniform_(-0.2, 0.2), m.running_var.uniform_(0.5, 2.0), m.weight.data.uniform_(0.5, 1.5)
    x = torch.randn(1, 3, 64, 64)
    before, names = model(x)[8][0], set(model.state_dict())
    model.backbone.freeze(("stem", "stage2"))
    assert torch.allclose(before, model(x)[8][0], atol=1e-4) and set(model.state_dict()) == names


def test_a_plan_branches_off_the_stable_phase(photos, tmp_path, monkeypatch):
    trainer(monkeypatch, photos, tmp_path / "run", "--passes", "8", "--hold", "0.5").run()
    stable = str(tmp_path / "run/stable.pt")
    assert torch.load(stable, weights_only=True)["passes"] == 4
    branch = trainer(monkeypatch, photos, tmp_path / "branch", "--passes", "6", "--branch-from", stable)
    assert (branch.passes, branch.step, branch.provenance()["image_passes"]) == (0, 2, 4)
    assert branch.optimizer.state_dict()["state"]
    branch.run()
    again = trainer(monkeypatch, photos, tmp_path / "branch", "--passes", "6", "--branch-from", stable)
    assert again.passes == 6 and again.provenance()["image_passes"] == 10


def test_a_run_can_end_by_the_clock(photos, tmp_path, monkeypatch):
    run = trainer(monkeypatch, photos, tmp_path / "run", "--until", "2031-01-31T18:30+00:00")
    run.began = run.args.until - 2 * (run.args.until - time.time())
    assert run.progress() == pytest.approx(0.5, abs=1e-3)


def test_sides_are_drawn_so_that_each_costs_the_same():
    schedule, rng = Schedule(parse_stages("0.5:128-256,1:320"), lr=1.0), np.random.default_rng(0)
    drawn = [schedule.side(0.1, rng) for _ in range(4000)]
    assert set(drawn) == {128, 160, 192, 224, 256} and schedule.side(0.7, rng) == 320
    assert drawn.count(128) / drawn.count(256) == pytest.approx(4, rel=0.3)
    for wrong in ("0.5:128-256", "1:100-200", "1:256-128"):
        with pytest.raises(ValueError):
            parse_stages(wrong)


def test_parts_freeze_from_the_input_on():
    schedule = Schedule(parse_stages("1:320"), lr=1.0, freeze=parse_freeze("0.3:stem,0.5:stage2"))
    assert [schedule.frozen(p) for p in (0.0, 0.3, 0.9)] == [(), ("stem",), ("stem", "stage2")]
    assert parse_freeze("") == ()
    for wrong in ("0.3:stage2", "0.5:stem,0.3:stage2", "stem"):
        with pytest.raises(ValueError):
            parse_freeze(wrong)
