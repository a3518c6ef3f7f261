"""Times the shipped detector on this project's engines and on other CPU runtimes, in turn.

    make peers                          # a venv, the export, all runtimes, target/peers.json
    python peers.py --sizes 320 --threads 1 --only vovcam,onnxruntime

Every runtime gets the same letterboxed RGB bytes and must end with the same f32 logits on the
host; conversions are inside the timing. Each runs in a process of its own and they take turns,
one frame each, so that a busy moment of the machine hits all of them. Outputs are compared with
PyTorch's f32 before anything is timed: logits in f32 and bf16, boxes in int8.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import boxes
import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target" / "peers"

# runtime, precision; the first is what the others are compared with
RUNTIMES = [
    ("pytorch", "f32"),
    ("vovcam", "f32"),
    ("vovcam", "int8"),
    ("candle", "f32"),
    ("ncnn", "f32"),
    ("ncnn", "bf16"),
    ("onnxruntime", "f32"),
    ("onnxruntime", "int8"),
    ("openvino", "f32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("pytorch", "bf16"),
]
# largest difference of a logit over the largest logit
TOLERANCE = {"f32": 1e-3, "bf16": 0.1}
# F1 of the boxes in int8: below it is another network. Its loss of AP is measured by `vovcam eval`
MIN_AGREEMENT = 0.8
SLOW_MS = 150.0


class Worker:
    """One runtime in a process of its own, driven by lines."""

    def __init__(self, runtime: str, precision: str, side: int, threads: int, picture: Path, bench: Path):
        self.runtime, self.precision = runtime, precision
        arguments = [precision, str(side), str(threads), str(picture)]
        if runtime in ("vovcam", "candle"):
            command = [str(bench), "cpu" if runtime == "vovcam" else "candle", *arguments]
        else:
            command = [sys.executable, str(HERE / "worker.py"), runtime, *arguments, str(WORK)]
        # candle and OpenMP runtimes take as many threads as the environment says
        limits = {"RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | limits
        )
        answer = self._line()
        if not answer.startswith("ready"):
            raise RuntimeError(f"{runtime} {precision}: expected 'ready', got '{answer}'")
        self.description = answer.removeprefix("ready").strip()
        self.times: list[float] = []

    def _line(self) -> str:
        while True:
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError(f"{self.runtime} {self.precision} ended with code {self.process.wait()}")
            if line.startswith(("ready", "ok")) or line[0].isdigit():
                return line.strip()

    def _ask(self, line: str) -> str:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._line()

    def run(self) -> float:
        return float(self._ask("run"))

    def logits(self, picture: Path) -> np.ndarray:
        self._ask(f"picture {picture}")
        self.run()
        self._ask(f"logits {WORK / 'logits.f32'}")
        return np.fromfile(WORK / "logits.f32", np.float32)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def clip_frames(count: int) -> list[Image.Image]:
    """Frames of the bundled Motion-JPEG clip, evenly spread."""
    data = (ROOT / "assets" / "street.avi").read_bytes()
    starts, at = [], data.find(b"\xff\xd8\xff")
    while at >= 0:
        starts.append(at)
        at = data.find(b"\xff\xd8\xff", at + 3)
    picked = starts[:: max(1, len(starts) // count)][:count]
    return [Image.open(io.BytesIO(data[s:])).convert("RGB") for s in picked]


def letterboxed(frame: Image.Image, side: int) -> np.ndarray:
    """[side, side, 3] bytes: the frame scaled to fit, grey around it."""
    scale = side / max(frame.size)
    size = [round(v * scale) for v in frame.size]
    canvas = Image.new("RGB", (side, side), (114, 114, 114))
    canvas.paste(frame.resize(size, Image.Resampling.BILINEAR), ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(canvas)


def bench_program() -> Path:
    command = ["cargo", "bench", "--bench", "peers", "--no-run", "--message-format=json"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    built = [json.loads(line) for line in lines]
    return Path(next(m["executable"] for m in built if m.get("executable") and m["target"]["name"] == "peers"))


def compare(workers: list[Worker], side: int, pictures: list[Path]) -> None:
    """Every runtime's outputs against those of the first."""
    wanted = [workers[0].logits(picture) for picture in pictures]
    largest = max(float(np.abs(logits).max()) for logits in wanted)
    wanted_boxes = [boxes.find(logits, side) for logits in wanted]
    for w in workers:
        got = [w.logits(picture) for picture in pictures]
        if got[0].shape != wanted[0].shape:
            raise SystemExit(f"{w.runtime} {w.precision}: expected {wanted[0].size} logits, got {got[0].size}")
        error = max(float(np.abs(a - b).max()) for a, b in zip(got, wanted, strict=True)) / largest
        f1, score = boxes.agreement([boxes.find(logits, side) for logits in got], wanted_boxes)
        print(
            f"  {w.runtime:12} {w.precision:5} logits differ by {error:.1e}, "
            f"F1 of the boxes {f1:.3f}, scores differ by {score:.3f}  {w.description}",
            flush=True,
        )
        same = f1 >= MIN_AGREEMENT if w.precision == "int8" else error <= TOLERANCE[w.precision]
        if not same:
            raise SystemExit(f"{w.runtime} {w.precision}: not the same network as {workers[0].runtime}'s")


def measure(workers: list[Worker], rounds: int) -> None:
    slow = {w for w in workers if min(w.run() for _ in range(2)) > SLOW_MS}
    for index in range(rounds):
        for w in workers:
            if w in slow and index % 4:
                continue
            # pools of the last runtime may still spin: let them go to sleep
            time.sleep(0.03)
            w.run()  # caches were the other runtimes'
            w.times.append(w.run())


def table(rows: list[dict], size: int, threads: int) -> str:
    here = sorted((r for r in rows if r["size"] == size and r["threads"] == threads), key=lambda r: r["median_ms"])
    own = {r["precision"]: r["median_ms"] for r in here if r["runtime"] == "vovcam"}
    peers = [r for r in here if r["runtime"] not in ("vovcam", "candle")]
    lines = [f"{size}×{size}, {threads} thread{'s' * (threads > 1)}", "", "| runtime | median ms | min–max |", "|---|---|---|"]
    for r in here:
        name = f"{r['runtime']} {r['precision']}"
        name = f"**{name}**" if r["runtime"] == "vovcam" else name
        lines.append(f"| {name} | {r['median_ms']:.1f} | {r['min_ms']:.1f}–{r['max_ms']:.1f} |")
    lines.append("")
    for precision, mine in own.items():
        best = min((r for r in peers if r["precision"] == precision), key=lambda r: r["median_ms"], default=None)
        if best:
            lines.append(f"{precision}: {mine / best['median_ms']:.2f} × the time of {best['runtime']}, the best {precision} peer")
    candle = next((r for r in here if r["runtime"] == "candle"), None)
    if candle and "f32" in own:
        lines.append(f"f32: {own['f32'] / candle['median_ms']:.2f} × the time of candle")
    return "\n".join(lines) + "\n"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sizes", default="320,512")
    p.add_argument("--threads", default="1,2")
    p.add_argument("--rounds", type=int, default=20)
    p.add_argument("--only", help="runtimes, comma-separated; PyTorch f32 is always there to compare with")
    p.add_argument("--out", type=Path, default=ROOT / "target" / "peers.json")
    args = p.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    chosen = [r for r in RUNTIMES if not args.only or r[0] in args.only.split(",") or r == RUNTIMES[0]]
    bench = bench_program()
    rows = []
    tables = []
    for size in map(int, args.sizes.split(",")):
        frames = np.stack([letterboxed(f, size) for f in clip_frames(16)])
        frames.tofile(WORK / f"calibration-{size}.rgb")
        pictures = [WORK / f"picture-{size}-{i}.rgb" for i in range(0, len(frames), 2)]
        for index, picture in enumerate(pictures):
            frames[2 * index].tofile(picture)
        subprocess.run([sys.executable, str(HERE / "worker.py"), "export", str(size), str(WORK)], check=True)
        for threads in map(int, args.threads.split(",")):
            print(f"{size}×{size}, {threads} threads: starting", flush=True)
            workers = [Worker(*r, size, threads, pictures[-1], bench) for r in chosen]
            compare(workers, size, pictures)
            measure(workers, args.rounds)
            for w in workers:
                w.close()
                rows.append({
                    "runtime": w.runtime, "precision": w.precision, "size": size, "threads": threads,
                    "median_ms": round(statistics.median(w.times), 3),
                    "min_ms": round(min(w.times), 3), "max_ms": round(max(w.times), 3),
                })  # fmt: skip
            tables.append(table(rows, size, threads))
            args.out.write_text(json.dumps(rows, indent=1) + "\n")
    print()
    print("\n".join(tables))


if __name__ == "__main__":
    main()
