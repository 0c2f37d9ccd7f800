#!/bin/sh
# dracut's own init sources this: it does not boot a root= that no script claims, and a root that is on no
# device is claimed here. Whether it is the right one, the wiper says.
# shellcheck disable=SC2154,SC2034  # init's
[ -z "$root" ] || rootok=1
