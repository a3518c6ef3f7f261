#!/usr/bin/env bash
# Trains on a machine with a GPU, PyTorch and no network, in pieces of at most ten minutes.
# Each call goes on from RUN/checkpoint.pt and ends by itself; call it until it says 'done'.
#
#   ./gpu.sh RUN DATA_FOLDER [more options of train.py]
#
# DATA_FOLDER holds the training shards (train-*.tar, at most 40 MiB each, so that they can be
# sent one by one) and, if there is one, yolox_nano.onnx. Python packages the machine lacks
# (opencv-python-headless, pycocotools) may lie there as wheels. Held-out figures, log and the
# exported model are in RUN. PIECE_MINUTES (9) and TOTAL_MINUTES (27) may be set from outside.
set -euo pipefail

if [ $# -lt 2 ]; then
  sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
run=$1 folder=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}

shopt -s nullglob
mkdir -p "$run"
wheels=("$folder"/*.whl)
if [ ${#wheels[@]} -gt 0 ]; then
  if [ ! -d "$run/site" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$run/site" "${wheels[@]}"
  fi
  export PYTHONPATH="$run/site${PYTHONPATH:+:$PYTHONPATH}"
fi
if ! missing=$("$python" -c 'import torch, numpy, cv2, PIL, pycocotools, safetensors' 2>&1); then
  echo "gpu.sh: ${missing##*$'\n'}; put the package's wheel into '$folder'" >&2
  exit 1
fi
shards=("$folder"/train-*.tar)
if [ ${#shards[@]} -eq 0 ]; then
  echo "gpu.sh: no 'train-*.tar' in '$folder'; put the training shards there" >&2
  exit 1
fi
options=()
for shard in "${shards[@]}"; do
  if [ "$(stat -c %s "$shard")" -gt $((40 * 1024 * 1024)) ]; then
    echo "gpu.sh: '$shard' is larger than 40 MiB; cut it into more shards" >&2
    exit 1
  fi
  options+=(--data "$shard")
done
if [ -f "$folder/yolox_nano.onnx" ] && "$python" -c 'import onnx, onnxruntime' 2>/dev/null; then
  options+=(--teacher "$folder/yolox_nano.onnx")
else
  echo "gpu.sh: no teacher: 'yolox_nano.onnx' or its Python packages are missing; going on without" >&2
fi
if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  options+=(--batch 64 --lr 3e-3 --workers 12)
fi

exec "$python" "$here/train.py" "${options[@]}" --terms "$here/terms.json" --out "$run" \
  --minutes "${TOTAL_MINUTES:-27}" --piece-minutes "${PIECE_MINUTES:-9}" --save-every 2 "$@"
