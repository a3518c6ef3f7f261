# A camera in trouble.

it absent_at_start 'a camera that is absent is waited for with 1, 2, 4, 8, 16, 30, 30 s between tries, at rest, and found'
absent_at_start() {
    rm -f /dev/video77
    start -v --device /dev/video77
    until_ 20 seen_event camera_lost
    until_ 120 seen_in_messages 'next try in 30 s' 1
    local cpu=0 waits
    cpu=$(cpu_percent $PID 20)
    waits=$(grep -o 'next try in [0-9]* s' $ERR | cut -d' ' -f4 | tr '\n' ' ')
    [ "$waits" = '1 2 4 8 16 30 ' ] || [ "$waits" = '1 2 4 8 16 30 30 ' ] || fail "the waits were $waits"
    [ "$cpu" -le 2 ] || fail "$cpu % of a core while waiting"
    fresh_camera
    ln -s video0 /dev/video77
    until_ 45 seen_event camera_found
    more_frames 2
    rm /dev/video77
    stop
    note "waits $waits, $cpu % of a core"
}
seen_in_messages() { [ "$(grep -c "$1" $ERR)" -ge "$2" ]; }

it unplug_replug 'an unplugged camera is lost at once and found by its path, though it comes back as another number'
unplug_replug() {
    local at lost first
    fresh_camera
    start --device $BY_PATH --size 320x180 --fps 10
    until_ 60 seen_frames 5
    at=$(now_ms)
    unplug
    until_ 10 seen_event camera_lost
    lost=$(after_ms "$at" camera_lost)
    # something else takes the number meanwhile
    rmmod v4l2loopback
    modprobe v4l2loopback video_nr=0 card_label=thief
    local cpu
    until_ 10 rests $PID
    cpu=$(cpu_percent $PID 5)
    at=$(now_ms)
    replug
    [ "$(readlink -f $BY_PATH)" != $CAMERA ] || fail 'the camera came back under its old number'
    until_ 40 seen_event camera_found
    more_frames 3
    alive || fail 'the process ended'
    stop
    first=$(after_ms "$at" camera_found)
    note "lost after $lost ms, found $first ms after its return as $(readlink -f $BY_PATH), $cpu % of a core between"
    rmmod v4l2loopback
    modprobe v4l2loopback video_nr=9 card_label=loop
    [ "$lost" -le 5000 ] || fail "lost after $lost ms"
    [ "$cpu" -le 5 ] || fail "$cpu % of a core while unplugged"
    grep '"type":"frame"' $LOG | jq -se '[.[].frame_id] == ([.[].frame_id] | sort | unique)' >/dev/null ||
        fail 'frame ids went back after the camera returned'
}

it stall 'a camera that stops sending is lost within --camera-timeout and found again'
stall() {
    local at lost cpu
    fresh_camera
    start --device $CAMERA --size 320x180 --fps 10 --camera-timeout 3
    until_ 60 seen_frames 5
    at=$(now_ms)
    control percentage_of_dropped_buffers=100
    until_ 10 seen_event camera_lost
    lost=$(after_ms "$at" camera_lost)
    until_ 10 rests $PID
    cpu=$(cpu_percent $PID 10)
    control percentage_of_dropped_buffers=0
    until_ 40 seen_event camera_found
    more_frames 3
    stop
    note "lost after $lost ms, $cpu % of a core meanwhile"
    [ "$lost" -ge 2900 ] && [ "$lost" -le 4000 ] || fail "lost after $lost ms, expected 3 s"
    [ "$cpu" -le 5 ] || fail "$cpu % of a core while stalled"
    grep camera_lost $LOG | grep -q 'no frame in time' || fail "$(grep camera_lost $LOG)"
}

it stop_while_stalled 'SIGTERM ends the program at once while the camera sends nothing'
stop_while_stalled() {
    local at
    fresh_camera
    control percentage_of_dropped_buffers=100
    start --device $CAMERA --size 320x180 --camera-timeout 30
    until_ 30 seen_in_messages chosen 1
    sleep 1
    at=$(now_ms)
    stop
    note "ended after $(($(now_ms) - at)) ms"
    [ $(($(now_ms) - at)) -le 2000 ] || fail 'it waited for the first frame'
}

it only_damaged 'a camera that sends only damaged frames counts as lost'
only_damaged() {
    fresh_camera
    start --device $CAMERA --size 320x180 --fps 2 --camera-timeout 3
    until_ 60 seen_frames 2
    local end=$((SECONDS + 20))
    while [ $SECONDS -lt $end ] && ! seen_event camera_lost; do
        v4l2-ctl -d $CAMERA -c inject_v4l2_buf_flag_error=1
        sleep 0.1
    done
    seen_event camera_lost || fail 'it was never lost'
    until_ 40 seen_event camera_found
    stop
}

it fatal_error 'a fatal streaming error is survived'
fatal_error() {
    fresh_camera
    start --device $CAMERA --size 320x180 --fps 10
    until_ 60 seen_frames 3
    control inject_fatal_streaming_error=1
    until_ 20 seen_event camera_lost
    until_ 40 seen_event camera_found
    more_frames 3
    stop
}

it start_errors 'errors of REQBUFS, QBUF and STREAMON at the start are survived'
start_errors() {
    local call
    for call in reqbufs qbuf streamon; do
        fresh_camera
        rm -f $LOG $ERR
        control inject_vidioc_${call}_error=1
        start --device $CAMERA --size 320x180
        until_ 30 seen_event camera_lost
        until_ 40 seen_event camera_found
        more_frames 2
        stop
        note "$call: $(grep camera_lost $LOG | jq -r .message | cut -d: -f2-)"
        ! grep -q panicked $ERR || fail "$call: $(grep -m1 panicked $ERR)"
    done
}

it busy 'a camera that another program uses is named busy, and taken once it is free'
busy() {
    local other
    fresh_camera
    v4l2-ctl -d $CAMERA --stream-mmap --stream-count=1000000 >/dev/null 2>&1 &
    other=$!
    sleep 2
    fails_with 69 'busy: another program' --device $CAMERA
    rm -f $LOG
    start --device $CAMERA --size 320x180
    until_ 20 seen_event camera_lost
    kill $other
    until_ 40 seen_event camera_found
    more_frames 2
    stop
}

it permission 'without permission the message names the group'
permission() {
    fresh_camera
    local code=0
    setpriv --reuid=65534 --regid=65534 --clear-groups \
        vovcam run "${QUICK[@]}" --no-retry --device $CAMERA 2>$ERR || code=$?
    [ $code = 69 ] || fail "exit code $code: $(tail -1 $ERR)"
    grep -q "group 'video'" $ERR || fail "$(tail -1 $ERR)"
}

it wrong_node 'what is no camera ends with 69 and a hint'
wrong_node() {
    fails_with 69 'not a camera' --device /dev/null
    fails_with 69 'no such camera' --device /dev/video55
    touch /tmp/not-a-device
    fails_with 69 'not a camera' --device /tmp/not-a-device
    fails_with 69 'not a camera' --device /tmp
    # a video node that only takes pictures
    rmmod v4l2loopback
    modprobe v4l2loopback video_nr=9 card_label=loop exclusive_caps=1
    fails_with 69 'not a camera' --device /dev/video9
    rmmod v4l2loopback
    modprobe v4l2loopback video_nr=9 card_label=loop
}

it no_retry 'with --no-retry a lost camera ends the run with 69 and what to do'
no_retry() {
    fresh_camera
    local code=0
    start --device $CAMERA --size 320x180 --no-retry
    until_ 60 seen_frames 2
    unplug
    until_ 15 ended $PID
    wait $PID || code=$?
    [ $code = 69 ] || fail "exit code $code: $(tail -1 $ERR)"
    tail -1 $ERR | grep -q 'is it plugged in' || fail "$(tail -1 $ERR)"
    every_line_parses
    fresh_camera
    control percentage_of_dropped_buffers=100
    fails_with 69 'camera-timeout' --device $CAMERA --camera-timeout 2
}
