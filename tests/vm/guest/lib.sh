# What the cases are made of.
#   it NAME 'what must hold'     registers the function NAME as a case
#   fail TEXT                    ends the case: it failed
#   note TEXT                    a figure for the table
NAMES=() CLAIMS=()
LOG=log.jsonl ERR=stderr.txt
CAMERA=/dev/video0
BY_PATH=/dev/v4l/by-path/platform-vivid.0-video-index0
DRIVER=/sys/bus/platform/drivers/vivid

it() { NAMES+=("$1") CLAIMS+=("$2"); }
note() { printf '%s; ' "$*" >>note; }
fail() { echo "FAIL: $*" >&2; note "$*"; exit 1; }

CASE_LIMIT=900 # seconds; boxes on ten frames take 330 under emulation
run_case() { # NAME CLAIM
    local began ended code outcome pid guard
    mkdir -p "/tmp/cases/$1" && cd "/tmp/cases/$1" || return
    : >note
    began=$(date +%s%N)
    (
        set -eE
        trap 'echo "FAIL: line $LINENO: $BASH_COMMAND" >&2' ERR
        trap cleanup EXIT
        trap 'fail "not over within $CASE_LIMIT s"' TERM
        "$1"
    ) >case.log 2>&1 </dev/null &
    pid=$!
    # A case that waits in vain, in whatever command, fails alone.
    { sleep $CASE_LIMIT && kill -TERM $pid && pkill -KILL -P $pid; } 2>/dev/null &
    guard=$!
    code=0
    wait $pid || code=$?
    pkill -P $guard
    wait $guard
    ended=$(date +%s%N)
    case $code in 0) outcome=pass ;; *) outcome=FAIL ;; esac
    [ $code -ne 1 ] || [ -s note ] || grep -m1 '^FAIL' case.log >note
    printf '%s\t%s\t%s\t%s\t%s\n' "$1" $outcome "$(((ended - began) / 1000000))" \
        "$(tr '\n\t' '  ' <note | sed 's/; $//')" "$2" >>/host/out/results.tsv
    echo "$(cut -d' ' -f1 /proc/uptime) $1 $outcome"
    cp -r "/tmp/cases/$1" /host/out/ 2>/dev/null
    cd / && rm -rf "/tmp/cases/$1"
}

# Whatever a case leaves running must not reach the next one.
cleanup() {
    local job
    for job in $(jobs -p); do
        kill -CONT "$job" 2>/dev/null
        kill -KILL "$job" 2>/dev/null
    done
    wait 2>/dev/null
    findmnt -rn -o TARGET | grep "^/tmp/cases/" | xargs -r umount -l
    return 0
}

# until_ SECONDS COMMAND...: waits for it to succeed. Emulation on a busy host is slow, so the
# limit, which only ends a hang, is several times what is asked for.
until_() {
    local limit=$((4 * $1)) end
    shift
    end=$((SECONDS + limit))
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || fail "not within $limit s: $*"
        sleep 0.2
    done
}

# --- the camera

# A replugged vivid has all its controls, its format and its rate at their defaults.
fresh_camera() {
    drivers
    [ ! -e $DRIVER/vivid.0 ] || unplug
    replug
}
unplug() { echo vivid.0 >$DRIVER/unbind; }
replug() {
    echo vivid.0 >$DRIVER/bind
    udevadm settle
    until_ 10 test -e $BY_PATH
    control osd_text_mode=2
}
# systemd allows a service the devices of drivers that are there when it starts.
drivers() {
    modprobe vivid n_devs=1 node_types=0x1 multiplanar=1
    modprobe v4l2loopback video_nr=9 card_label=loop
    udevadm settle
}
no_drivers() {
    modprobe -r vivid v4l2loopback
    # and what they needed, from the top
    for _ in 1 2 3 4; do
        lsmod | awk '/^(video|v4l)/ && $3 == 0 { print $1 }' | xargs -r rmmod
    done
    ! grep -q video4linux /proc/devices || fail 'a driver is still there'
}
control() { v4l2-ctl -d $BY_PATH -c "$1"; } # NAME=VALUE; buttons take any value

# --- the program

# The detector is what costs time here, and not what these cases are about.
QUICK=(--headless --input 32 --threshold 1)

# start ARGUMENTS...: in the background, log and messages in this folder.
start() {
    vovcam run "${QUICK[@]}" --jsonl $LOG "$@" 2>>$ERR &
    PID=$!
}
alive() { kill -0 "$PID" 2>/dev/null; }
# Asks it to stop, and expects that it ends well.
stop() {
    local code=0
    kill -TERM "$PID"
    until_ 15 ended "$PID"
    wait "$PID" || code=$?
    [ $code = 0 ] || fail "exit code $code at SIGTERM: $(tail -1 $ERR)"
}
ended() { ! kill -0 "$1" 2>/dev/null || [ "$(awk '{print $3}' "/proc/$1/stat" 2>/dev/null)" = Z ]; }
# fails_with CODE TEXT ARGUMENTS...: no retry, so the program ends, and says why.
fails_with() {
    local code=0 expected=$1 text=$2
    shift 2
    timeout 60 vovcam run "${QUICK[@]}" --no-retry --jsonl $LOG "$@" 2>$ERR || code=$?
    [ $code = "$expected" ] || fail "$*: exit code $code, expected $expected: $(tail -1 $ERR)"
    tail -1 $ERR | grep -q "$text" || fail "$*: no '$text' in: $(tail -1 $ERR)"
}

# --- the log

frames() { grep -c '"type":"frame"' $LOG || true; }
seen_frames() { [ "$(frames)" -ge "$1" ]; }
events() { grep -c "\"event\":\"$1\"" $LOG || true; }
seen_event() { [ "$(events "$1")" -ge "${2:-1}" ]; } # NAME [TIMES]
# Frames that come after now.
more_frames() {
    local have
    have=$(frames)
    until_ "${2:-30}" seen_frames $((have + $1))
}
last_stats() { grep '"type":"stats"' $LOG | tail -1 | jq "$1"; }
now_ms() { date +%s%3N; }
# ms from a moment to an event's time stamp
after_ms() { # MOMENT EVENT
    local at
    at=$(grep "\"event\":\"$2\"" $LOG | tail -1 | jq -r .ts)
    echo $(($(date -d "$at" +%s%3N) - $1))
}
every_line_parses() { # all but FEW of them
    local bad
    bad=$(jq -R 'fromjson? // "torn"' $LOG | grep -c '^"torn"' || true)
    [ "$bad" -le "${1:-0}" ] || fail "$bad lines of the log cannot be parsed"
}
cpu_ms() { awk '{print ($14 + $15) * 10}' "/proc/$1/stat"; }
# The frame that was in the network when its camera was lost is done; under emulation that takes seconds.
rests() { # PID
    local before
    before=$(cpu_ms "$1")
    sleep 1
    [ $(($(cpu_ms "$1") - before)) -le 50 ]
}
# Percent of one core over so many seconds.
cpu_percent() { # PID SECONDS
    local before after
    before=$(cpu_ms "$1")
    sleep "$2"
    after=$(cpu_ms "$1")
    echo $(((after - before) / (10 * $2)))
}

# boxes LOG: those of each frame, a line a frame
boxes() { jq -c 'select(.type == "frame") | [.detections[] | [.label, .score, .bbox]]' "$1"; }
# same_boxes FILE.jsonl CAMERA.jsonl: every frame of the camera has exactly the boxes of a frame of the file
same_boxes() {
    local line which order= frames
    boxes "$1" >file.boxes
    boxes "$2" >camera.boxes
    frames=$(sort -u file.boxes | wc -l)
    [ "$frames" = "$(wc -l <file.boxes)" ] || fail "only $frames frames of the file differ"
    while read -r line; do
        which=$(grep -nxF -- "$line" file.boxes | cut -d: -f1 || true)
        [ -n "$which" ] || fail "these boxes are on no frame of the file: $line"
        order+="$which "
    done <camera.boxes
    note "$(jq -s 'map(length) | add' file.boxes) boxes on $frames frames; the camera's frames were number $order"
    [ "$(tr ' ' '\n' <<<"$order" | sort -u | grep -c .)" -ge 3 ] || fail "the camera gave only frames $order"
}

# --- pictures

# pixel PICTURE X Y: its red, green and blue
pixel() {
    djpeg -pnm "$1" >picture.ppm
    local width
    width=$(sed -n 2p picture.ppm | cut -d' ' -f1)
    tail -c "+$(($(head -3 picture.ppm | wc -c) + 3 * ($3 * width + $2) + 1))" picture.ppm |
        head -c 3 | od -An -tu1
}
# The eight bars of vivid's 75 % colour bars, as red, green and blue.
BARS=("191 191 191" "191 191 0" "0 191 191" "0 191 0" "191 0 191" "191 0 0" "0 0 191" "0 0 0")
# bars PICTURE WIDTH HEIGHT [grey]: the middle of every bar has its colour, to within 10
bars() {
    local i expected got worst=0 off
    for i in 0 1 2 3 4 5 6 7; do
        read -ra expected <<<"${BARS[$i]}"
        if [ "${4:-}" = grey ]; then
            # vivid weighs by Rec. 709
            local luma=$(((2126 * expected[0] + 7152 * expected[1] + 722 * expected[2] + 5000) / 10000))
            expected=("$luma" "$luma" "$luma")
        fi
        read -ra got < <(pixel "$1" $(($2 * (2 * i + 1) / 16)) $(($3 * 3 / 4)))
        for c in 0 1 2; do
            off=$((got[c] - expected[c]))
            off=${off#-}
            [ "$off" -le "$worst" ] || worst=$off
            [ "$off" -le 10 ] || fail "bar $i is ${got[*]}, expected ${expected[*]}"
        done
    done
    WORST=$worst
}
