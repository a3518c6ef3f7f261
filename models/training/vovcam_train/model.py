"""VoVNet-27-slim/39/57 detector: backbone, PAN of small OSA blocks, shared head.

Tensor names equal those the Rust program loads. Inside the backbone they are the
VoVNet authors' (`stem.stem_1/conv.weight`, `stage2.OSA2_1.layers.0.OSA2_1_0/conv.weight`),
which is why some modules below are registered under names with a slash.
Lee et al., arXiv 1904.09730.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from copy import deepcopy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from . import BOX_BINS, STRIDES


@dataclass(frozen=True)
class BackboneSpec:
    stage_channels: tuple[int, int, int, int]
    concat_channels: tuple[int, int, int, int]
    modules: tuple[int, int, int, int]


BACKBONES = {
    "vovnet27_slim": BackboneSpec((64, 80, 96, 112), (128, 256, 384, 512), (1, 1, 1, 1)),
    "vovnet39": BackboneSpec((128, 160, 192, 224), (256, 512, 768, 1024), (1, 1, 2, 2)),
    "vovnet57": BackboneSpec((128, 160, 192, 224), (256, 512, 768, 1024), (1, 1, 4, 3)),
}
LAYERS_PER_OSA = 5


@dataclass(frozen=True)
class NetworkConfig:
    """What the manifest's `network` object holds, plus the number of classes."""

    classes: int
    backbone: str = "vovnet27_slim"
    neck_width: int = 96
    neck_mid_width: int = 64
    strides: tuple[int, ...] = field(default=STRIDES)
    box_bins: int = BOX_BINS


def _conv(cin: int, cout: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False)


def _named_cbr(name: str, cin: int, cout: int, kernel: int, stride: int = 1):
    """conv-BN-ReLU under the authors' flat names `<name>/conv`, `<name>/norm`."""
    return [
        (f"{name}/conv", _conv(cin, cout, kernel, stride)),
        (f"{name}/norm", nn.BatchNorm2d(cout)),
        (f"{name}/relu", nn.ReLU(inplace=True)),
    ]


class ConvBnRelu(nn.Module):
    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv = _conv(cin, cout, kernel, stride)
        self.norm = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)), inplace=True)


def fold_norms(module: nn.Module) -> nn.Module:
    """A copy for inference with each norm folded into the convolution before it."""
    copy = deepcopy(module).eval().requires_grad_(False)
    for part in copy.modules():
        for name in [n for n in part._modules if n.endswith("/conv")]:
            norm = name.removesuffix("conv") + "norm"
            part._modules[name] = fuse_conv_bn_eval(part._modules[name], part._modules[norm])
            part._modules[norm] = nn.Identity()
    return copy


class OsaModule(nn.Module):
    """One-shot aggregation: five chained 3×3, one concat, one 1×1."""

    def __init__(self, name: str, cin: int, mid: int, cout: int, identity: bool):
        super().__init__()
        self.identity = identity
        self.layers = nn.ModuleList()
        for i in range(LAYERS_PER_OSA):
            layer = _named_cbr(f"{name}_{i}", cin if i == 0 else mid, mid, 3)
            self.layers.append(nn.Sequential(OrderedDict(layer)))
        concat = cin + LAYERS_PER_OSA * mid
        self.concat = nn.Sequential(OrderedDict(_named_cbr(f"{name}_concat", concat, cout, 1)))

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        y = self.concat(torch.cat(outputs, dim=1))
        return y + x if self.identity else y


class Vovnet(nn.Module):
    """Returns {stride: features} for strides 4, 8, 16, 32 (C2..C5)."""

    def __init__(self, spec: BackboneSpec):
        super().__init__()
        stem = _named_cbr("stem_1", 3, 64, 3, 2)
        stem += _named_cbr("stem_2", 64, 64, 3, 1) + _named_cbr("stem_3", 64, 128, 3, 2)
        self.stem = nn.Sequential(OrderedDict(stem))
        cin = 128
        for stage, (mid, cout, count) in enumerate(
            zip(spec.stage_channels, spec.concat_channels, spec.modules), start=2
        ):
            body: list[tuple[str, nn.Module]] = []
            if stage > 2:
                body.append(("Pooling", nn.MaxPool2d(3, 2, ceil_mode=True)))
            for m in range(1, count + 1):
                name = f"OSA{stage}_{m}"
                body.append((name, OsaModule(name, cin, mid, cout, identity=m > 1)))
                cin = cout
            self.add_module(f"stage{stage}", nn.Sequential(OrderedDict(body)))
        object.__setattr__(self, "folded", {})

    def freeze(self, parts: tuple[str, ...]) -> None:
        """Ends the training of `parts` (the first ones, from the stem on): they run without gradient, with
        the norms' stored averages folded into the convolutions."""
        for part in parts:
            getattr(self, part).requires_grad_(False)
        # in a plain dict: neither parameters nor part of the state
        object.__setattr__(self, "folded", {part: fold_norms(getattr(self, part)) for part in parts})

    def _run(self, part: str, x: Tensor) -> Tensor:
        if part not in self.folded:
            return getattr(self, part)(x)
        with torch.no_grad():
            return self.folded[part](x)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        x = self._run("stem", x)
        out = {}
        for stage in (2, 3, 4, 5):
            x = self._run(f"stage{stage}", x)
            out[2**stage] = x
        return out


class OsaBlock(nn.Module):
    """The neck's small OSA: two chained 3×3, concat with the input, 1×1."""

    def __init__(self, cin: int, mid: int, cout: int):
        super().__init__()
        self.layers = nn.ModuleList([ConvBnRelu(cin, mid, 3), ConvBnRelu(mid, mid, 3)])
        self.concat = ConvBnRelu(cin + 2 * mid, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        y1 = self.layers[0](x)
        y2 = self.layers[1](y1)
        return self.concat(torch.cat([x, y1, y2], dim=1))


class Neck(nn.Module):
    """Lateral 1×1, top-down and bottom-up paths; every level leaves with `width` channels."""

    def __init__(self, channels: dict[int, int], width: int, mid: int, strides: tuple[int, ...]):
        super().__init__()
        self.strides = strides
        self.lateral = nn.ModuleDict({f"s{s}": ConvBnRelu(channels[s], width, 1) for s in strides})
        self.top_down = nn.ModuleDict({f"s{s}": OsaBlock(2 * width, mid, width) for s in strides[:-1]})
        self.down = nn.ModuleDict({f"s{s}": ConvBnRelu(width, width, 3, 2) for s in strides[1:]})
        self.bottom_up = nn.ModuleDict({f"s{s}": OsaBlock(2 * width, mid, width) for s in strides[1:]})

    def forward(self, features: dict[int, Tensor]) -> dict[int, Tensor]:
        lateral = {s: self.lateral[f"s{s}"](features[s]) for s in self.strides}
        top = {self.strides[-1]: lateral[self.strides[-1]]}
        for s in reversed(self.strides[:-1]):
            up = F.interpolate(top[2 * s], scale_factor=2.0, mode="nearest")
            top[s] = self.top_down[f"s{s}"](torch.cat([lateral[s], up], dim=1))
        out = {self.strides[0]: top[self.strides[0]]}
        for s in self.strides[1:]:
            down = self.down[f"s{s}"](out[s // 2])
            out[s] = self.bottom_up[f"s{s}"](torch.cat([down, top[s]], dim=1))
        return out


class SharedConv(nn.Module):
    """3×3 with weights shared by all levels and one BatchNorm per level."""

    def __init__(self, width: int, strides: tuple[int, ...]):
        super().__init__()
        self.conv = _conv(width, width, 3)
        for s in strides:
            self.add_module(f"norm_s{s}", nn.BatchNorm2d(width))

    def forward(self, x: Tensor, stride: int) -> Tensor:
        return F.relu(getattr(self, f"norm_s{stride}")(self.conv(x)), inplace=True)


class Head(nn.Module):
    def __init__(self, width: int, classes: int, bins: int, strides: tuple[int, ...]):
        super().__init__()
        self.stem = SharedConv(width, strides)
        self.cls = SharedConv(width, strides)
        self.reg = SharedConv(width, strides)
        self.cls_pred = nn.Conv2d(width, classes, 1)
        self.reg_pred = nn.Conv2d(width, 4 * bins, 1)
        # A prior of 1 % keeps the first steps from being all about background.
        nn.init.normal_(self.cls_pred.weight, std=0.01)
        nn.init.constant_(self.cls_pred.bias, -math.log(99.0))
        nn.init.normal_(self.reg_pred.weight, std=0.01)
        nn.init.zeros_(self.reg_pred.bias)
        with torch.no_grad():  # Distances start short (about 2 strides), as most objects are.
            self.reg_pred.bias.view(4, bins).copy_(-0.25 * torch.arange(bins).expand(4, bins))

    def forward(self, x: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        h = self.stem(x, stride)
        return self.cls_pred(self.cls(h, stride)), self.reg_pred(self.reg(h, stride))


class Detector(nn.Module):
    """Image [N, 3, H, W] (normalised RGB, H and W multiples of 32) →
    {stride: (class logits [N, classes, H/s, W/s], box logits [N, 4·bins, H/s, W/s])}."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        spec = BACKBONES[config.backbone]
        channels = {2 ** (i + 2): c for i, c in enumerate(spec.concat_channels)}
        self.backbone = Vovnet(spec)
        self.neck = Neck(channels, config.neck_width, config.neck_mid_width, config.strides)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.head = Head(config.neck_width, config.classes, config.box_bins, config.strides)
        for shared in (self.head.stem, self.head.cls, self.head.reg):
            nn.init.kaiming_normal_(shared.conv.weight, nonlinearity="relu")

    def features(self, x: Tensor) -> dict[int, Tensor]:
        """The neck's outputs p_s, [N, neck_width, H/s, W/s]."""
        return self.neck(self.backbone(x))

    def predict(self, features: dict[int, Tensor]) -> dict[int, tuple[Tensor, Tensor]]:
        return {s: self.head(features[s], s) for s in self.config.strides}

    def forward(self, x: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        return self.predict(self.features(x))


def flatten(outputs: dict[int, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Levels → class logits [N, P, classes], box logits [N, P, 4, bins],
    points [P, 2] in pixels, strides [P] in pixels; P runs over the levels, row-major."""
    cls, box, points, strides = [], [], [], []
    for s, (c, b) in outputs.items():
        n, _, h, w = c.shape
        cls.append(c.flatten(2).transpose(1, 2))
        box.append(b.flatten(2).transpose(1, 2).reshape(n, h * w, 4, -1))
        y, x = torch.meshgrid(
            torch.arange(h, device=c.device) + 0.5, torch.arange(w, device=c.device) + 0.5, indexing="ij"
        )
        points.append(torch.stack([x, y], dim=-1).reshape(-1, 2) * s)
        strides.append(torch.full((h * w,), float(s), device=c.device))
    return torch.cat(cls, 1).float(), torch.cat(box, 1).float(), torch.cat(points), torch.cat(strides)


def decode_boxes(box_logits: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Box logits [N, P, 4, bins] → x1 y1 x2 y2 in pixels [N, P, 4]."""
    bins = torch.arange(box_logits.shape[-1], device=box_logits.device, dtype=box_logits.dtype)
    distance = (box_logits.softmax(-1) * bins).sum(-1) * strides[:, None]
    return torch.cat([points - distance[..., :2], points + distance[..., 2:]], dim=-1)


def load_backbone(model: Detector, state: dict[str, Tensor]) -> int:
    """Copies the backbone from a checkpoint in the authors' names (`stem.…`, `module.stem.…`)
    or ours (`backbone.stem.…`); a classifier in it is ignored.

    Returns the number of tensors copied. Raises ValueError when one is missing or of another shape.
    """
    for prefix in ("module.", "backbone."):
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    own = model.backbone.state_dict()
    wanted = [k for k in own if not k.endswith("num_batches_tracked")]
    for name in wanted:
        if name not in state:
            raise ValueError(f"backbone checkpoint has no tensor '{name}'; is it a {model.config.backbone}?")
        if state[name].shape != own[name].shape:
            raise ValueError(
                f"backbone tensor '{name}': expected {tuple(own[name].shape)}, got {tuple(state[name].shape)}"
            )
    model.backbone.load_state_dict({k: state[k].float() for k in wanted}, strict=False)
    return len(wanted)
