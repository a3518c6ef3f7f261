# A USB webcam: the kernel's own webcam driver, with tests/vm/webcam.rs as the camera at the other
# end of the kernel's virtual USB cable.

BY_ID=/dev/v4l/by-id/usb-vovcam_Test_Webcam_0001-video-index0
plug() { # [FRAMES MILLISECONDS [CUT]]
    modprobe vhci_hcd
    webcam /host/street.avi "${1:-4}" "${2:-500}" "${@:3}" >>webcam.txt 2>&1 &
    WEBCAM=$!
    until_ 20 test -e $BY_ID
}
pull() {
    kill -KILL $WEBCAM
    wait $WEBCAM || true
    until_ 10 test ! -e $BY_ID
}

it webcam_modes 'a USB webcam is listed with its modes and opened by its by-id path'
webcam_modes() {
    plug
    vovcam doctor >doctor.txt
    grep -q "'Test Webcam" doctor.txt || fail "$(grep camera doctor.txt)"
    grep -q 'MJPG 768x576' doctor.txt || fail 'MJPG is missing'
    grep -q 'YUYV 320x240' doctor.txt || fail 'YUYV is missing'
    # no wish for a format: the one whose size is nearest
    vovcam run "${QUICK[@]}" --device $BY_ID --size 768x576 --max-frames 2 --jsonl $LOG 2>$ERR
    grep -q "'$BY_ID': MJPG 768x576" $ERR || fail "$(head -1 $ERR)"
    note "$(grep -o 'MJPG 768.*' $ERR | head -1)"
    pull
}

it webcam_boxes 'boxes on the street clip from a Motion-JPEG USB webcam equal those on the file'
webcam_boxes() {
    vovcam run --headless --source /host/street.avi --input 192 --max-frames 4 --jsonl file.jsonl 2>$ERR
    plug 4 1000
    vovcam run --headless --device $BY_ID --size 768x576 --input 192 --max-frames 6 --jsonl $LOG 2>$ERR
    same_boxes file.jsonl $LOG
    pull
}

it webcam_bars 'YUYV from a USB webcam shows its colour bars'
webcam_bars() {
    plug
    vovcam run "${QUICK[@]}" --device $BY_ID --format yuyv --max-frames 2 --jsonl $LOG --save frames 2>$ERR
    bars "$(find frames -name '*.jpg' | head -1)" 320 240
    note "off by $WORST"
    pull
}

it webcam_unplug 'a USB webcam whose plug is pulled is lost at once and found by its by-id path'
webcam_unplug() {
    local at lost
    plug
    start --device $BY_ID --size 320x240
    until_ 60 seen_frames 3
    at=$(now_ms)
    pull
    until_ 10 seen_event camera_lost
    lost=$(after_ms "$at" camera_lost)
    plug
    until_ 60 seen_event camera_found
    more_frames 3
    stop
    note "lost after $lost ms: $(grep -m1 camera_lost $LOG | jq -r .message | cut -d: -f2-)"
    [ "$lost" -le 5000 ] || fail "lost after $lost ms"
    pull
}

it webcam_cut 'Motion-JPEG frames that a USB webcam cuts short are counted and never shown'
webcam_cut() {
    plug 4 300 3
    start --device $BY_ID --size 768x576 --fps 3
    until_ 60 seen_event damaged_frame 2
    until_ 60 seen_frames 4
    stop
    note "$(frames) shown, $(last_stats .drops.damaged) damaged"
    grep -m1 damaged_frame $LOG | grep -q 'cut short' || fail "$(grep -m1 damaged_frame $LOG)"
    pull
}
