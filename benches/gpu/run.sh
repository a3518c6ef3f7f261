#!/bin/sh
# Parity first, then speed, on a machine with an NVIDIA GPU, cuDNN and PyTorch; no network and no
# Rust needed. Runs where `make gpu-bundle` put it, and writes results.json and results.md to OUT.
#   ./run.sh [OUT [STAGE…]]
# Stages: parity, precision, own and peers (which may be repeated, for more rounds), report; all of
# them, with two rounds, when none is named. Naming them lets a machine with a time limit do them one
# by one; results are written as they come, so that a stage that is cut off keeps what it had.
# DATA names a labelled set (what `vovcam eval --data` takes) for precision: what half precision
# costs in AP. ENGINES are those that `own` times, SECONDS_A_CASE how long; COMPILE=0 leaves
# torch.compile out, which takes minutes.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/out}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- parity precision own peers own peers report
python=${PYTHON:-python3}
mkdir -p "$out"

# PyTorch brings its own cuDNN and CUDA libraries; use the same ones
libraries=$("$python" -c 'import glob, os, torch
home = os.path.dirname(torch.__file__)
found = glob.glob(os.path.join(os.path.dirname(home), "nvidia", "*", "lib"))
print(":".join(found + [os.path.join(home, "lib")]))' 2>/dev/null || true)
export LD_LIBRARY_PATH="${libraries:+$libraries:}${LD_LIBRARY_PATH:-}:/usr/local/cuda/lib64"
export XDG_CACHE_HOME="$out/cache"

parity() {
    VOVCAM_REQUIRE_GPU=1 "$here/parity" >"$out/parity.txt" 2>&1
    result=$?
    cat "$out/parity.txt"
    [ $result = 0 ] && return
    echo "== parity without slices, to tell cuDNN's part from the rest"
    VOVCAM_REQUIRE_GPU=1 "$here/parity" --packed >"$out/parity-packed.txt" 2>&1
    cat "$out/parity-packed.txt"
}

precision() {
    [ -n "${DATA:-}" ] || { echo "DATA names no labelled set: no average precision"; return; }
    for precision in f32 f16; do
        "$here/vovcam" eval --data "$DATA" --model "$here/vovnet27_slim.json" --engine cuda \
            --precision $precision --json >"$out/precision-$precision.json" || return
    done
    "$python" - "$out" <<'END'
import json, sys
ap = {p: 100 * json.load(open(f"{sys.argv[1]}/precision-{p}.json"))["coco"]["ap"] for p in ("f32", "f16")}
print(f"AP f32 {ap['f32']:.2f}, f16 {ap['f16']:.2f}: {ap['f32'] - ap['f16']:.2f} points lost")
END
}

# Runs one program, whose lines are results.
collect() {
    "$@" >>"$out/results.jsonl" 2>>"$out/log.txt" || echo "'$*' failed: $(tail -n 1 "$out/log.txt")"
}

# How often a stage was run before.
round() {
    echo . >>"$out/rounds-$1.txt"
    wc -l <"$out/rounds-$1.txt" | tr -d ' '
}

own() {
    number=$(round own)
    # a process each: a GPU that was sent astray stays so for its process
    for engine in ${ENGINES:-f16 f32 f16-packed candle}; do
        program=$here/gpu
        [ $engine = candle ] && program=$here/gpu-candle
        [ -x "$program" ] || { echo "no $(basename "$program") in this bundle"; continue; }
        collect "$program" $engine "$number"
    done
}

peers() {
    number=$(round peers)
    set -- --training "$here" --round "$number" --seconds "${SECONDS_A_CASE:-3}"
    [ -f "$here/model.onnx" ] && set -- "$@" --onnx "$here/model.onnx"
    [ "$number" = 1 ] && [ "${COMPILE:-1}" = 1 ] && set -- "$@" --compile
    collect "$python" "$here/peers.py" "$here/vovnet27_slim.json" "$@"
}

report() {
    "$python" "$here/report.py" "$out/results.jsonl" "$out/results.json" "$out/results.md"
}

{ nvidia-smi || echo "no nvidia-smi"; ldd --version | head -n 1; "$python" --version; } >"$out/machine.txt" 2>&1
cat "$out/machine.txt"
for stage in "$@"; do
    echo "== $stage"
    case "$stage" in
    parity | precision | own | peers | report) $stage ;;
    *) echo "run.sh: no stage '$stage'; there are parity, precision, own, peers, report" >&2; exit 2 ;;
    esac
done
# how the parity test ended is how this ends, if it has been run
[ ! -f "$out/parity.txt" ] || grep -q "^cuda: passed" "$out/parity.txt"
