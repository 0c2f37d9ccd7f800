#!/bin/bash
# `ephemeroot image` selects all files and collects them in a folder; this module copies them.
# The folder of this module has `ephemeroot`, a link to the program, and the two files by which an image
# reports at boot that the program was missing (all three by `ephemeroot setup dracut`).

# shellcheck disable=SC2154  # moddir and initdir are dracut's

# called by dracut
check() {
    [[ $mount_needs ]] && return 1
    ephemeroot_for_a_crash && return 1
    return 0
}

# An image for a crash kernel writes a dump and must neither wipe nor bind: kdump-utils (Fedora) sets
# IN_KDUMP and adds kdumpbase, openSUSE's kdump and SteamOS's name their module kdump.
ephemeroot_for_a_crash() {
    [[ ${IN_KDUMP-} == 1 ]] && return 0
    local asked=" ${dracutmodules-} ${add_dracutmodules-} ${force_add_dracutmodules-} "
    [[ $asked == *\ kdump\ * || $asked == *\ kdumpbase\ * ]]
}

# called by dracut: other modules that the plan's volumes need. dracut would leave this module out if a
# dependency is missing, so it is not listed, and the image reports at boot what it lacks.
depends() {
    local name folder
    for name in $("$moddir/ephemeroot" image --dracut-modules); do
        for folder in "${moddir%/*}"/*; do
            [[ ${folder##*/} =~ ^[0-9-]+$name$ ]] && echo "$name" && continue 2
        done
        derror "ephemeroot: dracut's module $name is not installed (Debian: dracut-network)"
    done
    return 0
}

# called by dracut
install() {
    local made="$DRACUT_TMPDIR/ephemeroot" init=none loop=() status kind hook priority file
    if dracut_module_included rescue; then
        dinfo "ephemeroot: a rescue image never wipes: nothing added"
        return 0
    fi
    if dracut_module_included kdumpbase || ephemeroot_for_a_crash; then
        dinfo "ephemeroot: an image for a crash kernel never wipes: nothing added"
        return 0
    fi
    # Without an emergency shell a stage that fails closed would hang.
    if dracut_module_included dracut-systemd; then
        init=systemd loop=(--initqueue)
    elif dracut_module_included systemd-emergency; then
        init=systemd
    elif ! dracut_module_included systemd; then
        init=dracut
    fi
    mkdir -p "$made"
    "$moddir/ephemeroot" image --into "$made" --init "$init" "${loop[@]}" > "$made.list"
    status=$?
    case $status in
        0) ;;
        10) derror "ephemeroot: THIS IMAGE IS INERT, it neither wipes nor persists (see above)" ;;
        *) ephemeroot_absent "$made/tree" "$status" "$init" ;;
    esac
    # Programs that the policies call; dracut's module shutdown adds them, but may be left out.
    [[ $init == dracut && -s $made.list ]] && inst_multiple -o sleep reboot poweroff
    # An image with half of the files could boot without the data: build none instead.
    if [[ -d $made/tree ]] && ! cp -dR --preserve=mode,timestamps "$made/tree/." "$initdir/"; then
        dfatal "ephemeroot: cannot copy $made/tree into the image"
        exit 1
    fi
    while IFS=$'\t' read -r kind hook priority file; do
        [[ $kind == hook ]] || continue
        inst_hook "$hook" "$priority" "$file"
        [[ $hook == initqueue/* ]] && dracut_need_initqueue
    done < "$made.list"
    return 0
}

# called by dracut, after install
installkernel() {
    local made="$DRACUT_TMPDIR/ephemeroot" kind name
    [[ -e $made.list ]] || return 0
    while IFS=$'\t' read -r kind name _; do
        # shellcheck disable=SC2034  # dracut's instmods reads it
        [[ $kind == module ]] && hostonly='' instmods "$name"
    done < "$made.list"
    return 0
}

# The program cannot run: if a plan is applied here, the image must report that at boot.
ephemeroot_absent() {
    : > "$made.list"
    [[ -e ${dracutsysrootdir-}/etc/ephemeroot/plan.json ]] || return 0
    derror "ephemeroot: \`ephemeroot image\` failed ($2): THIS IMAGE IS INERT"
    [[ $3 == dracut ]] && printf 'hook\tpre-mount\t50\t%s\n' "$moddir/ephemeroot-inert.sh" > "$made.list"
    rm -rf "$1"
    mkdir -p "$1/usr/lib/ephemeroot" "$1/usr/lib/systemd/system/initrd.target.wants"
    cp "$moddir/boot" "$1/usr/lib/ephemeroot/"
    cp "$moddir/ephemeroot-inert.service" "$1/usr/lib/systemd/system/"
    ln -s ../ephemeroot-inert.service "$1/usr/lib/systemd/system/initrd.target.wants/"
    printf '%s\n' "THIS INITRAMFS IS INERT: nothing is wiped, and no declared path persists." \
        "The reason: \`ephemeroot image\` failed with exit status $2 when the image was built." \
        "Repair it and run \`ephemeroot apply\`." > "$1/usr/lib/ephemeroot/inert"
}
