#!/usr/bin/env bash
# Turns a finished run into the shipped model: weights, manifest with its figures and int8 ranges,
# golden outputs, and the tables of the model card on standard output.
#
#   ./ship.sh RUN DATA_FOLDER
#
# DATA_FOLDER holds the evaluation splits (eval-*.tar), train-0.tar for the int8 ranges, and
# yolox_nano.onnx, which the tables set beside it. PYTHON and VOVCAM may be set from outside.
set -euo pipefail

if [ $# -ne 2 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
run=$(realpath "$1") folder=$(realpath "$2")
cd "$(dirname "$0")"
python=${PYTHON:-python3} vovcam=${VOVCAM:-../../target/release/vovcam}
manifest=../vovnet27_slim.json
photos=$(mktemp -d)
trap 'rm -rf "$photos"' EXIT

splits=()
for split in voc07test coco highway cctv voc12animals tinypeople; do
  splits+=(--data "$folder/eval-$split.tar")
done
"$python" -m vovcam_train.evaluate "$run/latest/vovnet27_slim.json" "${splits[@]}" --json "$run/ours.json" >&2
if [ ! -f "$run/peer.json" ]; then
  "$python" -m vovcam_train.teacher "$folder/yolox_nano.onnx" "${splits[@]}" --json "$run/peer.json" >&2
fi
"$python" -m vovcam_train.export "$run/checkpoint.pt" "$manifest" --measured "$run/ours.json" >&2
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
"$python" card.py "$run/ours.json" "$run/peer.json"
