"""The machine that most tests boot: Debian with the project installed, configured and applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vm import initramfs, project
from vm.cache import Cache
from vm.disk import Btrfs, Subvolume
from vm.layer import Content, File
from vm.system import System

UUID = "7d0f6c0e-3a5b-4a86-9a0b-0e5c1a2b3c4d"
STORE_UUID = "2f4e8d1c-9b7a-4c3d-8e2f-1a0b9c8d7e6f"

CONFIGURATION = f"""\
[root]
wiper = "btrfs"
# QEMU has the kernel and the initramfs
external-boot = true

[root.btrfs]
base = "root-base"

[[volumes]]
mount-point = "/persistent"
device = "UUID={UUID}"
type = "btrfs"
options = ["subvol=persistent", "noatime"]
timeout = "20s"

[persistence."/persistent"]
hide-mounts = true
directories = [
  "/var/log",
  {{ directory = "/var/lib/colord", user = "games", group = "mail", mode = "u=rwx,g=rx,o=" }},
  "/srv/with blank",
]
files = [
  "/etc/machine-id",
  "/etc/hostname",
  {{ file = "/var/keys/secret_file", parent-directory = {{ mode = "u=rwx,g=,o=" }} }},
]

[persistence."/persistent".users.talyz]
directories = ["Downloads", {{ directory = ".ssh", mode = "0700" }}]
files = [".screenrc"]
"""

# The steps of an administrator, in a root that is not the running one. `apply` does not mark a
# store that is not mounted, and no store is mounted here: the first arguments, up to `--`, are
# stores that already have their marker, as if another installation had made them.
_APPLY = """\
set -e
useradd --create-home --uid 1000 talyz
mkdir /run/machine
mount --rbind / /run/machine
while [ "$1" != -- ]; do
  mkdir -p "$1"
  printf '{"version": 1, "id": "%s"}' "$(cat /proc/sys/kernel/random/uuid)" \
    > "$1/.ephemeroot-store"
  shift
done
shift
[ $# = 0 ] || mkdir -p "$@"
ephemeroot --root /run/machine apply --yes --no-images
"""

# Elsewhere the store is on a separate filesystem; here its directories belong to the layers below
# and cannot be renamed (EXDEV).
_APPLY_AGAIN = """\
set -e
{change}
cp --archive /persistent /persistent.new
rm -r /persistent
mv /persistent.new /persistent
mkdir /run/machine
mount --rbind / /run/machine
ephemeroot --root /run/machine apply --yes --no-images
"""


@dataclass(frozen=True)
class Ephemeral:
    """A system with the project applied; `store` has the files that `apply` wrote into its store.

    `stores` has the same for each store by its path.
    """

    system: System
    store: dict[str, Content] = field(repr=False)
    stores: Mapping[str, dict[str, Content]] = field(repr=False, default_factory=dict)

    def initrd(self, cache: Cache, arguments: tuple[str, ...] = ()) -> Path:
        """Its initramfs, by its own dracut."""
        return initramfs.make(cache, self.system, arguments)

    def applied_again(self, cache: Cache, change: str) -> Ephemeral:
        """The same after the shell command *change* and another `ephemeroot apply`."""
        system = self.system.changed_by(cache, "sh", "-c", _APPLY_AGAIN.format(change=change))
        return Ephemeral(system, files_below(system.layers[-1] / "persistent"))

    def layout(self, *, store: bool = True) -> Btrfs:
        """A disk with base and root, and with the store unless that is on another."""
        fstab = "/dev/vda / btrfs subvol=root 0 0\n"
        stores = (Subvolume("persistent", files=self.store),) if store else ()
        return Btrfs(
            subvolumes=(
                Subvolume("root-base", tree=True, files={"etc/fstab": fstab}),
                Subvolume("root", snapshot_of="root-base"),
                *stores,
            ),
            uuid=UUID,
        )

    def store_disk(self) -> Btrfs:
        """A disk with only the store."""
        return Btrfs(
            subvolumes=(Subvolume("persistent", files=self.store),),
            uuid=STORE_UUID,
            size="512M",
            label="store",
        )


def make(
    cache: Cache,
    image: System,
    package: Path,
    configuration: str = CONFIGURATION,
    adopted: tuple[str, ...] = (),
    *,
    others: Mapping[str, Content] | None = None,
    stores: Sequence[str] = ("/persistent",),
) -> Ephemeral:
    """The Debian `image` with that package and configuration, applied.

    `adopted` are directories that the first store already has, if the root cannot be a source for
    seeding; `others` are further files of the system (`etc/fstab`), `stores` the paths of the
    stores.
    """
    files = {"etc/ephemeroot/ephemeroot.toml": configuration, **(others or {})}
    installed = project.installed(cache, image, package, files)
    there = [*stores, "--", *(f"{stores[0]}/{name}" for name in adopted)]
    system = installed.changed_by(cache, "sh", "-c", _APPLY, "apply", *there)
    made = {path: files_below(system.layers[-1] / path.lstrip("/")) for path in stores}
    return Ephemeral(system, made[stores[0]], made)


def files_below(folder: Path) -> dict[str, Content]:
    """The regular files below `folder`, for a layer or a layout."""
    found: dict[str, Content] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            mode = path.stat().st_mode & 0o7777
            found[str(path.relative_to(folder))] = File(path.read_bytes(), mode)
    return found
