"""Prints the model card's tables from the reports of the evaluator and of one for a public detector.

    python -m vovcam_train.evaluate ../vovnet27_slim.json --data eval-coco.tar … --json ours.json
    python -m vovcam_train.teacher yolox_nano.onnx --data eval-coco.tar … --json peer.json
    python card.py ours.json peer.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from vovcam_train import CLASSES

FIGURES = {"AP": "AP", "AP50": "AP50", "AP_small": "small", "AP_medium": "medium", "AP_large": "large"}


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def row(cells) -> str:
    return f"| {' | '.join(cells)} |"


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join([row(header), "|" + "---|" * len(header), *map(row, rows)])


def short(split: str) -> str:
    return split.removeprefix("eval-")


def splits(ours: dict, peer: dict) -> str:
    """A row per split: each figure as ours / the peer's."""
    rows = [
        [short(split), str(figures["images"]), *(f"{number(figures[k])} / {number(peer[split][k])}" for k in FIGURES)]
        for split, figures in ours.items()
    ]
    return table(["split", "photos", *FIGURES.values()], rows)


def classes(ours: dict, peer: dict) -> str:
    """A row per class, a column per split: AP50 as ours / the peer's, number of boxes in parentheses."""
    rows = []
    for name in CLASSES:
        cells = [
            f"{number(a['AP50'])} / {number(b['AP50'])} ({a['boxes']})" if a else "–"
            for a, b in ((ours[s]["classes"].get(name), peer[s]["classes"].get(name)) for s in ours)
        ]
        rows.append([name, *cells])
    return table(["class", *map(short, ours)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", type=Path)
    parser.add_argument("peer", type=Path, help="report on the same splits")
    args = parser.parse_args()
    ours, peer = (json.loads(path.read_text()) for path in (args.ours, args.peer))
    if missing := ours.keys() - peer.keys():
        parser.error(f"'{args.peer}' lacks the splits {', '.join(sorted(missing))} of '{args.ours}'")
    print(splits(ours, peer), classes(ours, peer), sep="\n\n")


if __name__ == "__main__":
    main()
