# Motion-JPEG, and frames of the wrong length, through v4l2loopback.

LOOP=/dev/video9
loop_format() { # WIDTH HEIGHT FOURCC
    rmmod v4l2loopback
    modprobe v4l2loopback video_nr=9 card_label=loop
    udevadm settle
    # without that the format goes when v4l2-ctl ends
    v4l2-ctl -d $LOOP -c keep_format=1
    v4l2-ctl -d $LOOP --set-fmt-video-out="width=$1,height=$2,pixelformat=$3"
}

it clip_over_camera 'boxes on the street clip as a Motion-JPEG camera equal those on the file'
clip_over_camera() {
    local input=192 frames=4
    vovcam run --headless --source /host/street.avi --input $input --max-frames $frames --jsonl file.jsonl 2>$ERR
    loop_format 768 576 MJPG
    feed /host/street.avi $LOOP $frames 1000 >feed.txt &
    sleep 2
    vovcam run --headless --device $LOOP --input $input --max-frames 6 --jsonl $LOG 2>$ERR
    grep -q 'MJPG 768x576' $ERR || fail "$(head -1 $ERR)"
    same_boxes file.jsonl $LOG
}

# A JPEG of 640x360, from the colour bars.
jpeg_of_bars() {
    fresh_camera
    vovcam run "${QUICK[@]}" --device $CAMERA --size 640x360 --max-frames 1 --save jpegs 2>>$ERR
    cp "$(find jpegs -name '*.jpg')" whole.jpg
}
# put FILE: one write, one frame
put() { dd if="$1" bs=4M count=1 status=none >&5; }

it cut_jpeg 'Motion-JPEG frames that were cut short are counted and never shown'
cut_jpeg() {
    local i
    jpeg_of_bars
    head -c $(($(stat -c %s whole.jpg) / 2)) whole.jpg >cut.jpg
    loop_format 640 360 MJPG
    exec 5>$LOOP
    put whole.jpg
    start --device $LOOP --camera-timeout 20
    for i in $(seq 40); do
        put whole.jpg; sleep 0.15; put cut.jpg; sleep 0.15
        ! { seen_event damaged_frame 3 && seen_frames 3; } || break
    done
    stop
    exec 5>&-
    note "$(frames) shown, $(last_stats .drops.damaged) damaged"
    seen_frames 3 || fail "$(frames) frames"
    [ "$(last_stats .drops.damaged)" -ge 3 ] || fail "$(last_stats .drops.damaged) counted"
    grep -m1 damaged_frame $LOG | grep -q 'cut short' || fail "$(grep -m1 damaged_frame $LOG)"
}

it short_frames 'raw frames with too few bytes are counted and never shown'
short_frames() {
    local i
    loop_format 640 360 YUYV
    head -c $((640 * 360 * 2)) /dev/zero >whole.raw
    head -c $((640 * 360)) /dev/zero >short.raw
    exec 5>$LOOP
    put whole.raw
    start --device $LOOP --size 640x360 --camera-timeout 20
    for i in $(seq 40); do
        put whole.raw; sleep 0.15; put short.raw; sleep 0.15
        ! { seen_event damaged_frame 3 && seen_frames 3; } || break
    done
    stop
    exec 5>&-
    note "$(frames) shown, $(last_stats .drops.damaged) damaged"
    seen_frames 3 || fail "$(frames) frames"
    [ "$(last_stats .drops.damaged)" -ge 3 ] || fail "$(last_stats .drops.damaged) counted"
    grep -m1 damaged_frame $LOG | grep -q '460800 bytes, got 230400' || fail "$(grep -m1 damaged_frame $LOG)"
}
