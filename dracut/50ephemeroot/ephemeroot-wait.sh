#!/bin/sh
# dracut's loop sources this repeatedly in a subshell and ends when it succeeds. The loop unlocks and
# assembles devices (LUKS, LVM, MD), but would otherwise end as soon as the root appears. It runs at
# most twice a second, and not while a passphrase is being typed.

# dracut starts an array that lacks a disk only after two thirds of rd.retry.
ephemeroot_array_is_incomplete() {
    for state in /sys/block/md*/md/array_state; do
        { read -r word < "$state"; } 2> /dev/null && [ "$word" = inactive ] && return 0
    done
    return 1
}

ephemeroot_devices_are_there() {
    while read -r seconds device; do
        [ -e "$device" ] && continue
        if [ "${main_loop:-0}" -ge $((2 * seconds)) ] && ! ephemeroot_array_is_incomplete; then
            # The stage need not wait again.
            mkdir -p /run/ephemeroot
            : > /run/ephemeroot/waited
            continue
        fi
        # In the next iteration dracut would give up; the stage reports the missing device.
        [ "${main_loop:-0}" -ge "${RDRETRY:-360}" ] || return 1
    done < /usr/lib/ephemeroot/devices
    return 0
}

ephemeroot_devices_are_there
