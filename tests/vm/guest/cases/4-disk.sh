# The log on a disk in trouble.

option() { vovcam run --help | grep -q -- "--$1" || fail "there is no --$1"; }
PACED=(--source pattern --size 320x240 --fps 10)

it kill_9 'kill -9 leaves at most one torn line, and the next start closes it'
kill_9() {
    local i torn
    for i in 1 2 3 4 5 6; do
        start --source pattern --size 64x64
        more_frames 20
        kill -KILL $PID
        wait $PID || true
    done
    torn=$(jq -R 'fromjson? // "torn"' $LOG | grep -c '^"torn"' || true)
    every_line_parses 6
    printf '{"type":"frame","ts":"2026-01-0' >>$LOG
    vovcam run "${QUICK[@]}" --source pattern:3 --size 64x64 --jsonl $LOG 2>>$ERR
    every_line_parses $((torn + 1))
    [ "$(tail -1 $LOG | jq -r .type)" = stats ] || fail "the last line is $(tail -1 $LOG)"
    note "$(wc -l <$LOG) lines, 6 kills, $torn torn, and the one made by hand"
}

it disk_full 'a full disk does not stop detection; lost lines are counted; the log goes on when there is room'
disk_full() {
    mkdir -p full
    mount -t tmpfs -o size=128k none full
    LOG=full/log.jsonl
    start "${PACED[@]}" --stats-interval 2 --save frames
    until_ 60 seen_frames 10
    dd if=/dev/zero of=full/filler bs=4k status=none 2>/dev/null || true
    until_ 60 seen_in_messages 'cannot be written' 1
    local have
    have=$(pictures)
    until_ 60 more_pictures_than $((have + 10))
    [ "$(stat -f -c %a full)" = 0 ] || fail 'the disk was not full'
    rm full/filler
    until_ 60 seen_in_messages 'written again' 1
    more_frames 5
    stop
    note "$(last_stats .drops.log) lines lost"
    [ "$(last_stats .drops.log)" -ge 5 ] || fail "$(last_stats .drops.log) lost lines counted"
    every_line_parses
    cp $LOG kept.jsonl
    umount full
    [ "$(grep -c '"event":"disk_full"' kept.jsonl)" -ge 1 ] || fail 'no disk_full event in the log; the rest holds'
}
pictures() { find frames -name '*.jpg' | wc -l; }
more_pictures_than() { [ "$(pictures)" -gt "$1" ]; }

it read_only 'a disk that turns read-only does not stop detection'
read_only() {
    command -v mke2fs >/dev/null || fail 'no mke2fs in the machine'
    truncate -s 4M disk.img
    mke2fs -q -t ext4 disk.img
    mkdir -p disk
    mount -o loop,errors=remount-ro disk.img disk
    LOG=disk/log.jsonl
    start "${PACED[@]}" --save frames
    until_ 60 seen_frames 5
    echo 1 >"/sys/fs/ext4/$(basename "$(findmnt -n -o SOURCE disk)")/trigger_fs_error"
    until_ 60 seen_in_messages 'cannot be written' 1
    local have
    have=$(pictures)
    until_ 60 more_pictures_than $((have + 10))
    grep -m1 'cannot be written' $ERR | grep -q 'Read-only' || fail "$(grep -m1 'cannot be written' $ERR)"
    # what it cannot put on the disk at the end is an error
    local code=0
    kill -TERM $PID
    wait $PID || code=$?
    note "exit code $code at the end"
    umount disk
}

it no_folder 'a log that cannot be opened is an error at the start that names it'
no_folder() {
    local code=0
    vovcam run "${QUICK[@]}" --source pattern:1 --jsonl /nowhere/log.jsonl 2>$ERR || code=$?
    [ $code = 1 ] || fail "exit code $code"
    grep -q "'/nowhere/log.jsonl'" $ERR || fail "$(tail -1 $ERR)"
}

it rotation 'a log that rotates keeps its cap, and no line is lost or torn'
rotation() {
    option rotate-size
    vovcam run "${QUICK[@]}" --source pattern:900 --size 64x64 --jsonl $LOG --rotate-size 64K --rotate-keep 2 2>$ERR
    local files bytes
    files=$(find . -name "$LOG*" | wc -l)
    bytes=$(find . -name "$LOG*" -printf '%s\n' | jq -s add)
    note "$files files, $bytes bytes"
    [ "$files" = 3 ] || fail "$files files"
    [ "$bytes" -le $((3 * 65536)) ] || fail "$bytes bytes"
    for LOG in $(find . -name "$LOG*"); do
        every_line_parses
    done
}

it free_space 'below the free-space floor nothing is written, and detection goes on'
free_space() {
    option min-free
    mkdir -p small
    mount -t tmpfs -o size=1M none small
    LOG=small/log.jsonl
    start "${PACED[@]}" --min-free 900K --save frames
    until_ 60 seen_frames 5
    head -c 300k /dev/zero >small/filler
    sleep 3
    local have size
    size=$(stat -c %s $LOG) have=$(pictures)
    until_ 60 more_pictures_than $((have + 10))
    [ "$(stat -c %s $LOG)" -le $((size + 4096)) ] || fail 'it went on writing'
    rm small/filler
    more_frames 5
    stop
    note "$(last_stats .drops.log) lines lost"
    every_line_parses
    umount small
}
