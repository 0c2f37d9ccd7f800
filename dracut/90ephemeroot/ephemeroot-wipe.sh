#!/bin/sh
# dracut's own init sources this before the root is mounted, after resume's hook. It ignores what
# a hook returns: only `die` keeps it from booting on.
# shellcheck disable=SC2154  # NEWROOT and die are dracut's
/bin/sh /usr/lib/ephemeroot/boot wipe "$NEWROOT" || die "ephemeroot: the root was not made fresh"
