"""Mixes a run's averaged weights with those that it began from (Wortsman et al., arXiv 2109.01903).

    python -m vovcam_train.mix RUN START.safetensors SHARE OUT

OUT becomes a run folder for `ship.sh` whose weights are SHARE of the run's and 1 − SHARE of the start's.
A short run from finished weights forgets some of what they knew; the mix can be better than both.
Choose SHARE on held-out scenes.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from .export import export
from .model import Detector, NetworkConfig


def mix(start: dict[str, torch.Tensor], end: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """Raises ValueError when a tensor of `end` is missing in `start` or of another shape."""
    out = {}
    for name, value in end.items():
        if name.endswith("num_batches_tracked"):
            out[name] = value
        elif name not in start or start[name].shape != value.shape:
            raise ValueError(f"the start has no tensor '{name}' of shape {tuple(value.shape)}")
        else:
            out[name] = torch.lerp(start[name].float(), value.float(), share)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("start", type=Path)
    parser.add_argument("share", type=float)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    state = torch.load(args.run / "checkpoint.pt", map_location="cpu", weights_only=True)
    state["ema"] = mix(load_file(args.start), state["ema"], args.share)
    state["training"] = {**state["training"], "mixed": f"{args.share:g} of the last run's weights, the rest its start's"}
    model = Detector(NetworkConfig(**{**state["network"], "strides": tuple(state["network"]["strides"])}))
    model.load_state_dict(state["ema"])
    (args.out / "latest").mkdir(parents=True, exist_ok=True)
    torch.save(state, args.out / "checkpoint.pt")
    export(model, args.out / "latest/vovnet27_slim.json", state["classes"], state["training"], [], state["input_size"])
    for name in ("held_out.jsonl", "peer.json"):
        if (args.run / name).exists():
            shutil.copy(args.run / name, args.out / name)


if __name__ == "__main__":
    main()
