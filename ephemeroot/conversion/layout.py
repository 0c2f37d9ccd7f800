"""Where root, base, old roots and store will lie on one machine."""

from __future__ import annotations

from dataclasses import dataclass

from ephemeroot.config.fstab import FstabLine
from ephemeroot.config.toml_text import quote
from ephemeroot.conversion.survey import Survey
from ephemeroot.errors import Refused

STORE = "/persistent"
LABEL = "persistent"
"""Of the store's filesystem, where one has to be made."""

_VOLATILE = ("tmpfs", "ramfs", "overlay", "squashfs", "erofs", "iso9660", "nfs", "nfs4")
_LOCAL = ("ext4", "ext3", "xfs", "btrfs", "f2fs")


@dataclass(frozen=True, slots=True)
class Layout:
    """``store`` is the store's path, ``line`` its line in fstab if there is one already.

    For btrfs ``root``, ``base``, ``old_roots``, ``old_bases`` and ``subvolume`` (the
    store's) are paths from the top level; ``root`` differs from the survey's if it must
    become a subvolume of its own first. For ZFS they are datasets. For an overlay ``host`` is
    the volume that the store shares, if it has none of its own.
    """

    wiper: str
    type: str
    device: str
    store: str
    line: FstabLine | None
    root: str = ""
    base: str = ""
    old_roots: str = ""
    old_bases: str = ""
    subvolume: str = ""
    host: FstabLine | None = None

    @classmethod
    def of(cls, survey: Survey) -> Layout:
        """The layout for the machine that was looked at. Raises ``Refused``."""
        line = next((line for line in survey.lines if line.mount_point == STORE), None)
        if survey.type == "btrfs":
            return _btrfs(survey, line)
        if survey.type == "zfs":
            return _zfs(survey, line)
        if survey.type in _VOLATILE:
            raise Refused(
                f"the root is a {survey.type}: there is no installation to convert",
                "if it is ephemeral already, 'ephemeroot status' says by what",
            )
        return _overlay(survey, line)

    @property
    def explanation(self) -> str:
        """What becomes of this machine, in a paragraph."""
        if self.wiper == "btrfs":
            return (
                f"At every boot the subvolume {self.root} will be a new snapshot of {self.base}, "
                f"and the previous one moves to {self.old_roots}. What is installed goes into the "
                f"base. What is declared below comes from {self.store}."
            )
        if self.wiper == "zfs":
            return (
                f"At every boot the dataset {self.root} will be a new clone of {self.base}@blank, "
                f"and the previous one moves to {self.old_roots}. What is declared below comes "
                f"from {self.store}."
            )
        return (
            "At every boot a new layer lies above the installed root, which stays as it is, "
            f"read-only. What is declared below comes from {self.store}. To change the "
            "installation itself, boot with ephemeroot.wipe=no."
        )

    def tables(self) -> str:
        """``[root]`` and the wiper's table."""
        if self.wiper == "btrfs":
            return (
                '[root]\nwiper = "btrfs"\n\n[root.btrfs]\n'
                f"base = {quote(self.base)}\n"
                f"old-roots = {quote(self.old_roots)}\n"
                f"old-bases = {quote(self.old_bases)}         # for 'ephemeroot base rollback'\n"
                "keep-days = 30                       # old roots go after that,\n"
                "keep-last = 3                        # but never the last three\n"
                '# min-free = "10%"                   # less space than that: the oldest go early\n'
            )
        if self.wiper == "zfs":
            return (
                '[root]\nwiper = "zfs"\n\n[root.zfs]\nmode = "rotate"\n'
                f"dataset = {quote(self.root)}\n"
                f"base = {quote(self.base)}\n"
                f"old-roots = {quote(self.old_roots)}\n"
                "keep-days = 30                       # old roots go after that,\n"
                "keep-last = 3                        # but never the last three\n"
            )
        return (
            '[root]\nwiper = "overlay"\n\n[root.overlay]\n'
            f"type = {quote(self.type)}\n"
            f"volume = {quote(self.host.mount_point if self.host else self.store)}"
            "  # where the layers are kept\n"
            "keep-days = 30\nkeep-last = 3\n"
        )


def _btrfs(survey: Survey, line: FstabLine | None) -> Layout:
    root = survey.inner
    if not root or "/.snapshots/" in f"/{root}/":
        # The top level cannot be exchanged, and snapper's snapshots are snapper's to delete.
        root = "@ephemeral" if "@" in root or _others(survey) else "ephemeral"
    parent, _, name = root.rpartition("/")
    beside = f"{parent}/" if parent else ""
    at = "@" if name.startswith("@") else ""
    # Of one root alone: another system on this filesystem has a history of its own.
    of_it = {"root": "", "@": "@"}.get(name, f"{name}-")
    subvolume = (line.option("subvol") or "").strip("/") if line is not None else ""
    return Layout(
        wiper="btrfs",
        type="btrfs",
        device=survey.device,
        store=STORE,
        line=line,
        root=root,
        base=f"{root}-base",
        old_roots=f"{beside}{of_it}old_roots",
        old_bases=f"{beside}{of_it}old_bases",
        subvolume=subvolume or f"{beside}{at}persistent",
    )


def _zfs(survey: Survey, line: FstabLine | None) -> Layout:
    root = survey.inner
    parent, _, _ = root.rpartition("/")
    if not parent:
        raise Refused(
            f"the root is {root}, the pool itself: it can neither be rotated nor given a base",
            f"install the root in a dataset of its own, such as {root}/ROOT/NAME",
        )
    return Layout(
        wiper="zfs",
        type="zfs",
        device=root,
        store=STORE,
        line=line,
        root=root,
        base=f"{parent}/base",
        old_roots=f"{parent}/old-roots",
        subvolume=line.device if line is not None else f"{root.partition('/')[0]}/persistent",
    )


def _others(survey: Survey) -> bool:
    """Whether other subvolumes are called @something, as distributions do."""
    return any((line.option("subvol") or "").strip("/").startswith("@") for line in survey.lines)


def _overlay(survey: Survey, line: FstabLine | None) -> Layout:
    host = None if line is not None else _host(survey)
    return Layout(
        wiper="overlay",
        type=survey.type,
        device=survey.device,
        store=f"{host.mount_point}{STORE}" if host is not None else STORE,
        line=line,
        host=host,
    )


def _host(survey: Survey) -> FstabLine | None:
    """A volume that is there already and can have the store on it, the first in fstab."""
    for line in survey.lines:
        parts = line.mount_point.strip("/").split("/")
        if line.type in _LOCAL and parts[0] not in ("boot", "efi", "usr", "tmp", "media", "mnt"):
            if not {"ro", "noauto", "bind"} & set(line.options):
                return line
    return None
