"""Compares variants of the recipe over the same few image passes, one after the other.

    python compare.py --data train-0.tar … --teacher yolox_nano.onnx --out runs/compare

Each variant is `train.py` with the options of VARIANTS on top; figures are those of the held-out
scenes, never of an evaluation split. A run that is done is not run again: stop and go on at will.
Prints the table of models/training/README.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

VARIANTS: dict[str, list[str]] = {
    "the recipe": [],
    "the recipe, another seed": ["--seed", "1"],
    "no imitation of the teacher's features": ["--imitate", "0"],
    "no teacher at all": ["--no-teacher"],
    "learning rate 1e-3": ["--lr", "1e-3"],
    "learning rate 4e-3": ["--lr", "4e-3"],
    "192 px from the start": ["--stages", "1:192"],
    "no mosaic": ["--mosaic", "0"],
    "no class balance": ["--most-repeats", "1"],
    "GIoU weight 2": ["--iou-weight", "2"],
    "neck of 64 channels": ["--neck-width", "64"],
}
RUN = ["--minutes", "100000", "--stages", "0.6:160,1:192", "--warmup-steps", "200", "--measure-every", "100000"]


def command(options: list[str], args: argparse.Namespace, out: Path) -> list[str]:
    base = [sys.executable, str(Path(__file__).with_name("train.py")), "--out", str(out), "--passes", str(args.passes)]
    base += RUN + [part for path in args.data for part in ("--data", path)]
    base += [part for name in args.exclude_set for part in ("--exclude-set", name)]
    if "--no-teacher" in options:
        return base + [o for o in options if o != "--no-teacher"]
    return base + ["--teacher", args.teacher, "--teacher-cache", str(args.out / "teacher.json"), *options]


def last_figures(out: Path) -> dict | None:
    """The figures of a finished run, or None."""
    log = out / "log.txt"
    if not log.exists() or not log.read_text().rstrip().endswith("done"):
        return None
    return json.loads((out / "held_out.jsonl").read_text().splitlines()[-1])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", action="append", required=True)
    p.add_argument("--exclude-set", action="append", default=[])
    p.add_argument("--teacher", required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--passes", type=int, default=12_000)
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    rows = []
    for name, options in VARIANTS.items():
        out = args.out / name.replace(" ", "-").replace("'", "")
        if last_figures(out) is None:
            subprocess.run(command(options, args, out), check=True, stdout=subprocess.DEVNULL)
        figures = last_figures(out)
        rows.append(f"| {name} | {figures['passes']:,} | {figures['AP']:.3f} | {figures['AP50']:.3f} |")
        print("\n".join(["| variant | passes | AP | AP50 |", "|---|---|---|---|", *rows, ""]), flush=True)


if __name__ == "__main__":
    main()
