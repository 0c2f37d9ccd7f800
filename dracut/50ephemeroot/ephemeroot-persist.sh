#!/bin/sh
# dracut's own init sources this on the mounted root, before its hook that mounts /usr: that one
# must see the final /etc/fstab. It ignores what a hook returns: only `die` keeps it from booting on.
# shellcheck disable=SC2154  # NEWROOT, hookdir and die are dracut's
/bin/sh /usr/lib/ephemeroot/boot persist "$NEWROOT" || die "ephemeroot: declared paths were not mounted"
# Where /usr is a volume it is mounted now, and that hook would check its filesystem again.
if ismounted "$NEWROOT/usr"; then
    for usr in "$hookdir"/pre-pivot/*-mount-usr.sh; do
        [ ! -e "$usr" ] || : > "$usr"
    done
    unset usr
fi
