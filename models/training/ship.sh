#!/usr/bin/env bash
# Turns a finished run into the shipped model: weights, manifest with its figures and int8 ranges,
# golden outputs, and the tables of the model card on standard output. All figures are of `vovcam eval`.
#
#   ./ship.sh RUN DATA_FOLDER
#
# DATA_FOLDER holds the evaluation splits (eval-*.tar), train-0.tar for the int8 ranges, held-out.tar
# (vovcam_train.held_out), on which the score thresholds are chosen, and yolox_nano.onnx, which the tables
# set beside it. PYTHON, VOVCAM and PRECISION, which the thresholds are to reach, may be set from outside.
set -euo pipefail

if [ $# -ne 2 ]; then
  sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
run=$(realpath "$1") folder=$(realpath "$2")
cd "$(dirname "$0")"
python=${PYTHON:-python3} vovcam=${VOVCAM:-../../target/release/vovcam}
manifest=../vovnet27_slim.json sides="320 640" precision=${PRECISION:-0.75}
photos=$(mktemp -d)
trap 'rm -rf "$photos"' EXIT

splits="voc07test coco highway cctv voc12animals tinypeople"
mkdir -p "$run/reports/peer"
if [ ! -f "$run/peer.json" ]; then
  "$python" -m vovcam_train.teacher "$folder/yolox_nano.onnx" $(printf -- "--data $folder/eval-%s.tar " $splits) \
    --detections-out "$run/reports/detections" >&2
  for split in $splits; do
    "$vovcam" eval --data "$folder/eval-$split.tar" --detections "$run/reports/detections/eval-$split.json" \
      --min-boxes 15 --json >"$run/reports/peer/$split.json"
  done
  "$python" -m vovcam_train.reports "$run/peer.json" "$run/reports/peer/"*.json
fi
measured=()
for side in $sides; do
  mkdir -p "$run/reports/$side"
  for split in $splits; do
    if [ ! -s "$run/reports/$side/$split.json" ]; then
      "$vovcam" eval --model "$run/latest/vovnet27_slim.json" --data "$folder/eval-$split.tar" --input "$side" \
        --min-boxes 15 --json >"$run/reports/part.json"
      mv "$run/reports/part.json" "$run/reports/$side/$split.json"
    fi
  done
  "$python" -m vovcam_train.reports "$run/ours-$side.json" $(printf -- "$run/reports/$side/%s.json " $splits)
  measured+=(--measured "$run/ours-$side.json")
done
"$vovcam" eval --model "$run/latest/vovnet27_slim.json" --data "$folder/held-out.tar" --min-boxes 15 \
  --at-precision "$precision" --json >"$run/reports/thresholds.json"
"$python" -m vovcam_train.export "$run/checkpoint.pt" "$manifest" "${measured[@]}" \
  --thresholds "$run/reports/thresholds.json" >&2
tar xf "$folder/train-0.tar" -C "$photos"
# only photos of the sets that the run was trained on
"$python" - "$manifest" "$photos"/*/ >&2 <<'EOF'
import json, pathlib, sys
used = {entry["name"] for entry in json.loads(pathlib.Path(sys.argv[1]).read_text())["training"]["data"]}
folder = pathlib.Path(sys.argv[2])
for image in json.loads((folder / "annotations.json").read_text())["images"]:
    if image["set"] not in used:
        (folder / "images" / image["file_name"]).unlink()
EOF
"$vovcam" calibrate --model "$manifest" --source "$photos"/*/images >&2
"$python" golden.py "$manifest" ../../tests/fixtures/golden.json >&2
"$python" card.py "$run/ours-${sides%% *}.json" "$run/peer.json"
