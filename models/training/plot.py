"""Draws a run's held-out figures over image passes, for the model card.

    python plot.py measured/first.jsonl measured/long.jsonl --out ../curve.svg

Several files are one run that went on from the other: passes are added up.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

CURVES = ("AP50", "AP")


def read(paths: list[Path]) -> list[dict]:
    """All rows in order, `passes` counted from the first file's start."""
    rows: list[dict] = []
    for path in paths:
        before = rows[-1]["passes"] if rows else 0
        rows += [{**row, "passes": before + row["passes"]} for row in map(json.loads, path.read_text().splitlines())]
    return rows


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("held_out", nargs="+", type=Path)
    p.add_argument("--out", type=Path, required=True)
    args = p.parse_args()

    rows = read(args.held_out)
    plt.rcParams["svg.hashsalt"] = "vovcam"  # the same figures give the same file
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for key in CURVES:
        axes.plot([r["passes"] / 1000 for r in rows], [r[key] for r in rows], marker="o", markersize=3, label=key)
    axes.set(xlabel="image passes, thousands", ylabel="held-out scenes, 320 px", ylim=(0, None), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(args.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
