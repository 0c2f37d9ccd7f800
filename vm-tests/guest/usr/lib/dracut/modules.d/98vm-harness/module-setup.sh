#!/bin/bash
# What the virtual machine harness needs in an initramfs: its disks and port, and a word in an emergency.

check() {
    # only when asked for with --add
    return 255
}

depends() {
    return 0
}

installkernel() {
    instmods virtio_console virtio_blk virtio_pci virtio_rng btrfs
}

install() {
    inst_multiple base64 dmesg sleep
    inst_multiple -o journalctl
    inst_simple /usr/lib/vm-harness/report
    # shellcheck disable=SC2154  # moddir is dracut's
    # With rd.shell=0 dracut runs the hooks of the second kind instead of the first, with or without systemd.
    # The last of all: others may have something to say, or to decide.
    inst_hook emergency 99 "$moddir/vm-report.sh"
    inst_hook shutdown-emergency 99 "$moddir/vm-report.sh"
}
