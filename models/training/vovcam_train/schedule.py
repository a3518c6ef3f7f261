"""Everything that changes during training, as functions of progress 0…1.

Progress is the larger of passes done / passes planned and time spent / time planned, so a run
that shares its machine, is stopped and resumed, or gets slower at higher resolution still ends
with a finished schedule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .augment import FINAL, Policy

Sides = tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """`stages`: (progress at which it ends, input sides in pixels to draw from).
    `freeze`: (progress at which it begins, part of the backbone), from the input on."""

    stages: tuple[tuple[float, Sides], ...]
    lr: float
    warmup_steps: int = 500
    hold: float = 0.3
    last_lr: float = 0.02
    plain_from: float = 0.82
    mosaic: float = Policy.mosaic
    freeze: tuple[tuple[float, str], ...] = ()

    def learning_rate(self, progress: float, step: int) -> float:
        """Linear warm-up, held until `hold`, then a cosine down to `last_lr` of the peak."""
        x = min(max((progress - self.hold) / (1 - self.hold), 0.0), 1.0)
        cosine = self.last_lr + (1 - self.last_lr) * 0.5 * (1 + math.cos(math.pi * x))
        return self.lr * cosine * min(1.0, (step + 1) / self.warmup_steps)

    def side(self, progress: float, rng: np.random.Generator) -> int:
        """Input side in pixels, drawn from the stage's so that each costs about the same time."""
        sides = np.array(next((s for end, s in self.stages if progress < end), self.stages[-1][1]))
        share = sides**-2.0
        return int(rng.choice(sides, p=share / share.sum()))

    def decaying(self, progress: float) -> bool:
        return progress >= self.hold

    def frozen(self, progress: float) -> tuple[str, ...]:
        """Parts of the backbone that are not trained any more (Brock et al., FreezeOut, arXiv
        1706.04983): no gradient is computed in front of the first part that is."""
        return tuple(part for begin, part in self.freeze if progress >= begin)

    def policy(self, progress: float) -> Policy:
        return FINAL if progress >= self.plain_from else Policy(mosaic=self.mosaic)

    def imitation(self, progress: float) -> float:
        """Weight of the teacher's features, relative to the start."""
        return max(0.0, 1.0 - progress / self.plain_from) ** 0.5 if progress < self.plain_from else 0.0


def parse_stages(text: str) -> tuple[tuple[float, Sides], ...]:
    """'0.3:128-192,1:320' → ((0.3, (128, 160, 192)), (1.0, (320,))); '1:256-384/64' → ((1.0, (256, 320, 384)),).
    Raises ValueError on anything else."""
    stages = []
    for part in text.split(","):
        end, _, sides = part.partition(":")
        sides, _, step = sides.partition("/")
        low, _, high = sides.partition("-")
        stages.append((float(end), tuple(range(int(low), int(high or low) + 1, int(step or 32)))))
    ends = [e for e, _ in stages]
    if ends != sorted(ends) or ends[-1] != 1.0 or any(not s or s[0] < 64 or any(v % 32 for v in s) for _, s in stages):
        raise ValueError(f"stages '{text}': expected rising ends up to 1 and sides that are multiples of 32")
    return tuple(stages)


def parse_freeze(text: str) -> tuple[tuple[float, str], ...]:
    """'0.3:stem,0.5:stage2' → ((0.3, 'stem'), (0.5, 'stage2')); '' → (). Raises ValueError on anything else."""
    freeze = [(float(begin), part) for begin, _, part in (item.partition(":") for item in text.split(",") if item)]
    parts = ["stem", "stage2", "stage3", "stage4", "stage5"]
    if [part for _, part in freeze] != parts[: len(freeze)] or sorted(freeze, key=lambda f: f[0]) != freeze:
        raise ValueError(f"freeze '{text}': expected rising beginnings of {', '.join(parts)}, in this order")
    return tuple(freeze)
