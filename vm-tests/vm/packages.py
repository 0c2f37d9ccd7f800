"""Single Debian packages, as files: to install an older one first, to upgrade to a newer one."""

from __future__ import annotations

import hashlib
import lzma
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vm import debian
from vm.cache import Cache, digest
from vm.command import Unavailable, run


@dataclass(frozen=True)
class Package:
    """The entry of one package in an archive's index; `suite` is where it was found."""

    name: str
    version: str
    file: str
    size: int
    sha256: str
    suite: str
    depends: str = field(default="", repr=False)


def index(suite: str) -> list[Package]:
    """All packages of that suite's main, for amd64. Raises Unavailable without the archive."""
    text = lzma.decompress(_get(f"dists/{suite}/main/binary-amd64/Packages.xz")).decode()
    found = []
    for paragraph in text.split("\n\n"):
        lines = [line.split(": ", 1) for line in paragraph.splitlines() if ": " in line]
        fields = {key: value for key, value in lines if not key.startswith(" ")}
        if "Package" in fields:
            found.append(
                Package(
                    fields["Package"],
                    fields["Version"],
                    fields["Filename"],
                    int(fields["Size"]),
                    fields["SHA256"],
                    suite,
                    fields.get("Depends", ""),
                )
            )
    return found


def download(cache: Cache, package: Package) -> Path:
    """The package's file, from the cache if possible."""

    def build(folder: Path) -> None:
        content = _get(package.file)
        if hashlib.sha256(content).hexdigest() != package.sha256:
            raise Unavailable(f"the archive's {package.file} is not what its index says")
        (folder / Path(package.file).name).write_bytes(content)

    entry = cache.entry("package", digest(repr(package)), build, keep=12)
    return next(entry.iterdir())


def repacked(
    cache: Cache, deb: Path, wanted: Callable[[str], bool], recipe: Sequence[object]
) -> Path:
    """The same package with only the files that are *wanted* by path, hardly compressed.

    Its scripts are unchanged. `recipe` describes `wanted` for the key of the cache.
    """

    def build(folder: Path) -> None:
        with cache.scratch("deb") as scratch:
            tree = scratch / "tree"
            run(["dpkg-deb", "--raw-extract", deb, tree])
            for path in sorted(tree.rglob("*"), reverse=True):
                name = str(path.relative_to(tree))
                if name.startswith("DEBIAN") or path.is_dir() or wanted(name):
                    continue
                path.unlink()
            sums = tree / "DEBIAN/md5sums"
            kept = [line for line in sums.read_text().splitlines() if wanted(line.split("  ")[1])]
            sums.write_text("".join(f"{line}\n" for line in kept))
            command: list[str | Path] = [
                "dpkg-deb",
                "--root-owner-group",
                "-Zgzip",
                "-z1",
                "--build",
                tree,
            ]
            run([*command, folder / deb.name])

    entry = cache.entry(
        "package", digest(deb.name, deb.stat().st_size, list(recipe)), build, keep=12
    )
    return entry / deb.name


def depending(cache: Cache, name: str, version: str, depends: str) -> Path:
    """A package without content that only depends on another, as an archive has one for the newest
    kernel.
    """
    text = (
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nDepends: {depends}\n"
        "Maintainer: The Archive <archive@localhost>\nDescription: the newest of its kind\n"
    )

    def build(folder: Path) -> None:
        with cache.scratch("deb") as scratch:
            control = scratch / "tree/DEBIAN/control"
            control.parent.mkdir(parents=True)
            control.write_text(text)
            run(["dpkg-deb", "--root-owner-group", "--build", scratch / "tree", folder])

    return next(cache.entry("package", digest(text), build, keep=12).glob("*.deb"))


def repository(debs: Sequence[Path]) -> dict[str, bytes]:
    """The files of a flat repository with those packages: `deb [trusted=yes] file:/… ./`."""
    paragraphs = []
    for deb in debs:
        content = deb.read_bytes()
        fields = run(["dpkg-deb", "--field", deb]).rstrip("\n")
        paragraphs.append(
            f"{fields}\nFilename: ./{deb.name}\nSize: {len(content)}\n"
            f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
        )
    return {"Packages": "\n".join(paragraphs).encode()} | {d.name: d.read_bytes() for d in debs}


def _get(path: str) -> bytes:
    url = f"{debian.mirror().rstrip('/')}/{path}"
    try:
        with urllib.request.urlopen(url, timeout=300) as answer:  # the host's own mirror
            content: bytes = answer.read()
            return content
    except OSError as error:
        raise Unavailable(f"the Debian archive has no {path} for us: {error}") from error
