#!/bin/sh
# dracut's own init sources this in an inert image: it prints the reason.
/bin/sh /usr/lib/ephemeroot/boot inert
