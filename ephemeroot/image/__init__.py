"""Collecting the files for the initramfs in a folder, which is tested there before it is used.

`applied` provides the plan; `tracer` and `closure` find the Python modules, `elf` and `libraries`
the shared libraries; `wipers` collects the needs of the plan's wipers; `tree` is the folder;
`units` writes the systemd units; `verification` runs the result in a chroot; `assembly` calls all
of them.
`generators` build images from the folder, and `archive` reads the images back.
"""
