#!/bin/sh
# dracut's own init sources this on the mounted root, before the hook that mounts /usr, which must see
# the final /etc/fstab. It ignores the exit status of a hook: only `die` stops the boot.
# shellcheck disable=SC2154  # NEWROOT, hookdir and die are dracut's
/bin/sh /usr/lib/ephemeroot/boot persist "$NEWROOT" || die "ephemeroot: declared paths were not mounted"
# If /usr is a volume, it is mounted already, and that hook would check its filesystem again.
if ismounted "$NEWROOT/usr"; then
    for usr in "$hookdir"/pre-pivot/*-mount-usr.sh; do
        [ ! -e "$usr" ] || : > "$usr"
    done
    unset usr
fi
