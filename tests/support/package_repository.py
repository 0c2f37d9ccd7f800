"""A repository of Debian packages that a test makes, and systems that use it."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

DATABASE = (
    "etc/apt", "opt", "var/cache/apt/archives/partial", "var/lib/apt/lists/partial",
    "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log/apt",
)  # fmt: skip


def configure(root: Path, place: str) -> None:
    """Give the system at *root* an empty package database, and the repository at *place*."""
    for name in DATABASE:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("status", "available"):
        (root / "var/lib/dpkg" / name).touch()
    (root / "etc/apt/sources.list").write_text(f"deb [trusted=yes] file:{place} ./\n")
    # Without the files that apt only keeps as a cache: they contain times.
    (root / "etc/apt/apt.conf").write_text(
        'APT::Sandbox::User "root"; Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";\n'
    )


class Repository:
    """A repository in the new directory *place*; *folder* is for the trees of its packages."""

    def __init__(self, place: Path, folder: Path) -> None:
        self.place = place
        self.place.mkdir()
        self.folder = folder
        self._index: dict[str, str] = {}
        self._write()

    def publish(
        self, name: str, version: str, files: dict[str, str], scripts: dict[str, str] | None = None
    ) -> None:
        """Publish a package with these *files*, those below /etc as configuration files; *scripts*
        are the maintainer scripts, such as ``postinst``. It replaces an older version in the index.
        """
        tree = self.folder / f"{name}_{version}"
        control = (
            f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
            f"Maintainer: nobody <nobody@localhost>\nDescription: for a test\n"
        )
        for path, text in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(text)
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(control)
        kept = [f"/{path}\n" for path in files if path.startswith("etc/")]
        (tree / "DEBIAN/conffiles").write_text("".join(kept))
        for script, text in (scripts or {}).items():
            (tree / "DEBIAN" / script).write_text(f"#!/bin/sh\n{text}\n")
            (tree / "DEBIAN" / script).chmod(0o755)
        package = self.place / f"{name}_{version}_all.deb"
        subprocess.run(
            ["dpkg-deb", "--build", "--root-owner-group", tree, package],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        content = package.read_bytes()
        self._index[name] = (
            f"{control}Filename: ./{package.name}\nSize: {len(content)}\n"
            f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
        )
        self._write()

    def _write(self) -> None:
        (self.place / "Packages").write_text("\n".join(self._index.values()))
