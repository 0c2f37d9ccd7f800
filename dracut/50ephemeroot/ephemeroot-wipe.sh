#!/bin/sh
# dracut's own init sources this before the root is mounted, after resume; or up to 20 times until
# it is, where the wiper mounts it: the stage wipes once in a boot. What a hook returns is ignored:
# only `die` keeps init from booting on.
# shellcheck disable=SC2154  # NEWROOT and die are dracut's
/bin/sh /usr/lib/ephemeroot/boot wipe "$NEWROOT" || die "ephemeroot: the root was not made fresh"
