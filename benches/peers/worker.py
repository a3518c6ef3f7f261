"""Another runtime behind the line protocol of `benches/peers.rs`, and the export for all of them.

    worker.py export SIDE WORK_DIR
    worker.py RUNTIME PRECISION SIDE THREADS PICTURE.rgb WORK_DIR
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "models" / "training"))
MANIFEST = ROOT / "models" / "vovnet27_slim.json"
MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
STD = np.array([0.229, 0.224, 0.225], np.float32) * 255
NAMES = [f"{kind}_s{stride}" for stride in (8, 16, 32) for kind in ("cls", "box")]


def normalised(pixels: np.ndarray) -> np.ndarray:
    """[H, W, 3] bytes → [1, 3, H, W] f32, contiguous."""
    out = np.empty((1, 3, *pixels.shape[:2]), np.float32)
    for c in range(3):
        np.subtract(pixels[:, :, c], MEAN[c], out=out[0, c])
        out[0, c] /= STD[c]
    return out


def network():
    """The shipped model with batch norm folded, giving a tuple in the order of NAMES."""
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_eval
    from vovcam_train.export import load_model
    from vovcam_train.model import SharedConv

    model, _ = load_model(MANIFEST)
    model.eval()

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return tuple(t for pair in self.model(x).values() for t in pair)

    def fold(module):
        children = dict(module.named_children())
        conv, norm = children.get("conv"), children.get("norm")
        if conv is not None and norm is not None:
            module.conv, module.norm = fuse_conv_bn_eval(conv, norm), torch.nn.Identity()
        names = list(children)
        for a, b in zip(names, names[1:]):
            if a.endswith("/conv") and b.endswith("/norm"):
                setattr(module, a, fuse_conv_bn_eval(children[a], children[b]))
                setattr(module, b, torch.nn.Identity())
        for child in children.values():
            if not isinstance(child, SharedConv):
                fold(child)

    fold(model)
    return Plain().eval()


def export(side: int, work: Path) -> None:
    """ONNX in f32 and QDQ int8, TorchScript and ncnn files, each once a side."""
    import onnxruntime.quantization as quantization
    import torch

    done = work / f"export-{side}.done"
    stamp = MANIFEST.read_text()
    if done.exists() and done.read_text() == stamp:
        return
    print(f"exporting for {side}×{side}", flush=True)
    model, example = network(), torch.zeros(1, 3, side, side)
    onnx_file = work / f"model_{side}.onnx"
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (example,), onnx_file, dynamo=False, opset_version=17, input_names=["x"], output_names=NAMES
        )
        torch.jit.trace(model, example).save(work / f"model_{side}.pt")
    pictures = np.fromfile(work / f"calibration-{side}.rgb", np.uint8).reshape(-1, side, side, 3)

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = iter(pictures)

        def get_next(self):
            picture = next(self.left, None)
            return None if picture is None else {"x": normalised(picture)}

    quantization.quantize_static(
        onnx_file, work / f"model_{side}.int8.onnx", Reader(), per_channel=True,
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
        op_types_to_quantize=["Conv", "MaxPool", "Concat", "Resize"],
    )  # fmt: skip
    import pnnx

    command = [str(Path(pnnx.EXEC_PATH)), f"model_{side}.pt", f"inputshape=[1,3,{side},{side}]", "fp16=0"]
    subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done.write_text(stamp)


def pytorch(precision: str, side: int, threads: int, work: Path):
    import torch

    torch.set_num_threads(threads)
    model = network().to(memory_format=torch.channels_last)
    if precision == "bf16":
        model = model.bfloat16()
    x = torch.zeros(1, 3, side, side)
    with torch.inference_mode():
        model = torch.jit.freeze(torch.jit.trace(model, x.to(next(model.parameters()).dtype)))

    def infer(pixels):
        with torch.inference_mode():
            x = torch.from_numpy(normalised(pixels)).to(memory_format=torch.channels_last)
            x = x.bfloat16() if precision == "bf16" else x
            return [t.float().numpy() for t in model(x)]

    return infer


def onnxruntime(precision: str, side: int, threads: int, work: Path):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    suffix = ".int8" if precision == "int8" else ""
    session = ort.InferenceSession(work / f"model_{side}{suffix}.onnx", options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(NAMES, {"x": normalised(pixels)})


def openvino(precision: str, side: int, threads: int, work: Path):
    import openvino as ov

    core = ov.Core()
    suffix = ".int8" if precision == "int8" else ""
    config = {
        "INFERENCE_NUM_THREADS": str(threads), "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }  # fmt: skip
    compiled = core.compile_model(str(work / f"model_{side}{suffix}.onnx"), "CPU", config)
    request = compiled.create_infer_request()

    def infer(pixels):
        request.infer({0: normalised(pixels)})
        return [request.get_tensor(compiled.output(name)).data for name in NAMES]

    return infer


def ncnn(precision: str, side: int, threads: int, work: Path):
    import ncnn as runtime

    net = runtime.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, name, False)
    net.opt.use_bf16_storage = precision == "bf16"
    if net.load_param(str(work / f"model_{side}.ncnn.param")) or net.load_model(str(work / f"model_{side}.ncnn.bin")):
        raise RuntimeError("ncnn cannot load the exported model")

    def infer(pixels):
        with net.create_extractor() as extractor:
            extractor.input("in0", runtime.Mat(normalised(pixels)[0]))
            return [np.array(extractor.extract(f"out{i}")[1])[None] for i in range(len(NAMES))]

    return infer


RUNTIMES = {f.__name__: f for f in (pytorch, onnxruntime, openvino, ncnn)}


def main() -> None:
    if sys.argv[1] == "export":
        return export(int(sys.argv[2]), Path(sys.argv[3]))
    runtime, precision, side, threads, picture, work = sys.argv[1:]
    side = int(side)
    with contextlib.redirect_stdout(sys.stderr):
        infer = RUNTIMES[runtime](precision, side, int(threads), Path(work))
        pixels = np.fromfile(picture, np.uint8).reshape(side, side, 3)
        for _ in range(3):
            outputs = infer(pixels)
    print("ready", flush=True)
    for line in sys.stdin:
        command, _, path = line.strip().partition(" ")
        if command == "run":
            began = time.perf_counter()
            outputs = infer(pixels)
            print(f"{1e3 * (time.perf_counter() - began):.4f}", flush=True)
        elif command == "picture":
            pixels = np.fromfile(path, np.uint8).reshape(side, side, 3)
            print("ok", flush=True)
        elif command == "logits":
            cells = [np.moveaxis(o[0], 0, -1).astype(np.float32).ravel() for o in outputs]
            np.concatenate(cells).tofile(path)
            print("ok", flush=True)


if __name__ == "__main__":
    main()
