"""Trains the vovcam detector, on a CPU or a CUDA GPU, from COCO or VOC data.

    python train.py --data train-0.tar --data train-1.tar --out runs/a --minutes 90

Stops by itself after --minutes or --passes, whichever is first; run the same command again to
go on from OUT/checkpoint.pt. Every checkpoint is also exported to OUT/latest.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from vovcam_train import CLASSES
from vovcam_train import data as datasets
from vovcam_train.augment import BatchPlan, BatchSet
from vovcam_train.ema import Ema
from vovcam_train.evaluate import detect, measure, normalise
from vovcam_train.export import export
from vovcam_train.loss import LossWeights, detection_loss, imitation_loss
from vovcam_train.model import BACKBONES, Detector, NetworkConfig, load_backbone
from vovcam_train.schedule import Schedule, parse_freeze, parse_stages
from vovcam_train.teacher import COCO_INDEX, FeatureTeacher, fill_labels


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", action="append", required=True, help="COCO tar or folder, or VOC folder; repeatable")
    p.add_argument("--out", type=Path, required=True, help="folder of this run")
    p.add_argument("--minutes", type=float, default=90, help="time budget of the whole run [%(default)s]")
    p.add_argument("--passes", type=int, default=10**9, help="image passes of the whole run [no limit]")
    p.add_argument("--until", type=clock_time, help="'2031-01-31T18:30' by the clock: the end, in place of --minutes")
    p.add_argument("--piece-minutes", type=float, help="stop after this long, to be resumed later")
    p.add_argument("--classes", default=",".join(CLASSES), help="comma-separated, in output order")
    p.add_argument("--backbone", choices=list(BACKBONES), default="vovnet27_slim")
    p.add_argument("--start-from", type=Path, help="backbone (.safetensors or .pt), the authors' names or ours")
    p.add_argument("--start-whole", action="store_true", help="take every tensor that fits from --start-from")
    p.add_argument("--branch-from", type=Path, help="a checkpoint.pt or stable.pt: go on from it, optimizer too, with a plan of its own")
    p.add_argument("--exclude-set", action="append", default=[], help="value of an image's `set` to leave out")
    p.add_argument("--exclude", type=Path, help="text file, lines 'SET ORIGINAL_ID': photos to leave out")
    p.add_argument("--weigh", action="append", default=[], type=parse_weigh, help="'SET=FACTOR': how often its photos are drawn; repeatable")
    p.add_argument("--terms", type=Path, help="JSON, set name → terms, copied into the manifest")
    p.add_argument("--stages", type=parse_stages, default="0.5:128-224,0.85:160-416,1:256-384", help="until which progress, which sides: '0.5:128-224' by 32, '1:256-640/64' by 64 [%(default)s]")
    p.add_argument("--freeze", type=parse_freeze, default="", help="'0.3:stem,0.5:stage2': from there on not trained [none]")
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--hold", type=float, default=Schedule.hold, help="progress from which the learning rate falls [%(default)s]")
    p.add_argument("--warmup-steps", type=int, default=500)
    p.add_argument("--weight-decay", type=float, default=0.03)
    p.add_argument("--long-side", type=int, default=352, help="photos are kept at this many pixels [%(default)s]")
    p.add_argument("--photo-cache", type=Path, help="folder for decoded photos, 0.3 MB each [none]")
    p.add_argument("--held-out", type=float, default=0.04, help="share of scenes kept for measuring [%(default)s]")
    p.add_argument("--fused", action="append", default=[], type=Path, help="JSON with fused teachers' boxes of a --data of the same name; repeatable")
    p.add_argument("--fused-names", default="NanoDet-Plus-m-1.5x (RangiLyu) and PicoDet-S (PaddlePaddle), Apache-2.0, for labels", help="for the manifest")
    p.add_argument("--teacher", help="YOLOX ONNX file; fills in labels that a set does not have")
    p.add_argument("--teacher-cache", type=Path, help="JSON with the filled-in labels [OUT/teacher.json]")
    p.add_argument("--teacher-background", type=float, default=0.4, help="weight of what it does not see [%(default)s]")
    p.add_argument("--mosaic", type=float, default=0.5, help="share of canvases that are mosaics [%(default)s]")
    p.add_argument("--most-repeats", type=float, default=3.0, help="of a photo with a rare class; 1: no balance [%(default)s]")
    p.add_argument("--neck-width", type=int, default=NetworkConfig.neck_width, help="channels [%(default)s]")
    p.add_argument("--iou-weight", type=float, default=LossWeights.iou, help="of the GIoU loss [%(default)s]")
    p.add_argument("--imitate", type=float, default=2.0, help="weight of the teacher's features [%(default)s]")
    p.add_argument("--input-size", type=int, default=320, help="of the manifest and of the held-out figures [%(default)s]")
    p.add_argument("--ema-decay", type=float, default=0.999, help="of the averaged weights, a step [%(default)s]")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--workers", type=int, default=1, help="loader processes [%(default)s]")
    p.add_argument("--save-every", type=float, default=5, help="minutes between checkpoints [%(default)s]")
    p.add_argument("--measure-every", type=float, default=25, help="minutes between held-out figures [%(default)s]")
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


class Plans(torch.utils.data.Sampler):
    """Draws batches for as long as the trainer runs; reads the schedule through `trainer`."""

    def __init__(self, trainer: "Trainer", factors: np.ndarray):
        self.trainer, self.share = trainer, factors / factors.sum()

    def __iter__(self):
        rng = np.random.default_rng((self.trainer.args.seed, self.trainer.step))
        bag: collections.deque[int] = collections.deque()
        while True:
            progress = self.trainer.progress()
            policy = self.trainer.schedule.policy(progress)
            picks = []
            for _ in range(self.trainer.args.batch):
                count = 4 if rng.uniform() < policy.mosaic else 1
                while len(bag) < count:
                    bag.extend(self._epoch(rng))
                picks.append([bag.popleft() for _ in range(count)])
            yield BatchPlan(picks, self.trainer.schedule.side(progress, rng), policy, int(rng.integers(2**62)))

    def _epoch(self, rng) -> list[int]:
        """One weighted epoch: every photo about factor / mean factor times, in random order."""
        expected = self.share * len(self.share)
        counts = np.floor(expected + rng.uniform(size=len(expected))).astype(int)
        return rng.permutation(np.repeat(np.arange(len(counts)), counts)).tolist()


class Trainer:
    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.classes = tuple(args.classes.split(","))
        self.schedule = Schedule(
            args.stages, args.lr, args.warmup_steps, hold=args.hold, mosaic=args.mosaic, freeze=args.freeze
        )  # fmt: skip
        self.device = torch.device(args.device)
        args.out.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(args.threads)
        cv2.setNumThreads(1)
        for seed in (torch.manual_seed, random.seed, np.random.seed):
            seed(args.seed)
        self.step, self.passes, self.elapsed_s, self.began = 0, 0, 0.0, time.time()
        self.stop = False
        self.frozen: tuple[str, ...] = ()
        self._load_data()
        self._build()
        self._resume()

    def _load_data(self) -> None:
        a = self.args
        records = datasets.load_all(a.data, self.classes, a.long_side, set(a.exclude_set), a.photo_cache, a.threads)
        left_out = datasets.read_exclusions(a.exclude) if a.exclude else set()
        records = [r for r in records if (r.set, r.original_id) not in left_out]
        self.train_set, self.held_out = datasets.split(records, a.held_out)
        known = np.array([c in COCO_INDEX for c in self.classes])
        if a.fused:
            fused: dict[str, list] = {}
            for path in a.fused:
                fused |= datasets.read_fused(path, self.classes)
            counts: collections.Counter[str] = collections.Counter()
            for r in self.train_set:
                if r.key in fused:
                    counts.update(datasets.apply_fused(r, fused[r.key], datasets.FusedRules(), known), photos=1)
            self.log(f"fused teachers: {dict(counts)}")
        self.teacher = None
        if a.teacher:
            cache = a.teacher_cache or a.out / "teacher.json"
            rest = [r for r in self.train_set if not a.fused or r.key not in fused]
            filled = fill_labels(a.teacher, rest, self.classes, cache, threads=a.threads)
            for r in rest:
                datasets.apply_teacher(r, filled[r.key], positive=0.5, background=a.teacher_background, known=known)
            if a.imitate > 0:
                self.teacher = FeatureTeacher(a.teacher, a.threads)
        boxes = collections.Counter(self.classes[c] for r in self.train_set for c in r.labels)
        self.log(f"{len(self.train_set)} photos, {len(self.held_out)} held out; boxes: {dict(boxes)}")

    def _build(self) -> None:
        a = self.args
        self.model = Detector(NetworkConfig(len(self.classes), a.backbone, neck_width=a.neck_width))
        self.earlier_passes = 0
        if a.start_from:
            self.log(start_from(self.model, a.start_from, a.start_whole))
            self.earlier_passes = earlier_passes(a.start_from) if a.start_whole else 0
        self.model.to(self.device, memory_format=torch.channels_last)
        width = self.model.config.neck_width
        channels = self.teacher.channels if self.teacher else {}
        self.adapters = nn.ModuleDict({f"s{s}": nn.Conv2d(width, c, 1) for s, c in channels.items()}).to(self.device)
        for m in self.model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.momentum = 0.03
        self.ema = Ema(self.model, a.ema_decay)
        parameters = [*self.model.parameters(), *self.adapters.parameters()]
        decay = [p for p in parameters if p.ndim > 1]
        plain = [p for p in parameters if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": a.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=a.lr, fused=True)
        dtype = fast_type(self.device)
        self.autocast = lambda: torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)

    def _resume(self) -> None:
        path = self.args.out / "checkpoint.pt"
        branch = not path.exists()
        if branch:
            path = self.args.branch_from
        if path is None:
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.ema.model.load_state_dict(state["ema"])
        self.ema.steps = self.step = state["step"]
        if state["adapters"].keys() == self.adapters.state_dict().keys():
            self.adapters.load_state_dict(state["adapters"])
            self.optimizer.load_state_dict(state["optimizer"])
        else:
            self.log("the teacher came or went since the checkpoint: the optimizer starts afresh")
        if branch:
            self.earlier_passes = state["training"]["image_passes"]
            self.log(f"goes on from '{path}' after {self.earlier_passes} passes, with a plan of its own")
            return
        self.earlier_passes = state["training"]["image_passes"] - state["passes"]
        self.passes, self.elapsed_s, self.began = state["passes"], state["elapsed_s"], state.get("began", self.began)
        self.log(f"resumed '{path}' at {self.passes} passes, {self.elapsed_s / 60:.1f} minutes")

    def log(self, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {text}"
        print(line, flush=True)
        with (self.args.out / "log.txt").open("a") as file:
            file.write(line + "\n")

    def progress(self) -> float:
        if self.args.until:
            spent = (time.time() - self.began) / max(1.0, self.args.until - self.began)
        else:
            spent = self.elapsed_s / (self.args.minutes * 60)
        return min(1.0, max(spent, self.passes / self.args.passes))

    def save(self, name: str = "checkpoint.pt") -> None:
        state = {
            "model": self.model.state_dict(), "ema": self.ema.model.state_dict(),
            "adapters": self.adapters.state_dict(), "optimizer": self.optimizer.state_dict(),
            "step": self.step, "passes": self.passes, "elapsed_s": self.elapsed_s, "began": self.began,
            "network": {**asdict(self.model.config), "strides": list(self.model.config.strides)},
            "classes": list(self.classes), "training": self.provenance(), "input_size": self.args.input_size,
        }  # fmt: skip
        part = self.args.out / (name + ".part")
        torch.save(state, part)
        part.replace(self.args.out / name)
        latest = self.args.out / "latest"
        latest.mkdir(exist_ok=True)
        manifest = latest / (self.args.backbone + ".json")
        export(self.ema.model, manifest, self.classes, self.provenance(), [], self.args.input_size)

    def provenance(self) -> dict:
        terms = json.loads(self.args.terms.read_text()) if self.args.terms else {}
        counts = collections.Counter(r.set for r in self.train_set)
        teachers = [self.args.fused_names] if self.args.fused else []
        teachers += ["YOLOX-nano (Megvii, Apache-2.0)"] if self.args.teacher else []
        return {
            "recipe": "models/training/train.py",
            "image_passes": self.earlier_passes + self.passes,
            "teacher": "; ".join(teachers) or None,
            "data": [{"name": s, "terms": terms.get(s, "not stated"), "images": n} for s, n in counts.most_common()],
        }

    def measure(self) -> None:
        if not self.held_out:
            return
        start = time.time()
        self.ema.model.eval()
        found = detect(self.ema.model, self.held_out, self.args.input_size, self.autocast)
        figures = measure(self.held_out, found, self.classes)
        row = {"passes": self.passes, "minutes": round(self.elapsed_s / 60, 1), **figures}
        with (self.args.out / "held_out.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        per_class = " ".join(f"{c} {v['AP50']:.2f}" for c, v in figures["classes"].items())
        self.log(f"held out: AP50 {figures['AP50']:.4f} AP {figures['AP']:.4f} ({time.time() - start:.0f} s) {per_class}")

    def _teach(self, pixels: torch.Tensor) -> dict[int, torch.Tensor]:
        """The teacher's features of the batch, seen half as large again where that helps it."""
        side = pixels.shape[-1]
        larger = min(416, round(side * 1.5 / 32) * 32)
        bgr = pixels.flip(1).float()
        if larger > side:
            bgr = nn.functional.interpolate(bgr, (larger, larger), mode="bilinear", align_corners=False)
        features = self.teacher(bgr.cpu().numpy())
        return {s: torch.from_numpy(f).to(self.device) for s, f in features.items()}

    def _freeze(self, parts: tuple[str, ...]) -> None:
        """Ends the training of parts of the backbone, at their averaged weights: those of the last
        step are noisier."""
        if parts == self.frozen:
            return
        for part in parts[len(self.frozen) :]:
            module, averaged = (getattr(m.backbone, part) for m in (self.model, self.ema.model))
            module.load_state_dict(averaged.state_dict())
            self.log(f"{part} is frozen from here on")
        self.model.backbone.freeze(parts)
        self.frozen = parts

    def train_step(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        progress = self.progress()
        self._freeze(self.schedule.frozen(progress))
        lr = self.schedule.learning_rate(progress, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        batch = {k: v.to(self.device, non_blocking=True) for k, v in batch.items()}
        imitate = self.args.imitate * self.schedule.imitation(progress) if self.teacher else 0.0
        wanted = self._teach(batch["pixels"]) if imitate > 0 else {}
        with self.autocast():
            features = self.model.features(normalise(batch["pixels"]))
            outputs = self.model.predict(features)
            if wanted:
                likeness = imitation_loss(features, self.adapters, wanted)
        loss, parts = detection_loss(outputs, batch, LossWeights(iou=self.args.iou_weight))
        if wanted:
            loss = loss + imitate * likeness
            parts["imitate"] = likeness.detach()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        if self.scaler.is_enabled() or torch.isfinite(norm):
            self.scaler.step(self.optimizer)
            self.ema.update()
        else:
            self.log(f"step {self.step}: gradient is not finite, step left out")
        self.scaler.update()
        return parts

    def _loader(self):
        factors = datasets.repeat_factors(self.train_set, len(self.classes), 0.12, self.args.most_repeats, dict(self.args.weigh))
        return torch.utils.data.DataLoader(
            BatchSet(self.train_set), batch_size=None, sampler=Plans(self, factors), num_workers=self.args.workers,
            prefetch_factor=3 if self.args.workers else None, pin_memory=self.device.type == "cuda",
            worker_init_fn=leave_signals_to_the_trainer,
        )  # fmt: skip

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "stop", True))
        (self.args.out / "pid").write_text(str(os.getpid()))
        self.model.train()
        last = began = saved = measured = time.monotonic()
        meter = Meter(self.passes)
        stable = self.schedule.decaying(self.progress())
        for batch in self._loader():
            meter.add(self.train_step(batch))
            self.step += 1
            self.passes += len(batch["pixels"])
            now = time.monotonic()
            self.elapsed_s, last = self.elapsed_s + now - last, now
            if line := meter.line(now, self.passes):
                side, lr = batch["pixels"].shape[-1], self.optimizer.param_groups[0]["lr"]
                self.log(f"passes {self.passes} progress {self.progress():.3f} side {side} lr {lr:.2e} {line}")
            if not stable and self.schedule.decaying(self.progress()):
                self.save("stable.pt")  # from here another plan may branch off
                stable = True
            piece_over = self.args.piece_minutes and now - began > self.args.piece_minutes * 60
            if self.progress() >= 1 or piece_over or self.stop:
                break
            if now - saved > self.args.save_every * 60:
                self.save()
                saved = now
            if now - measured > self.args.measure_every * 60:
                self.measure()
                measured = now
        self.save()
        if self.progress() >= 1:
            self.measure()
            self.log("done")
        else:
            self.log("stopped before the end; the same command goes on from here")


def clock_time(text: str) -> float:
    """'2031-01-31T18:30' (local, or with '+00:00') → seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def parse_weigh(text: str) -> tuple[str, float]:
    name, _, factor = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"'{text}': expected SET=FACTOR")
    return name, float(factor)


def fast_type(device: torch.device) -> torch.dtype:
    """bf16 wherever the device computes in it (it needs no loss scaling), else f16 on a GPU and f32 on a CPU."""
    if device.type == "cpu":
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def leave_signals_to_the_trainer(_worker: int) -> None:
    """A stop goes to the whole group: a loader that died of it would keep the trainer from saving."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class Meter:
    """Mean losses and speed since the last line; one line per 30 s."""

    def __init__(self, passes: int):
        self.since, self.passes, self.steps = time.monotonic(), passes, 0
        self.sums: dict[str, torch.Tensor] = {}

    def add(self, parts: dict[str, torch.Tensor]) -> None:
        for name, value in parts.items():  # read once a line: each read waits for the GPU
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1

    def line(self, now: float, passes: int) -> str | None:
        if now - self.since < 30:
            return None
        means = " ".join(f"{k} {float(v) / self.steps:.3f}" for k, v in self.sums.items())
        text = f"{means} {(passes - self.passes) / (now - self.since):.1f} images/s"
        self.since, self.passes, self.steps = now, passes, 0
        self.sums.clear()
        return text


def start_from(model: Detector, path: Path, whole: bool) -> str:
    """Takes weights from a checkpoint; says what was taken."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("ema", state.get("state_dict", state.get("model", state)))
    if not whole:
        return f"backbone: {load_backbone(model, state)} tensors from '{path}'"
    own = model.state_dict()
    fitting = {k: v.float() for k, v in state.items() if k in own and own[k].shape == v.shape}
    left = sorted(k for k in own if k not in fitting and not k.endswith("num_batches_tracked"))
    model.load_state_dict(fitting, strict=False)
    return f"{len(fitting)} tensors from '{path}'; fresh: {left or 'none'}"


def earlier_passes(weights: Path) -> int:
    """Image passes behind exported weights, as the manifest beside them says; 0 without one."""
    manifest = weights.with_suffix(".json")
    return json.loads(manifest.read_text())["training"]["image_passes"] if manifest.exists() else 0


def main() -> None:
    Trainer(arguments()).run()


if __name__ == "__main__":
    main()
