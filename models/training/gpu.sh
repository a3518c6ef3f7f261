#!/usr/bin/env bash
# Trains on a machine with a GPU, PyTorch and no network, in pieces of any length.
# Each call goes on from RUN/checkpoint.pt and ends by itself; call it until it says 'done'.
#
#   ./gpu.sh RUN DATA_FOLDER [more options of train.py]
#
# DATA_FOLDER holds the training shards (train-*.tar) and, where there are any, fused/*.json (boxes
# of fused teachers, a file for each shard), leaks.txt (photos to leave out) and wheels of Python
# packages that the machine lacks (pycocotools, pillow with AVIF). Log and exported model are in RUN.
# `./gpu.sh --pack DATA_FOLDER OUT [MIB]` writes all of that into pieces OUT.00, OUT.01, … of at
# most MIB (40) MiB, to be sent one by one; `cat OUT.* | tar x` puts them together again.
set -euo pipefail

if [ $# -lt 2 ]; then
  sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
if [ "$1" = --pack ]; then
  tar -C "$2" -c --exclude='eval-*' --exclude=peers --exclude='*.enc' . | gzip -1 | split -d -b "${4:-40}M" - "$3."
  ls -l "$3".*
  exit
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
  options+=(--data "$shard")
done
for boxes in "$folder"/fused/*.json; do
  options+=(--fused "$boxes")
done
[ ! -f "$folder/leaks.txt" ] || options+=(--exclude "$folder/leaks.txt")

exec "$python" "$here/train.py" "${options[@]}" --terms "$here/terms.json" --out "$run" \
  --photo-cache "$run/photos" --batch 128 --lr 3e-3 --warmup-steps 300 \
  --workers "${WORKERS:-$(($(nproc) - 2))}" --save-every 2 --measure-every 1000 \
  --stages 0.5:192-384/64,0.8:256-512/64,1:256-640/64 "$@"
