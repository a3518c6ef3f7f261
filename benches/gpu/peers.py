"""The same network in PyTorch and ONNX Runtime: one JSON line a case, as `main.rs` prints them.

A frame is bytes in pinned host memory to f32 logits in pinned host memory, the clock read after
the GPU is done. Batch norm is folded for all. On a machine without CUDA only what runs there is
timed, which shows that the script works and nothing else.

    peers.py MANIFEST.json [--onnx FILE] [--round N]     time
    peers.py MANIFEST.json --export-onnx FILE            write the ONNX file that --onnx takes
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

SIDES = (320, 640)
BATCHES = (1, 4)
INPUTS = 8
WARM_UP = 30
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The GPU machine may lack the safetensors package: a header of JSON, then plain arrays."""
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            values = torch.frombuffer(data, dtype=DTYPES[entry["dtype"]], offset=start + first,
                                      count=(last - first) // DTYPES[entry["dtype"]].itemsize)
            tensors[name] = values.reshape(entry["shape"]).float()
    return tensors


def load(manifest_path: Path) -> tuple[nn.Module, dict]:
    manifest = json.loads(manifest_path.read_text())
    from vovcam_train.model import Detector, NetworkConfig

    network = dict(manifest["network"])
    network["strides"] = tuple(network["strides"])
    model = Detector(NetworkConfig(classes=len(manifest["classes"]), **network))
    state = read_safetensors(manifest_path.with_name(manifest["weights"]))
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise SystemExit(f"'{manifest_path}': tensors missing {missing}, unexpected {unexpected}")
    return fold(model.eval()), manifest


class FoldedShared(nn.Module):
    """A convolution shared by levels, with each level's batch norm folded into a copy."""

    def __init__(self, shared: nn.Module, strides: tuple[int, ...]):
        super().__init__()
        for stride in strides:
            folded = fuse_conv_bn_eval(shared.conv, getattr(shared, f"norm_s{stride}"))
            self.add_module(f"s{stride}", folded)

    def forward(self, x: Tensor, stride: int) -> Tensor:
        return torch.relu(getattr(self, f"s{stride}")(x))


def fold(model: nn.Module) -> nn.Module:
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            children = list(module.named_children())
            for (name, conv), (norm_name, norm) in zip(children, children[1:]):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module._modules[name] = fuse_conv_bn_eval(conv, norm)
                    module._modules[norm_name] = nn.Identity()
        elif isinstance(getattr(module, "norm", None), nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
    for name in ("stem", "cls", "reg"):
        setattr(model.head, name, FoldedShared(getattr(model.head, name), model.config.strides))
    return model


class Frame(nn.Module):
    """Bytes [N, H, W, 3] to the logits of all levels in one f32 vector."""

    def __init__(self, detector: nn.Module, manifest: dict, dtype: torch.dtype):
        super().__init__()
        self.detector = detector
        mean, std = torch.tensor(manifest["mean"]), torch.tensor(manifest["std"])
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1))
        self.dtype = dtype

    def forward(self, pictures: Tensor) -> Tensor:
        x = pictures.permute(0, 3, 1, 2).float()  # channels last already
        x = (x * self.scale + self.shift).to(self.dtype)
        outputs = self.detector(x)
        flat = [t.permute(0, 2, 3, 1).reshape(-1) for pair in outputs.values() for t in pair]
        return torch.cat(flat).float()


class Energy:
    """The first GPU's energy counter in joules, where there is one."""

    def __init__(self):
        try:
            import pynvml

            pynvml.nvmlInit()
            self.read = lambda h=pynvml.nvmlDeviceGetHandleByIndex(0): (
                pynvml.nvmlDeviceGetTotalEnergyConsumption(h) / 1e3
            )
            self.read()
        except Exception:  # no package, no driver, or a GPU without the counter
            self.read = lambda: None


def measure(run, pictures: list[Tensor], seconds: float, energy: Energy) -> dict:
    for i in range(WARM_UP if seconds >= 1 else 1):
        run(pictures[i % INPUTS])
    times: list[float] = []
    start, joules = time.perf_counter(), energy.read()
    while True:
        began = time.perf_counter()
        run(pictures[len(times) % INPUTS])
        times.append((time.perf_counter() - began) * 1e3)
        if time.perf_counter() - start >= seconds:
            break
    end = energy.read()
    times_sorted = sorted(times)
    frames = len(times) * pictures[0].shape[0]
    return {
        "runs": len(times),
        "ms": statistics.median(times),
        "ms_min": times_sorted[0],
        "ms_p95": times_sorted[int((len(times) - 1) * 0.95)],
        "joules_per_frame": None if joules is None or end is None else (end - joules) / frames,
    }


def torch_runner(frame: nn.Module, pictures: Tensor, device: str, graph: bool):
    """A function from pinned bytes to pinned logits."""
    device_pictures = pictures.to(device, copy=True)
    with torch.inference_mode():
        out = frame(device_pictures)
        host = torch.empty(out.shape, dtype=out.dtype, pin_memory=device == "cuda")
        if graph:
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(3):
                    frame(device_pictures)
            stream.synchronize()
            recorded = torch.cuda.CUDAGraph()
            with torch.cuda.graph(recorded):
                recorded_out = frame(device_pictures)

    def run(bytes_: Tensor) -> Tensor:
        with torch.inference_mode():
            device_pictures.copy_(bytes_, non_blocking=True)
            if graph:
                recorded.replay()
                logits = recorded_out
            else:
                logits = frame(device_pictures)
            host.copy_(logits, non_blocking=True)
            if device == "cuda":
                torch.cuda.synchronize()
            return host

    return run


def onnx_runner(path: Path, example: Tensor, device: str):
    import onnxruntime

    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise RuntimeError(f"ONNX Runtime has no {provider}")
    session = onnxruntime.InferenceSession(str(path), providers=[provider])
    if provider not in session.get_providers():
        raise RuntimeError(f"ONNX Runtime did not load {provider}")
    return lambda pictures: torch.from_numpy(session.run(None, {"pictures": pictures.numpy()})[0])


def relative_error(got: Tensor, right: Tensor) -> float:
    return ((got.float() - right).abs().max() / right.abs().max()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--training", type=Path, default=Path(__file__).parents[2] / "models/training")
    parser.add_argument("--onnx", type=Path)
    parser.add_argument("--export-onnx", type=Path)
    parser.add_argument("--round", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--compile", action="store_true", help="torch.compile as well: minutes")
    args = parser.parse_args()
    sys.path.insert(0, str(args.training))
    if args.export_onnx:
        return export(args.manifest, args.export_onnx)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        print("peers.py: no CUDA: what follows only shows that the script runs", file=sys.stderr)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    energy = Energy()
    for side in args.sides:
        for batch in args.batches:
            case = {"side": side, "batch": batch, "round": args.round}
            for name, result in cases(args, device, side, batch, energy):
                print(json.dumps({"runtime": name, **case, **result}), flush=True)


def cases(args, device: str, side: int, batch: int, energy: Energy):
    generator = torch.Generator().manual_seed(side + batch)
    shape = (batch, side, side, 3)
    pictures = [torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for _ in range(INPUTS)]
    if device == "cuda":
        pictures = [p.pin_memory() for p in pictures]
    model, manifest = load(args.manifest)
    right = torch_runner(Frame(model, manifest, torch.float32), pictures[0], "cpu", False)(pictures[0]).clone()
    engine = f"PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()} on {device}"

    def timed(make, tolerance: float):
        try:
            run = make()
            error = relative_error(run(pictures[0]), right)
            if not error <= tolerance:
                return {"engine": engine, "error": f"logits are off by {error:.2e}"}
            return {"engine": engine, "off_by": error, **measure(run, pictures, args.seconds, energy)}
        except Exception as problem:  # one runtime that fails must not end the comparison
            return {"engine": engine, "error": f"{type(problem).__name__}: {problem}"[:300]}

    def frame(dtype: torch.dtype) -> nn.Module:
        detector, _ = load(args.manifest)
        detector = detector.to(device=device, dtype=dtype, memory_format=torch.channels_last)
        return Frame(detector, manifest, dtype).to(device).eval()

    half = torch.float16 if device == "cuda" else torch.bfloat16  # CPUs have no half convolution
    near = 1e-2 if device == "cuda" else 1e-1
    yield "PyTorch eager f32", timed(lambda: torch_runner(frame(torch.float32), pictures[0], device, False), 1e-3)
    yield "PyTorch eager f16", timed(lambda: torch_runner(frame(half), pictures[0], device, False), near)
    if device == "cuda":
        yield "PyTorch CUDA graph f32", timed(lambda: torch_runner(frame(torch.float32), pictures[0], device, True), 1e-3)
        yield "PyTorch CUDA graph f16", timed(lambda: torch_runner(frame(half), pictures[0], device, True), near)
    if args.compile:
        mode = "reduce-overhead" if device == "cuda" else "default"  # the former records CUDA graphs
        compiled = lambda: torch_runner(torch.compile(frame(half), mode=mode), pictures[0], device, False)  # noqa: E731
        yield "torch.compile f16", timed(compiled, near)
        torch.compiler.reset()
    if args.onnx:
        yield "ONNX Runtime f32", timed(lambda: onnx_runner(args.onnx, pictures[0], device), 1e-3)


def export(manifest_path: Path, to: Path) -> None:
    model, manifest = load(manifest_path)
    frame = Frame(model, manifest, torch.float32).eval()
    torch.onnx.export(
        frame, (torch.zeros(1, 64, 64, 3, dtype=torch.uint8),), str(to), dynamo=False, opset_version=17,
        input_names=["pictures"], output_names=["logits"],
        dynamic_axes={"pictures": {0: "n", 1: "h", 2: "w"}, "logits": {0: "values"}},
    )


if __name__ == "__main__":
    main()
