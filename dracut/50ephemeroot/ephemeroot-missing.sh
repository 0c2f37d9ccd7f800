#!/bin/sh
# dracut sources this before its emergency shell. That it opens by itself where the root's device stays
# away, and then the wipe never had its turn: the stage names the missing device and follows its policy. Without
# the device it can wipe nothing; and with rd.break= the administrator only wants a shell.
if [ ! -e /run/ephemeroot/boot.json ] && ! getarg rd.break > /dev/null && ! getarg rd.break= > /dev/null; then
    ephemeroot_device=$(label_uuid_to_dev "$(getarg root=)")
    if [ "${ephemeroot_device#/dev/}" != "$ephemeroot_device" ] && [ ! -e "$ephemeroot_device" ]; then
        mkdir -p /run/ephemeroot
        : > /run/ephemeroot/waited # the stage need not wait again
        /bin/sh /usr/lib/ephemeroot/boot wipe "${NEWROOT:-/sysroot}"
    fi
    unset ephemeroot_device
fi
