#!/bin/sh
# boot wipe|persist|inert [TARGET]: run one stage, and follow a policy if it cannot start.
#
# The stage itself is Python (boot.pyc beside this file). Its exit status: 0, 10, 11 and 12 continue
# (11: another root than the plan's boots, untouched; 12: the layer above the installed root is in
# memory), 71 reboot, 72 power off, 73 fail closed. After any other status (no interpreter, a crash, a
# damaged plan) the policies in `settings` decide.

folder=${0%/*}
stage=$1
target=${2:-/sysroot}

python=/usr/bin/python3
libraries=
checks=
options=
layered=
wipe=keep
store=emergency
# shellcheck source=/dev/null  # written by `ephemeroot image`
[ -r "$folder/settings" ] && . "$folder/settings"

# Log to the kernel log and to the console.
say() {
    { printf '<2>ephemeroot: %s\n' "$1" >> /dev/kmsg; } 2> /dev/null
    { printf 'ephemeroot: %s\r\n' "$1" >> /dev/console; } 2> /dev/null
}

# systemd's words for false
is_off() {
    case $1 in
        0 | [nN] | [nN][oO] | [fF] | [fF][aA][lL][sS][eE] | [oO][fF][fF]) return 0 ;;
        *) return 1 ;;
    esac
}

# The last occurrence of a parameter takes precedence, as for the kernel's own.
read_command_line() {
    everything=on wiping=on persistence=on override=
    [ -e /proc/vmcore ] && crash=on || crash=
    set -f
    read -r line < /proc/cmdline
    for word in $line; do
        value=${word#*=}
        case $word in
            ephemeroot=*) is_off "$value" && everything=off || everything=on ;;
            ephemeroot.wipe=*) is_off "$value" && wiping=off || wiping=on ;;
            ephemeroot.persist=*) is_off "$value" && persistence=off || persistence=on ;;
            ephemeroot.on[-_]failure=*) override=$value ;;
            elfcorehdr=*) crash=on ;;
        esac
    done
    set +f
}

# Never returns success, so that the boot does not continue before the machine goes down.
leave() {
    say "$1 in 10 seconds"
    sleep 10
    systemctl --force "$1" 2> /dev/null || "$1" -f
    sleep 60
    say "$1 failed"
    exit 1
}

# follow KIND RESCUE: apply the on-failure policy for that kind of failure; ephemeroot.on-failure=
# on the command line replaces all of them. RESCUE is printed before the emergency shell.
follow() {
    case $1 in wipe) policy=$wipe ;; *) policy=$store ;; esac
    case $override in keep | continue | emergency | reboot | poweroff) policy=$override ;; esac
    case $policy:$stage in
        keep:wipe | continue:wipe)
            if [ -z "$layered" ]; then
                say "the root is kept: nothing was wiped"
                exit 0
            fi
            say "the installed root is not booted without a layer above it"
            ;;
        keep:* | continue:*)
            say "the boot continues WITHOUT PERSISTENT PATHS: changes to them are lost"
            exit 0
            ;;
        reboot:* | poweroff:*) leave "$policy" ;;
    esac
    say "$2"
    exit 1
}

# The stage ended without applying a policy; $1 is the reason.
decide() {
    say "$stage failed: $1"
    case $stage:$wiping:$persistence in
        wipe:off:* | persist:*:off) exit 0 ;;
        wipe:*) follow wipe "to boot without wiping, append ephemeroot.wipe=no to the kernel command line" ;;
    esac
    follow store "to boot without persistence, append ephemeroot=no to the kernel command line"
}

# A volume with a failed check must not be mounted, so nothing may be wiped either.
require_checked() {
    case $stage:$wiping:$persistence in wipe:off:* | persist:*:off) return ;; esac
    for unit in $checks; do
        systemctl --quiet is-failed "$unit" || continue
        say "$stage failed: $unit found errors that it could not correct"
        follow store "run fsck(8) on that filesystem; to boot without persistence, append ephemeroot=no to the kernel command line"
    done
}

case $stage in
    inert)
        while read -r line; do say "$line"; done < "$folder/inert"
        exit 0
        ;;
    wipe | persist) ;;
    *)
        say "wrong usage: boot $*"
        exit 2
        ;;
esac

read_command_line
[ "$everything" = off ] && exit 0
# A crash kernel has the crashed system's root and little memory: the interpreter is not started.
if [ -n "$crash" ]; then
    say "this is a crash kernel: it wipes nothing and mounts no declared path"
    exit 0
fi
require_checked

# The kernel drops lines beyond ten in five seconds; systemd also turns that limit off.
rate=/proc/sys/kernel/printk_devkmsg
{ read -r limit < "$rate" && echo on > "$rate"; } 2> /dev/null
[ -n "$libraries" ] && export LD_LIBRARY_PATH="$libraries"
# shellcheck disable=SC2086  # no option or several
"$python" -I -S -B "$folder/boot.pyc" "$stage" --plan "$folder/plan.json" --target "$target" --boot $options
status=$?
unset LD_LIBRARY_PATH
{ echo "${limit:-ratelimit}" > "$rate"; } 2> /dev/null
case $status in
    0 | 10 | 11 | 12) exit 0 ;;
    71) leave reboot ;;
    72) leave poweroff ;;
    73) exit 1 ;;
    3) decide "another run holds the lock" ;;
    20) decide "the plan in this image cannot be used" ;;
    70) decide "the boot code has a bug or is damaged, see the lines above" ;;
    126 | 127) decide "the interpreter $python cannot be started (exit $status)" ;;
    *) decide "the boot code ended with exit status $status" ;;
esac
