"""The project's Debian package, built from this checkout in a separate Debian.

`python -m vm.package FOLDER` puts the source package and the binary one into that folder.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vm import debian, layer
from vm.cache import Cache, digest
from vm.command import run
from vm.sandbox import enter_private_mounts, in_layers
from vm.system import System

CHECKOUT = Path(__file__).resolve().parent.parent.parent

BUILDER = debian.Selection(
    packages=(
        "debhelper",
        "dh-python",
        "pybuild-plugin-pyproject",
        "python3-setuptools",
        "lintian",
        # debhelper depends on libtool, which depends on a C compiler, and gcc is 200 MB of it
        "tcc",
    )
)
# Only this tree has lintian's tables.
_WITH_TABLES = ("--dpkgopt=path-include=/usr/share/lintian/*",)

# The files whose change makes another package for a machine, without documents for readers.
_PROGRAM = (
    *("LICENSE", "pyproject.toml", "packaging"),
    *("dracut", "ephemeroot", "hooks", "mkinitcpio", "systemd", "wipers"),
)
_DOCUMENTS = ("CHANGELOG.md", "README.md", "completions", "docs", "man")

# build-essential is incomplete: nothing is compiled.
_BUILD = """\
set -e
build() { dpkg-buildpackage --no-sign --no-check-builddeps "$@" >> /run/log 2>&1; }
trap '[ $? = 0 ] || cat /run/log >&2' EXIT
mkdir /run/made /run/made/ephemeroot
cd /run/made/ephemeroot
cp -r /usr/src/ephemeroot/. .
mv packaging/debian debian
if [ "$1" = full ]; then
    build --build=source
    cd ..
    rm -r ephemeroot
    dpkg-source --extract ephemeroot_*.dsc ephemeroot >> /run/log 2>&1
    cd ephemeroot
fi
build --build=binary
cd ..
rm -r ephemeroot
cp -r . /run/results
"""


def binary(cache: Cache) -> Path:
    """The .deb, if not in the cache. A change of documents alone does not rebuild it."""
    parts = [CHECKOUT / name for name in _PROGRAM]
    key = digest(Path(__file__), BUILDER.packages, parts)
    entry = cache.entry("package", key, lambda folder: _build(cache, folder, "binary"), keep=40)
    return next(entry.glob("*.deb"))


def everything(cache: Cache) -> Path:
    """A folder with the source package and its results: `.dsc`, `.deb`, `.changes`."""
    parts = [CHECKOUT / name for name in (*_PROGRAM, *_DOCUMENTS)]
    key = digest(Path(__file__), BUILDER.packages, parts)
    return cache.entry("source-package", key, lambda folder: _build(cache, folder, "full"), keep=4)


def binary_of(cache: Cache, selection: debian.Selection) -> Path:
    """The .deb as the Debian of that *selection* builds it, with its own tools."""
    parts = [CHECKOUT / name for name in _PROGRAM]
    key = digest(Path(__file__), repr(selection), parts)

    def build(folder: Path) -> None:
        _build(cache, folder, "binary", selection)

    return next(cache.entry("package", key, build, keep=40).glob("*.deb"))


def installed(cache: Cache, system: System, package: Path) -> System:
    """The system after apt has installed that .deb in it. Its dependencies must be installed
    already.
    """
    name = "var/cache/ephemeroot.deb"
    with_file = system.on_top(layer.make(cache, files={name: package.read_bytes()}))
    words = ("apt-get", "--quiet", "--yes", "--no-install-recommends", "install", f"/{name}")
    return with_file.changed_by(cache, *words)


def run_in_builder(cache: Cache, script: str, folder: Path) -> str:
    """Run a shell script in a throw-away chroot of the builder, with `folder` at /usr/src; its
    stdout."""
    with cache.scratch("chroot") as scratch, _at(cache, folder) as sources:
        return run(in_layers(scratch, [_builder(cache), sources], ["sh", "-c", script]))


def _builder(cache: Cache, selection: debian.Selection = BUILDER) -> Path:
    """The Debian that builds it, bootstrapped if the cache has none."""

    def build(folder: Path) -> None:
        debian.bootstrap(folder / "tree", selection, _WITH_TABLES)

    key = digest(repr(selection), debian.RECIPE, _WITH_TABLES)
    return cache.entry("builder", key, build, keep=5) / "tree"


def _build(cache: Cache, folder: Path, what: str, selection: debian.Selection = BUILDER) -> None:
    builder = System((_builder(cache, selection),), Path(), "", "")
    with _sources(cache) as sources:
        stack = builder.on_top(sources)
        stack.run(cache, "sh", "-c", _BUILD, "build", what, results=folder)


@contextmanager
def _sources(cache: Cache) -> Iterator[Path]:
    """A layer with the release's tarball unpacked at /usr/src/ephemeroot."""
    with cache.scratch("sources") as scratch:
        run([str(CHECKOUT / "tools/release"), str(scratch / "release")])
        target = scratch / "tree/usr/src"
        target.mkdir(parents=True)
        with tarfile.open(next((scratch / "release").glob("*.tar.gz"))) as archive:
            archive.extractall(target)
        (unpacked,) = target.iterdir()
        unpacked.rename(target / "ephemeroot")
        yield scratch / "tree"


@contextmanager
def _at(cache: Cache, folder: Path) -> Iterator[Path]:
    with cache.scratch("folder") as scratch:
        shutil.copytree(folder, scratch / "usr/src")
        yield scratch


def main(target: str) -> None:
    """Build everything into the folder `target`."""
    enter_private_mounts()
    Path(target).mkdir(exist_ok=True)
    for file in everything(Cache.from_environment()).iterdir():
        print(shutil.copy(file, target))


if __name__ == "__main__":
    main(*sys.argv[1:])
