#!/bin/sh
# dracut sources this before its emergency shell, which it opens if the root's device is missing, before
# the wipe has run. The stage then names the missing device and applies its policy; without the device
# it cannot wipe. With rd.break=, the administrator only wants a shell.
if [ ! -e /run/ephemeroot/boot.json ] && ! getarg rd.break > /dev/null && ! getarg rd.break= > /dev/null; then
    ephemeroot_device=$(label_uuid_to_dev "$(getarg root=)")
    if [ "${ephemeroot_device#/dev/}" != "$ephemeroot_device" ] && [ ! -e "$ephemeroot_device" ]; then
        mkdir -p /run/ephemeroot
        : > /run/ephemeroot/waited # the stage need not wait again
        /bin/sh /usr/lib/ephemeroot/boot wipe "${NEWROOT:-/sysroot}"
    fi
    unset ephemeroot_device
fi
