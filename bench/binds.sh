#!/bin/sh
# What people write to make directories persist: `mkdir -p` and `mount --bind` for each.
# Usage: binds.sh STORE ROOT COUNT: binds STORE/srv/dN on ROOT/srv/dN.
set -eu

mount -o remount,rw "$2"
number=0
while [ "$number" -lt "$3" ]; do
  mkdir -p "$2/srv/d$number"
  mount --bind "$1/srv/d$number" "$2/srv/d$number"
  number=$((number + 1))
done
