"""Export to what the Rust program loads: safetensors (conv weights F16, norms and biases F32)
and a JSON manifest.

    python -m vovcam_train.export CHECKPOINT.pt OUT.json [--measured FIGURES.json …] [--thresholds REPORT.json]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from . import MEAN, PAD_VALUE, STD
from .model import Detector, NetworkConfig


def tensors(model: Detector) -> dict[str, torch.Tensor]:
    """Weights under their shipped names and types."""
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    return {
        k: (v.half() if v.ndim == 4 else v.float()).cpu().contiguous(memory_format=torch.contiguous_format)
        for k, v in state.items()
    }


def measured_rows(figures: dict, side: int) -> list[dict]:
    """Rows of the manifest's `measured` from the JSON that `evaluate --json` or `reports` writes; `side` where it names none."""
    rows = []
    for split, f in figures.items():
        side = f.get("input", side)
        for metric in ("AP", "AP50", "AP_small", "AP_medium", "AP_large", "AP50_voc5"):
            if f.get(metric) is not None:
                rows.append({"split": split, "metric": metric, "value": round(f[metric], 4), "input": side})
        for name, c in f["classes"].items():
            rows.append({
                "split": split, "metric": "AP50", "class": name, "value": round(c["AP50"], 4),
                "boxes": c["boxes"], "input": side,
            })  # fmt: skip
    return rows


def class_thresholds(report: dict) -> dict[str, float]:
    """Score thresholds from a report of `vovcam eval --at-precision P --json`, to two decimals upwards. A
    class with too few boxes for the means, or that does not reach the precision, has none."""
    if report.get("format") != "vovcam-eval.v1":
        raise ValueError(f"expected a report of 'vovcam eval --json', got format '{report.get('format')}'")
    points = {c["name"]: c.get("at_precision") for c in report["classes"] if c["in_mean"]}
    return {name: math.ceil(point["score"] * 100) / 100 for name, point in points.items() if point}


def export(
    model: Detector, out: Path, classes, training: dict, measured: list[dict], input_size: int,
    thresholds: dict[str, float] | None = None,
) -> None:  # fmt: skip
    """Writes `out` (the manifest) and the safetensors file beside it, each whole or not at all."""
    weights = out.with_suffix(".safetensors")
    part = weights.with_suffix(".safetensors.part")
    save_file(tensors(model), part)
    part.chmod(0o644)  # safetensors writes files that only their owner can read.
    network = asdict(model.config)
    del network["classes"]
    network["strides"] = list(network["strides"])
    manifest = {
        "format": "vovcam-model.v1", "name": out.stem, "weights": weights.name,
        "sha256": hashlib.sha256(part.read_bytes()).hexdigest(),
        "network": network, "classes": list(classes), "input_size": input_size,
        "mean": list(MEAN), "std": list(STD), "pad_value": PAD_VALUE,
        "thresholds": {"score": 0.35, **({"classes": thresholds} if thresholds else {}), "nms_iou": 0.6},
        "training": {**training, "licence": "MIT OR Apache-2.0"}, "measured": measured,
    }  # fmt: skip
    part.replace(weights)
    text = out.with_suffix(".json.part")
    text.write_text(json.dumps(manifest, indent=2) + "\n")
    text.replace(out)


def load_model(manifest_path: Path, device: str = "cpu") -> tuple[Detector, dict]:
    """An exported model in f32, ready for inference, and its manifest."""
    manifest = json.loads(Path(manifest_path).read_text())
    network = {**manifest["network"], "strides": tuple(manifest["network"]["strides"])}
    model = Detector(NetworkConfig(classes=len(manifest["classes"]), **network))
    weights = Path(manifest_path).with_name(manifest["weights"])
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != manifest["sha256"]:
        raise ValueError(f"'{weights}': expected sha256 '{manifest['sha256']}', got '{digest}'; copy the pair again")
    state = {k: v.float() for k, v in load_file(weights).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"'{weights}': missing tensors {missing[:3]}, unexpected tensors {unexpected[:3]}")
    return model.eval().to(device, memory_format=torch.channels_last), manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="checkpoint written by train.py")
    parser.add_argument("out", type=Path, help="manifest to write; its stem is the model's name")
    parser.add_argument("--measured", type=Path, action="append", default=[], help="output of evaluate --json or of reports")
    parser.add_argument("--thresholds", type=Path, help="report of vovcam eval --at-precision P --json: thresholds by class")
    args = parser.parse_args()
    state = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    network = {**state["network"], "strides": tuple(state["network"]["strides"])}
    model = Detector(NetworkConfig(**network))
    model.load_state_dict(state["ema"])
    side = state["input_size"]
    rows = [row for path in args.measured for row in measured_rows(json.loads(path.read_text()), side)]
    thresholds = class_thresholds(json.loads(args.thresholds.read_text())) if args.thresholds else None
    export(model, args.out, state["classes"], state["training"], rows, side, thresholds)
    print(f"wrote '{args.out}' and '{args.out.with_suffix('.safetensors').name}' beside it")


if __name__ == "__main__":
    main()
