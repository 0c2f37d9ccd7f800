"""Which files the initramfs needs, put together in a folder and tried there before it is used.

`applied` is where the plan comes from; `tracer` and `closure` find the Python modules,
`elf` and `libraries` what those link to; `wipers` asks what the plan's wipers need; `tree` is
the folder; `units` what systemd reads; `verification` runs the result in a chroot; `assembly`
puts all of it in order. `generators` build images with it and `archive` reads them back.
"""
