"""Systems: trees stacked on each other, and the matching kernel; a machine runs one of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vm.cache import Cache, build_of, digest
from vm.command import run
from vm.sandbox import in_layers


@dataclass(frozen=True)
class System:
    """A system: `layers` (the last one on top), its `kernel`, and that one's version as `release`.

    `key` identifies all inputs.
    """

    layers: tuple[Path, ...]
    kernel: Path
    release: str
    key: str

    def on_top(self, folder: Path) -> System:
        """This system with another layer (see `vm.layer`) on top."""
        key = digest(self.key, folder.name, build_of(folder))
        return System((*self.layers, folder), self.kernel, self.release, key)

    def run(self, cache: Cache, *argv: str | Path, results: Path | None = None) -> str:
        """Run a program in a throw-away chroot of the system; return its stdout.

        Files that it writes to `/run/results` are moved into the folder `results`. /proc, /sys and
        /dev are mounted, and /sys is read-only. Raises CommandFailed, but moves the results first.
        """
        with cache.scratch("chroot") as scratch:
            try:
                return run(in_layers(scratch, self.layers, argv))
            finally:
                if results is not None:
                    for made in (scratch / "results").iterdir():
                        made.rename(results / made.name)

    def changed_by(self, cache: Cache, *argv: str | Path) -> System:
        """The system after a program has changed it, run in a chroot (or taken from the cache).

        For the work of an administrator: `changed_by(cache, "useradd", "talyz")`. Raises
        CommandFailed.
        """

        def build(folder: Path) -> None:
            with cache.scratch("chroot") as scratch:
                run(in_layers(scratch, self.layers, argv))
                # The folder must be the layer itself, with the modes and attributes of its root.
                folder.rmdir()
                (scratch / "changes").rename(folder)

        key = digest(self.key, [str(word) for word in argv])
        return self.on_top(cache.entry("layer", key, build, keep=60))

    def copy_to(self, cache: Cache, target: Path) -> None:
        """Put the whole tree, with owners, modes and extended attributes, into the folder
        `target`."""
        # From the stack rather than layer by layer, so that files removed by an upper layer are
        # missing.
        with cache.scratch("copy") as scratch:
            (scratch / "results").symlink_to(target)
            words = ["cp", "--archive", "--one-file-system", "/.", "/run/results/"]
            run(in_layers(scratch, self.layers, words))
