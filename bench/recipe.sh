#!/usr/bin/env bash
# The shell recipe that most machines with a btrfs root run today, its steps written anew:
# what the benchmark compares with, and what the tests show the failures of.
# Usage: recipe.sh DEVICE MOUNT-POINT. The root is `root`, old roots go to `old_roots`.
set -u

device=$1 top=$2

delete_recursively() {
  local below
  while IFS= read -r below; do
    delete_recursively "$top/$below"
  done < <(btrfs subvolume list -o "$1" | cut -d ' ' -f 9-)
  btrfs subvolume delete "$1"
}

mkdir -p "$top"
mount "$device" "$top" || exit 1
if [ -e "$top/root" ]; then
  mkdir -p "$top/old_roots"
  modified=$(stat -c %Y "$top/root")
  mv "$top/root" "$top/old_roots/$(date --date="@$modified" '+%Y-%m-%-d_%H:%M:%S')"
fi
while IFS= read -r old; do
  delete_recursively "$old"
done < <(find "$top/old_roots/" -maxdepth 1 -mtime +30)
btrfs subvolume create "$top/root"
umount "$top"
