"""Exponential moving average of weights and BatchNorm statistics, with a ramped decay."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn


class Ema:
    def __init__(self, model: nn.Module, decay: float = 0.999, ramp_steps: float = 400.0):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.ramp_steps, self.steps = decay, ramp_steps, 0
        # both models keep their tensors, and collecting them takes longer than the average itself
        averaged, current = self.model.state_dict(), model.state_dict()
        floats = [k for k, v in averaged.items() if v.is_floating_point()]
        self.averaged, self.current = [averaged[k] for k in floats], [current[k] for k in floats]

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = self.decay * (1 - math.exp(-self.steps / self.ramp_steps))
        torch._foreach_lerp_(self.averaged, self.current, 1 - decay)
