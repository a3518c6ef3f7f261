# The Debian package, and the service that it installs, under systemd.

CONFIG=/etc/vovcam/vovcam.toml
SERVICE_LOG=/var/log/vovcam/detections.jsonl
property() { systemctl show vovcam -p "$1" --value; }
installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' vovcam 2>/dev/null)" = installed ]; }

# The package, settings for the test camera, and nothing left of an earlier case.
fresh_service() { # [LINES OF SETTINGS]
    fresh_camera
    systemctl stop vovcam 2>/dev/null || true
    systemctl reset-failed vovcam 2>/dev/null || true
    installed || dpkg -i /host/vovcam.deb
    rm -rf /var/log/vovcam/* /var/log/private/vovcam/*
    {
        echo "device = \"$BY_PATH\""
        echo 'size = "640x360"'
        echo 'fps = 10'
        echo 'input = 32'
        echo 'camera_timeout = 3'
        echo 'stats_interval = 2'
        echo "jsonl = \"$SERVICE_LOG\""
        printf '%s\n' "$@"
    } >$CONFIG
    LOG=$SERVICE_LOG
    # seconds, so that a case takes seconds
    mkdir -p /run/systemd/system/vovcam.service.d
    printf '[Service]\nRestartSec=1\n' >/run/systemd/system/vovcam.service.d/test.conf
    [ "$(property WatchdogUSec)" = 0 ] || printf 'WatchdogSec=10\n' >>/run/systemd/system/vovcam.service.d/test.conf
    systemctl daemon-reload
}
is() { [ "$(property "$1")" = "$2" ]; }
restarts() { property NRestarts; }
restarted_since() { [ "$(restarts)" -gt "$1" ]; }
journal() { journalctl -u vovcam --no-pager -o cat --since "$1"; }

it deb_install 'the package installs the program, unit, settings, schema, man pages and completions, without Python'
deb_install() {
    ! installed || dpkg -P vovcam
    dpkg -i /host/vovcam.deb
    local file
    for file in /usr/bin/vovcam $CONFIG /usr/share/vovcam/vovcam.v1.schema.json \
        /usr/share/man/man1/vovcam.1.gz /usr/share/man/man1/vovcam-run.1.gz \
        /usr/share/bash-completion/completions/vovcam /usr/share/zsh/vendor-completions/_vovcam \
        /usr/share/fish/vendor_completions.d/vovcam.fish; do
        [ -s "$file" ] || fail "'$file' is missing"
    done
    # the machine's own settings leave documents out of every package
    for file in docs/jsonl.md models/README.md THIRD-PARTY.txt; do
        dpkg-deb -c /host/vovcam.deb | grep -q "/doc/vovcam/$file" || fail "'$file' is missing"
    done
    ! dpkg -L vovcam | grep -iq 'python\|\.py$' || fail 'there is Python in it'
    dpkg-query -W -f '${Conffiles}' vovcam | grep -q $CONFIG || fail "$CONFIG is not a conffile"
    ! systemctl is-active vovcam || fail 'the service was started'
    MANPAGER=cat man -l /usr/share/man/man1/vovcam.1.gz 2>man.txt | grep -q 'Camera object detection' || fail 'no man page'
    [ ! -s man.txt ] || fail "man: $(head -1 man.txt)"
    bash -n /usr/share/bash-completion/completions/vovcam
    /usr/bin/vovcam --version
    note "$(($(stat -c %s /host/vovcam.deb) / 1024)) KiB, $(dpkg-query -W -f '${Installed-Size}' vovcam) KiB installed, needs $(dpkg-query -W -f '${Depends}' vovcam)"
}

it unit_verify 'systemd finds nothing wrong with the units'
unit_verify() {
    fresh_service
    local unit
    for unit in $(dpkg -L vovcam | grep 'systemd/system/.*\.service$'); do
        systemd-analyze verify "${unit/@./@test.}" 2>&1 | tee verify.txt
        [ ! -s verify.txt ] || fail "$(basename "$unit"): $(head -1 verify.txt)"
    done
    note "exposure $(systemd-analyze security vovcam.service --no-pager | tail -1 | grep -o '[0-9]\.[0-9] [A-Z]*')"
}

it starts 'the service finds its camera under all its hardening, as a user of its own'
starts() {
    fresh_service
    systemctl start vovcam
    until_ 60 seen_frames 5
    local user
    user=$(ps -o user= -p "$(property MainPID)")
    [ "$user" != root ] || fail 'it runs as root'
    systemctl stop vovcam
    is Result success || fail "result $(property Result)"
    note "user $user"
}

it notify 'start returns when the first frame was detected, and the status line tells the figures'
notify() {
    fresh_service
    is Type notify || fail "Type=$(property Type)"
    systemctl start vovcam
    seen_frames 1 || fail 'it said ready before the first detection'
    until_ 30 status_has fps
    note "status: $(property StatusText)"
    systemctl stop vovcam
    is Result success || fail "result $(property Result)"
}
status_has() { property StatusText | grep -qi "$1"; }

it ready_without_camera 'without a camera or its driver the service is ready, says so, and works when both come'
ready_without_camera() {
    fresh_service
    is Type notify || fail "Type=$(property Type)"
    no_drivers
    timeout 60 systemctl start vovcam || fail 'start did not return'
    is ActiveState active || fail "$(property ActiveState)"
    note "status: $(property StatusText)"
    status_has 'lost\|no camera\|wait' || fail "status: $(property StatusText)"
    drivers
    until_ 60 seen_frames 2
    systemctl stop vovcam
}

it watchdog 'a program that hangs (SIGSTOP) is restarted by the watchdog'
watchdog() {
    fresh_service
    [ "$(property WatchdogUSec)" != 0 ] || fail 'WatchdogSec is not set'
    systemctl start vovcam
    until_ 60 seen_frames 2
    local before began=$SECONDS
    before=$(restarts)
    kill -STOP "$(property MainPID)"
    until_ 60 restarted_since "$before"
    note "restarted after $((SECONDS - began)) s with WatchdogSec=$(property WatchdogUSec)"
    until_ 30 is ActiveState active
    more_frames 2 60
    systemctl stop vovcam
}

it watchdog_patience 'a camera that stalls for longer than WatchdogSec does not restart the service'
watchdog_patience() {
    fresh_service
    [ "$(property WatchdogUSec)" != 0 ] || fail 'WatchdogSec is not set'
    systemctl start vovcam
    until_ 60 seen_frames 2
    local pid
    pid=$(property MainPID)
    control percentage_of_dropped_buffers=100
    until_ 20 seen_event camera_lost
    sleep 15
    control percentage_of_dropped_buffers=0
    until_ 60 seen_event camera_found
    is MainPID "$pid" || fail 'the service was restarted'
    systemctl stop vovcam
}

it service_kill_9 'after kill -9 the service comes back and the log goes on'
service_kill_9() {
    fresh_service
    systemctl start vovcam
    until_ 60 seen_frames 3
    local before
    before=$(restarts)
    kill -KILL "$(property MainPID)"
    until_ 30 restarted_since "$before"
    more_frames 3 60
    [ "$(grep -c '"type":"run"' $LOG)" = 2 ] || fail 'not two runs in the log'
    every_line_parses 1
    systemctl stop vovcam
}

it reload 'SIGHUP takes new thresholds without losing a frame; a bad file keeps the old ones and says so'
reload() {
    local pid since
    fresh_service 'threshold = 1.0'
    systemctl cat vovcam | grep -q '^ExecReload' || fail 'no ExecReload'
    systemctl start vovcam
    until_ 60 seen_frames 3
    pid=$(property MainPID)
    ! grep -q '"detections":\[{' $LOG || fail 'there were boxes above a threshold of 1'
    sed -i 's/^threshold.*/threshold = 0.0/' $CONFIG
    systemctl reload vovcam
    until_ 30 grep -q '"detections":\[{' $LOG
    since=$(date '+%F %T')
    echo 'treshold = 0.5' >>$CONFIG
    systemctl reload vovcam || true
    more_frames 5
    is MainPID "$pid" || fail 'the service was restarted'
    tail -1 $LOG | grep -q '"detections":\[{\|"type":"stats"' || fail 'the old threshold was given up'
    journal "$since" | grep -q treshold || fail 'nothing was said about the bad file'
    note "bad file: $(journal "$since" | grep -m1 treshold | cut -c1-160)"
    systemctl stop vovcam
    is Result success || fail "result $(property Result)"
}

it bad_settings 'bad settings end the service with 78, and systemd does not try again'
bad_settings() {
    fresh_service 'no_such_key = 1'
    systemctl start vovcam || true
    until_ 30 is ActiveState failed
    is ExecMainStatus 78 || fail "exit status $(property ExecMainStatus)"
    sleep 3
    is NRestarts 0 || fail "$(restarts) restarts"
    systemctl reset-failed vovcam
}

it sigterm 'stopping the service takes less than 3 s and writes the last figures'
sigterm() {
    fresh_service
    systemctl start vovcam
    until_ 60 seen_frames 3
    local at
    at=$(now_ms)
    systemctl stop vovcam
    at=$(($(now_ms) - at))
    note "$at ms"
    [ $at -le 3000 ] || fail "$at ms"
    is Result success || fail "result $(property Result)"
    [ "$(tail -1 $LOG | jq -r .type)" = stats ] || fail "the last line is $(tail -1 $LOG)"
    every_line_parses
}

# A second camera, from the template.
instance() {
    printf '%s\n' 'source = "pattern"' 'fps = 5' 'input = 32' 'size = "64x64"' >/etc/vovcam/other.toml
    systemctl "$@" vovcam@other
}
instance_pid() { systemctl show vovcam@other -p MainPID --value; }

it deb_upgrade 'an upgrade restarts what runs, instances too, and keeps changed settings'
deb_upgrade() {
    fresh_service
    systemctl start vovcam
    instance start
    until_ 60 seen_frames 2
    local pid other
    pid=$(property MainPID) other=$(instance_pid)
    cp $CONFIG before.toml
    dpkg -i --force-confold /host/vovcam.deb
    cmp before.toml $CONFIG || fail 'the settings were overwritten'
    is ActiveState active || until_ 30 is ActiveState active
    [ "$(property MainPID)" != "$pid" ] || fail 'the old program still runs'
    until_ 30 systemctl is-active vovcam@other
    [ "$(instance_pid)" != "$other" ] || fail 'the old program still runs in the instance'
    systemctl stop vovcam@other
    more_frames 2 60
}

it deb_remove 'removing stops what runs, instances too, and keeps settings and log; purging removes them'
deb_remove() {
    fresh_service
    systemctl enable --now vovcam
    instance enable --now
    until_ 60 seen_frames 2
    dpkg -r vovcam
    ! systemctl is-active vovcam || fail 'the service still runs'
    ! systemctl is-active vovcam@other || fail 'the instance still runs'
    rm /etc/vovcam/other.toml
    [ -f $CONFIG ] && [ -f $SERVICE_LOG ] || fail 'settings or log are gone'
    [ ! -e /usr/bin/vovcam ] || fail 'the program is still there'
    dpkg -P vovcam
    local left
    left=$(find / -xdev -name '*vovcam*' -not -path '/proc/*' -not -path '/tmp/*' -not -path '/usr/local/*' \
        -not -path '/host*' -not -path '/var/cache/man/*' -not -path '/run/systemd/system/*' -not -path '/var/log/journal/*' 2>/dev/null | tr '\n' ' ')
    [ -z "$left" ] || fail "left behind: $left"
}
