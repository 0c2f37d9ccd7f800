#!/bin/sh
# dracut's own init sources this after resume, before the root is mounted. If the wiper mounts the root,
# it does so up to 20 times until that is done; the stage wipes once in a boot. The exit status of a
# hook is ignored: only `die` stops the boot.
# shellcheck disable=SC2154  # NEWROOT and die are dracut's
/bin/sh /usr/lib/ephemeroot/boot wipe "$NEWROOT" || die "ephemeroot: the root was not made fresh"
