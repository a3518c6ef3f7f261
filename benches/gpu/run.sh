#!/bin/sh
# Parity first, then speed, on a machine with an NVIDIA GPU, cuDNN and PyTorch; no network and no
# Rust needed. Runs where `make gpu-bundle` put it, and writes results.json and results.md to OUT.
#   ./run.sh [OUT]     ROUNDS (2) may be set from outside
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/out}
python=${PYTHON:-python3}
mkdir -p "$out"

# PyTorch brings its own cuDNN and CUDA libraries; use the same ones
libraries=$("$python" - <<'PYTHON' 2>/dev/null || true
import glob, os, torch
site = os.path.dirname(os.path.dirname(torch.__file__))
found = glob.glob(os.path.join(site, "nvidia", "*", "lib")) + [os.path.join(os.path.dirname(torch.__file__), "lib")]
print(":".join(found))
PYTHON
)
export LD_LIBRARY_PATH="${libraries:+$libraries:}${LD_LIBRARY_PATH:-}:/usr/local/cuda/lib64"
export XDG_CACHE_HOME="$out/cache"

{ nvidia-smi || echo "no nvidia-smi"; ldd --version | head -n 1; "$python" --version; } >"$out/machine.txt" 2>&1
cat "$out/machine.txt"

echo "== parity"
VOVCAM_REQUIRE_GPU=1 "$here/parity" >"$out/parity.txt" 2>&1
parity=$?
cat "$out/parity.txt"
if [ $parity != 0 ]; then
    echo "== parity without slices, to tell cuDNN's part from the rest"
    VOVCAM_REQUIRE_GPU=1 "$here/parity" --packed >"$out/parity-packed.txt" 2>&1
    cat "$out/parity-packed.txt"
fi

# both programs in turn, so that clocks and heat treat them alike
: >"$out/results.jsonl"
for round in $(seq 1 "${ROUNDS:-2}"); do
    echo "== round $round"
    # a process each: a GPU that was sent astray stays so for its process
    for engine in f16 f32 f16-packed candle; do
        program=gpu
        [ $engine = candle ] && program=gpu-candle
        [ -x "$here/$program" ] || { echo "no $program in this bundle"; continue; }
        "$here/$program" $engine "$round" >"$out/part.jsonl" 2>>"$out/log.txt" \
            || echo "$program $engine failed: $(tail -n 1 "$out/log.txt")"
        cat "$out/part.jsonl" >>"$out/results.jsonl"
    done
    onnx=""
    [ -f "$here/model.onnx" ] && onnx="--onnx $here/model.onnx"
    compile=""
    [ "$round" = 1 ] && compile="--compile"
    # shellcheck disable=SC2086  # options and their values
    "$python" "$here/peers.py" "$here/vovnet27_slim.json" --training "$here" --round "$round" $onnx $compile \
        --seconds "${SECONDS_A_CASE:-3}" >>"$out/results.jsonl" 2>>"$out/log.txt" \
        || echo "peers.py failed: $(tail -n 1 "$out/log.txt")"
done
rm -f "$out/part.jsonl"

echo "== results"
"$python" "$here/report.py" "$out/results.jsonl" "$out/results.json" "$out/results.md"
exit $parity
