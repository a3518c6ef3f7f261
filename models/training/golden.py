"""Golden outputs of an exported model, for checking another implementation against PyTorch.

    python golden.py MODEL.json golden.json

Inputs follow x[c, i, j] = sin(0.37·c + 0.11·i + 0.07·j), taken as already normalised, in f64
rounded to f32. For each output tensor: shape, mean, std (population), and 64 values at flat
positions k·(n − 1)//63 of the contiguous [C, H, W] array.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from vovcam_train.export import load_model

SIZES = ((64, 96), (128, 160))  # (height, width) in pixels
SAMPLES = 64


def wave(height: int, width: int) -> torch.Tensor:
    """The input [1, 3, height, width]."""
    c, i, j = np.meshgrid(np.arange(3), np.arange(height), np.arange(width), indexing="ij")
    return torch.from_numpy(np.sin(0.37 * c + 0.11 * i + 0.07 * j).astype(np.float32))[None]


def summary(tensor: torch.Tensor) -> dict:
    """Shape without the batch axis, mean, std and evenly strided values."""
    flat = tensor[0].contiguous().flatten().double()
    at = [k * (flat.numel() - 1) // (SAMPLES - 1) for k in range(SAMPLES)]
    return {
        "shape": list(tensor.shape[1:]),
        "mean": float(f"{flat.mean():.7g}"),
        "std": float(f"{flat.std(unbiased=False):.7g}"),
        "values": [float(f"{flat[k]:.7g}") for k in at],
    }


@torch.inference_mode()
def goldens(manifest: Path) -> dict:
    model, description = load_model(manifest)
    cases = []
    for height, width in SIZES:
        features = model.backbone(wave(height, width))
        outputs = model.predict(model.neck(features))
        tensors = {f"C{int(s).bit_length() - 1}": f for s, f in features.items()}
        for s, (cls, box) in outputs.items():
            tensors[f"cls_s{s}"], tensors[f"box_s{s}"] = cls, box
        cases.append({"height": height, "width": width, "tensors": {k: summary(v) for k, v in tensors.items()}})
    return {
        "model": description["name"], "sha256": description["sha256"],
        "input": "sin(0.37*c + 0.11*i + 0.07*j)", "cases": cases,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="manifest (.json) of an exported model")
    parser.add_argument("out", type=Path, help="JSON to write")
    args = parser.parse_args()
    args.out.write_text(json.dumps(goldens(args.model)) + "\n")
    print(f"wrote '{args.out}', {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
