# A camera that works: what it is asked for, and what arrives.

it formats 'every format shows the colour bars that the camera sends'
formats() {
    local format code
    for format in rgb8:RGB3 nv12:NV12 yuyv:YUYV uyvy:UYVY gray8:GREY; do
        code=${format#*:} format=${format%:*}
        fresh_camera
        rm -rf $LOG $ERR
        vovcam run "${QUICK[@]}" --device $CAMERA --format "$format" --size 640x360 --max-frames 2 \
            --jsonl $LOG --save "$code" 2>$ERR
        grep -q "camera '$CAMERA': $code 640x360" $ERR || fail "$code was not chosen: $(head -1 $ERR)"
        bars "$(find "$code" -name '*.jpg' | head -1)" 640 360 "$([ "$code" != GREY ] || echo grey)"
        note "$code off by $WORST"
    done
}

it choice 'the cheapest mode that meets the wish is chosen, and said with its alternatives'
choice() {
    fresh_camera
    vovcam run "${QUICK[@]}" --device $CAMERA --size 640x360 --fps 25 --max-frames 2 --jsonl $LOG 2>$ERR
    grep -q 'RGB3 640x360 at 25 fps chosen of YUYV, UYVY, NV12, GREY, RGB3 ([0-9]* modes)' $ERR ||
        fail "$(head -1 $ERR)"
    [ "$(v4l2-ctl -d $CAMERA -P | grep -o '25.000')" = 25.000 ] || fail 'the driver was not asked for 25 fps'
    # a rate that 1280x720 does not have there
    vovcam run "${QUICK[@]}" --device $CAMERA --size 1280x720 --fps 30 --max-frames 1 --jsonl $LOG 2>$ERR
    note "for 1280x720 at 30: $(grep -o "': .* chosen" $ERR | cut -c4-)"
}

it by_path 'a path under /dev/v4l is opened, and named in the log'
by_path() {
    fresh_camera
    vovcam run "${QUICK[@]}" --device $BY_PATH --size 640x360 --max-frames 2 --jsonl $LOG 2>$ERR
    seen_frames 2 || fail "$(frames) frames"
    grep '"type":"run"' $LOG | grep -q "$BY_PATH" || fail "the run line says $(jq -c .source <(head -1 $LOG))"
}

it strange_format 'a camera that another program left in another format and rate opens all the same'
strange_format() {
    fresh_camera
    v4l2-ctl -d $CAMERA --set-fmt-video=width=3840,height=2160,pixelformat=BA81 --set-parm=1
    vovcam run "${QUICK[@]}" --device $CAMERA --format yuyv --size 640x360 --fps 25 --max-frames 2 \
        --jsonl $LOG --save frames 2>$ERR
    bars "$(find frames -name '*.jpg' | head -1)" 640 360
}

it timestamps 'time stamps are the driver'\''s: the frame period holds while the machine is busy'
timestamps() {
    fresh_camera
    sh -c 'while :; do :; done' &
    start --device $CAMERA --size 320x180 --fps 10
    until_ 60 seen_frames 20
    stop
    # ns per step of the frame id, off 100 ms: the median, as the driver itself is late at times
    local off
    off=$(grep '"type":"frame"' $LOG | jq -s '[.[1:] as $b | .[:-1] as $a | range(0; $b | length) |
        (($b[.].ts_mono_ns - $a[.].ts_mono_ns) / ($b[.].frame_id - $a[.].frame_id) - 100e6) / 1e6 | fabs] | sort | .[length / 2 | floor]')
    note "off by $off ms in the median"
    jq -en "$off < 2" >/dev/null || fail "half of the periods are off by $off ms or more"
    grep '"type":"frame"' $LOG | jq -se 'all(.[]; .latency_ms.age > 0 and .latency_ms.age < 10000)' >/dev/null ||
        fail 'an age is not sane'
}

it odd_timestamps 'time stamps that make no sense are replaced by the time of arrival'
odd_timestamps() {
    local mode
    for mode in 1 2; do # 64 bit, 32 bit: both far from this machine's clock
        fresh_camera
        control wrap_timestamp=$mode
        rm -f $LOG
        vovcam run "${QUICK[@]}" --device $CAMERA --size 320x180 --max-frames 5 --jsonl $LOG 2>$ERR
        grep '"type":"frame"' $LOG | jq -se '[.[].ts_mono_ns] == ([.[].ts_mono_ns] | sort) and
            all(.[]; .latency_ms.age >= 0 and .latency_ms.age < 10000)' >/dev/null ||
            fail "wrap_timestamp=$mode: $(grep '"type":"frame"' $LOG | jq -c '[.ts_mono_ns, .latency_ms.age]')"
    done
}

it sequence_wrap 'sequence numbers that pass the end of 32 bits go on'
sequence_wrap() {
    fresh_camera
    control wrap_sequence_number=1 # starts 128 below the end
    start --device $CAMERA --size 320x180 --fps 60 --stats-interval 1
    until_ 60 past_wrap
    stop
    grep '"type":"frame"' $LOG | jq -se '[.[].frame_id] == ([.[].frame_id] | sort | unique)' >/dev/null ||
        fail 'frame ids went back'
    jq -en "$(last_stats .drops.driver) < 1000" >/dev/null || fail "$(last_stats .drops.driver) driver drops"
}
past_wrap() { [ "$(tail -1 $LOG | jq '.frame_id // 0')" -gt 200 ]; }

it driver_drops 'buffers that the driver drops are gaps in the frame ids, and counted'
driver_drops() {
    fresh_camera
    control percentage_of_dropped_buffers=50
    start --device $CAMERA --size 320x180 --fps 10
    until_ 60 seen_frames 20
    stop
    local drops replaced gaps
    drops=$(last_stats .drops.driver) replaced=$(last_stats .drops.replaced)
    gaps=$(grep '"type":"frame"' $LOG | jq -s '(.[-1].frame_id - .[0].frame_id + 1) - length')
    note "$drops dropped by the driver, $replaced replaced, $(frames) shown"
    [ "$drops" -ge 5 ] || fail "$drops driver drops"
    # frames after the last one shown may have been lost as well
    [ "$gaps" -le $((drops + replaced)) ] && [ $((drops + replaced - gaps)) -le 30 ] ||
        fail "the gaps are $gaps, the counters $drops + $replaced"
}

it error_flag 'frames that the driver marks as damaged are counted and never shown'
error_flag() {
    local i
    fresh_camera
    start --device $CAMERA --size 320x180 --fps 10 --save frames
    until_ 60 seen_frames 3
    for i in 1 2 3; do
        control inject_v4l2_buf_flag_error=1
        until_ 20 seen_event damaged_frame "$i"
    done
    more_frames 3
    stop
    [ "$(last_stats .drops.damaged)" = 3 ] || fail "$(last_stats .drops.damaged) counted, 3 injected"
    local id
    for id in $(grep damaged_frame $LOG | grep -o 'frame [0-9]*' | cut -d' ' -f2); do
        ! grep -q "\"frame_id\":$id," $LOG || fail "the damaged frame $id was shown"
    done
}

it doctor 'doctor lists the camera with its modes'
doctor() {
    fresh_camera
    vovcam doctor >doctor.txt
    grep -q "camera $CAMERA: 'vivid" doctor.txt || fail "$(grep camera doctor.txt)"
    grep -q 'NV12 640x360 at 40 fps' doctor.txt || fail 'a mode is missing'
}
