#!/bin/sh
# Puts together what is carried to a GPU machine without Rust and network: program, parity test,
# benchmark, model, PyTorch twin, run.sh. Needs no CUDA here: the compiler comes from PyPI.
#   benches/gpu/bundle.sh [FOLDER]      default: target/gpu-bundle
# CANDLE=0 leaves candle's own path out, which takes most of the time; PYTHON may name a Python
# with torch and onnx, without which ONNX Runtime is left out.
set -eu
cd "$(dirname "$0")/../.."
CARGO=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-target}
bundle=${1:-$target/gpu-bundle}
rm -rf "$bundle"
mkdir -p "$bundle"

NVCC=$(.ci/nvcc "$target/cuda")
home=$(dirname "$(dirname "$NVCC")")
export NVCC CUDA_HOME="$home" PATH="$home/bin:$PATH"

# build FEATURES KIND NAME FILE: a test's or benchmark's program under a name of its own
build() {
    program=$($CARGO build --release --features "$1" "--$2" "$3" --message-format json \
        | python3 -c 'import json, sys
lines = (json.loads(line) for line in sys.stdin if line.startswith("{"))
found = [m["executable"] for m in lines if m.get("executable") and m["target"]["name"] == sys.argv[1]]
print(found[-1])' "$3")
    cp "$program" "$bundle/$4"
    strip "$bundle/$4"
}

build cuda bin vovcam vovcam
build cuda test cuda parity
build cuda bench gpu gpu
if [ "${CANDLE:-1}" = 1 ]; then
    .ci/cuda-stubs "$home/lib/stubs" 13
    export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}" LIBRARY_PATH="$home/lib/stubs:$home/lib"
    build candle-cuda bench gpu gpu-candle
fi

cp benches/gpu/run.sh benches/gpu/peers.py benches/gpu/report.py "$bundle/"
cp models/vovnet27_slim.json models/vovnet27_slim.safetensors "$bundle/"
mkdir "$bundle/vovcam_train"
cp models/training/vovcam_train/__init__.py models/training/vovcam_train/model.py "$bundle/vovcam_train/"
python=${PYTHON:-python3}
if "$python" -c 'import torch, onnx' 2>/dev/null; then
    "$python" benches/gpu/peers.py models/vovnet27_slim.json --export-onnx "$bundle/model.onnx"
else
    echo "bundle.sh: '$python' has no torch and onnx: ONNX Runtime is left out" >&2
fi
# the weights are in every program: a window that spans them all halves the file
tar -C "$bundle" -cf - . | xz --lzma2=preset=6,dict=128MiB >"$bundle.tar.xz"
# what the machine's C library must at least be
objdump -T "$bundle/vovcam" "$bundle/parity" "$bundle/gpu" | grep -oE 'GLIBC_[0-9.]+' | sort -uV | tail -n 1
du -h "$bundle.tar.xz"
