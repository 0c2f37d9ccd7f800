"""Opening the bases of the root that a configuration makes fresh."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ephemeroot import backends
from ephemeroot.backends.contract import Bases, no_base
from ephemeroot.config import Configuration, Machine
from ephemeroot.linux.namespace import Namespace
from ephemeroot.machine.root import Root
from ephemeroot.old_roots import persisted


@contextmanager
def opened(
    machine: Machine, configuration: Configuration, private: Namespace, *, writable: bool
) -> Iterator[Bases]:
    """The bases of the configured root. Raises ``Misconfigured`` if the wiper has none."""
    wiping = configuration.wiping
    if wiping is None or wiping.plugin is None:
        raise no_base()
    root = Root.named(machine, wiping.device, wiping.subvolume)
    backend = backends.of(wiping.plugin.wiper(dict(wiping.settings)))
    with backend.bases(root, private, writable=writable) as place:
        place.here = os.path.realpath(machine.root)
        yield place


def kept(machine: Machine, configuration: Configuration) -> frozenset[str]:
    """Paths that a new root does not take from the base: declared paths, and mount points."""
    stores = configuration.stores
    found = {entry.path for store in stores for entry in store.entries}
    found |= {store.path for store in stores}
    found |= {volume.mount_point for volume in configuration.volumes}
    found |= {line.mount_point for line in machine.fstab}
    found |= persisted.mount_points(machine.root)
    return frozenset(found - {"/"})
