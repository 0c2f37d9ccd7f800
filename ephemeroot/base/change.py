"""What changes a base: made of the running root, changed by a command, taken back.

Each is a rotation: a copy is made and proven, takes the base's place in one step, and the
base that was stays for a while. Until that step nothing has changed that is not put back.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ephemeroot.base import assembly, bootfiles, command, kernels
from ephemeroot.base.assembly import Assembly
from ephemeroot.base.place import Opened
from ephemeroot.base.record import Record
from ephemeroot.errors import Damaged, EphemerootError, Misconfigured, Refused
from ephemeroot.hooks import proofs
from ephemeroot.image import archive
from ephemeroot.wipers import marks
from ephemeroot.wipers.btrfs import subvolumes
from ephemeroot.wipers.btrfs.recovery import Recovery
from ephemeroot.wipers.contract import Outcome
from ephemeroot.wipers.oldroot import OldRoot

Log = Callable[[str], None]

_KERNEL = re.compile(r"vmlinuz-(\d+\.\d.*)")
_SMALL = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class CommandFailed(EphemerootError):
    """The command that was to change the base did not succeed; the base is unchanged."""


def recover(opened: Opened, log: Log) -> None:
    """Complete or take back what an earlier run left, as it left it."""
    _recover(opened, log, cut_off=True)


def _recover(opened: Opened, log: Log, *, cut_off: bool) -> None:
    Record(opened).recover(log, cut_off=cut_off)
    for directory, leftover in opened.bases.leftovers():
        line = Recovery(opened.bases, directory, leftover).execute()
        if line:
            log(line)


def create(opened: Opened, log: Log, *, dry_run: bool) -> Outcome:
    """Make the first base, a copy of the running root. Raises ``Refused``."""
    place = opened.place
    if opened.uuid(place.base) is not None:
        raise Misconfigured(
            f"there is a base already: {place.base}",
            "'ephemeroot base run' changes it, 'ephemeroot base list' shows it",
        )
    if opened.uuid(place.root) != _running():
        raise Refused(
            f"the running root is not the subvolume {place.root!r} on {place.device}",
            "boot it, or name the right one: 'findmnt /' shows what is mounted",
        )

    def prove(path: str) -> None:
        fd = os.open(path, _DIRECTORY)
        try:
            _prove_whole(opened, fd, os.uname().release)
            if not dry_run:
                _mark(fd)
        finally:
            os.close(fd)

    with _settled(opened, log, dry_run=dry_run):
        return opened.rotation(prove, log, source=place.root, dry_run=dry_run).run()


def run(
    opened: Opened,
    words: Sequence[str] | None,
    log: Log,
    *,
    confirm: Callable[[], None],
    output: int | None = None,
) -> Outcome:
    """Run *words* (``None``: a shell, and then ``confirm``) in a copy of the base, which then
    takes its place. What is printed there goes to the descriptor *output* if there is one.

    Raises ``CommandFailed``, ``Interrupted``, whatever ``confirm`` raises, and ``Refused``
    if what came of it could not boot: everything is then as it was.
    """
    base = _writable_base(opened)
    record = Record(opened)
    try:
        with _settled(opened, log):
            record.write(log)
            work = _Work(opened, record, base, words, confirm, output)
            outcome = opened.rotation(work, log).run()
            record.conclude(log)
    finally:
        os.close(base)
    return outcome


def rollback(opened: Opened, entry: OldRoot, log: Log, *, dry_run: bool) -> Outcome:
    """Put a copy of the old base *entry* in the place of the base, which becomes an old one.

    It gets the modules of the kernels that only the present one knows: they are what the
    boot loader has.
    """

    def prove(path: str) -> None:
        fd = os.open(path, _DIRECTORY)
        try:
            if dry_run:
                return
            base = opened.subvolume(opened.place.base)
            try:
                for release in kernels.carry_over(base, fd) if base >= 0 else []:
                    log(f"take the modules of the kernel {release} along")
            finally:
                if base >= 0:
                    os.close(base)
            _prove_whole(opened, fd, None)
            _mark(fd)
        finally:
            os.close(fd)

    with _settled(opened, log, dry_run=dry_run):
        return opened.rotation(prove, log, old=entry.label, dry_run=dry_run).run()


@contextmanager
def _settled(opened: Opened, log: Log, *, dry_run: bool = False) -> Iterator[None]:
    """Complete or take back what is done inside if it fails or is interrupted.

    An interruption can arrive after the exchange: which of the two it is is read from the
    disk, as after a power cut, and never from how far the code has come.
    """
    try:
        yield
    except BaseException:
        if not dry_run:
            _recover(opened, log, cut_off=False)
        raise


class _Work:
    """What happens in the copy before it takes the base's place: called with its path."""

    def __init__(
        self,
        opened: Opened,
        record: Record,
        base: int,
        words: Sequence[str] | None,
        confirm: Callable[[], None],
        output: int | None,
    ) -> None:
        self.opened = opened
        self.record = record
        self.base = base
        self.words = words
        self.confirm = confirm
        self.output = output

    def __call__(self, path: str) -> None:
        fd = os.open(path, _DIRECTORY)
        try:
            self._work(fd, self.opened.relative(path))
        except BaseException:
            # What the command made of subvolumes would keep the copy from being deleted.
            self._delete_nested(fd)
            raise
        finally:
            os.close(fd)

    def _work(self, copy: int, temporary: str) -> None:
        tree = assembly.assemble(
            copy, self.opened.private, temporary=temporary, root=self.opened.place.root
        )
        try:
            self._share_modules(tree)
            words = self.words or command.shell(tree.path)
            status = command.run(tree.path, words, self.output)
            if self.words is None:
                self.confirm()
            elif status:
                raise CommandFailed(
                    f"{self.words[0]} ended with exit status {status}", "the base is unchanged"
                )
            _require_whole(tree)
        finally:
            tree.detach()
        assembly.remove_made(copy, tree.made)
        self._take_modules(copy)
        self._require_kernels(copy)
        self._require_no_mention(temporary)
        _mark(copy)

    def _share_modules(self, tree: Assembly) -> None:
        """New kernels put their modules into the base that is still in its place: if the
        power fails now, it is what boots, perhaps with that kernel.
        """
        folder = kernels.folder(self.base)
        if folder is None:
            return
        parent = kernels.parent(self.base)
        try:
            modules = os.open(os.path.basename(folder), _DIRECTORY, dir_fd=parent)
            try:
                assembly.bind(modules, tree, f"/{folder}")
            finally:
                os.close(modules)
        finally:
            os.close(parent)

    def _take_modules(self, copy: int) -> None:
        ours = kernels.parent(self.base)
        if ours < 0:
            return
        try:
            theirs = kernels.parent(copy)
            if theirs < 0:
                raise Refused("the command has removed the directory of the kernel modules")
            try:
                kernels.put(ours, "modules", theirs, "modules")
            finally:
                os.close(theirs)
        finally:
            os.close(ours)

    def _require_kernels(self, copy: int) -> None:
        known = kernels.releases(copy)
        for point in bootfiles.mounted() if known else []:
            for name in bootfiles.files(Path(point)):
                match = _KERNEL.fullmatch(os.path.basename(name))
                if match and match[1] not in known:
                    raise Refused(
                        f"{point}/{name} would find no modules in the new base",
                        f"install or remove the kernel {match[1]} completely",
                    )

    def _require_no_mention(self, temporary: str) -> None:
        """Nothing that boots may name the copy: that name is gone a moment later."""
        for number, point in enumerate(bootfiles.mounted()):
            saved = self.record.folder / f"boot-{number}"
            for name in bootfiles.changed(saved, Path(point)):
                if _mentions(Path(point, name), os.fsencode(temporary)):
                    raise Refused(
                        f"{point}/{name} was made for the temporary subvolume {temporary}",
                        'for dracut, set hostonly_cmdline="no" and name the root on the '
                        "kernel command line",
                    )

    def _delete_nested(self, copy: int) -> None:
        top = self.opened.top.fd
        for _, number in subvolumes.nested(copy, subvolumes.identify(copy).id):
            subvolumes.delete(top, number)


def _writable_base(opened: Opened) -> int:
    base = opened.place.base
    fd = opened.subvolume(base)
    if fd < 0:
        raise Misconfigured(f"there is no base {base} yet", "'ephemeroot base create' makes it")
    if subvolumes.is_read_only(fd):
        os.close(fd)
        raise Refused(
            f"the base {base} is a read-only subvolume",
            "'btrfs property set -ts PATH ro false' makes it writable",
        )
    return fd


def _prove_whole(opened: Opened, copy: int, release: str | None) -> None:
    """Raise ``Refused`` unless the open *copy*, with all that is mounted on this
    machine, could boot.
    """
    tree = assembly.assemble(copy, opened.private)
    try:
        _require_whole(tree, release)
    finally:
        tree.detach()
        assembly.remove_made(copy, tree.made)


def _require_whole(tree: Assembly, release: str | None = None) -> None:
    fd = os.open(tree.path, _DIRECTORY)
    try:
        proofs.require_whole(fd, None, release)
    finally:
        os.close(fd)


def _mark(copy: int) -> None:
    """It is no fresh root that may be thrown away."""
    marks.set_state(copy, subvolumes.identify(copy).uuid, marks.LIVED)


def _running() -> str | None:
    """The UUID of the subvolume that is mounted at /; ``None`` if that is none."""
    fd = os.open("/", _DIRECTORY)
    try:
        if not subvolumes.is_subvolume(fd):
            return None
        return subvolumes.identify(fd).uuid
    except OSError:  # no btrfs at all
        return None
    finally:
        os.close(fd)


def _mentions(path: Path, name: bytes) -> bool:
    if path.is_symlink():
        return False
    if path.stat().st_size <= _SMALL:
        return name in path.read_bytes()
    if not path.name.startswith(("initr", "initramfs")):
        return False
    try:
        image = archive.read(path, lambda member: member.startswith("etc/cmdline"))
    except Damaged:
        return False  # not an image after all
    return any(name in content for content in image.files.values())
