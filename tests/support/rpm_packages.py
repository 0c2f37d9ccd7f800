"""RPM packages: the project's own, built by its spec, and replacements for its dependencies.

Debian lacks the macros of other distributions. These have the same names and effects, as far as the
spec uses them: pyproject-rpm-macros and python-rpm-macros of Fedora and EL, python-rpm-macros of
openSUSE, macros.systemd of systemd, macros.initrd of suse-module-tools.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import ephemeroot
from checkout import CHECKOUT

SPEC = CHECKOUT / "packaging/rpm/ephemeroot.spec"

SYSTEMD = """\
%__os_install_post bash /usr/lib/rpm/brp-compress /usr
%_unitdir /usr/lib/systemd/system
%_userunitdir /usr/lib/systemd/user
%_presetdir /usr/lib/systemd/system-preset
%_userpresetdir /usr/lib/systemd/user-preset
%systemd_ordering OrderWithRequires(post): systemd
%helper [ ! -x /usr/lib/systemd/systemd-update-helper ] || /usr/lib/systemd/systemd-update-helper
%systemd_post() if [ $1 -eq 1 ]; then %{helper} install-system-units %{?*} || :; fi
%systemd_user_post() if [ $1 -eq 1 ]; then %{helper} install-user-units %{?*} || :; fi
%systemd_preun() if [ $1 -eq 0 ]; then %{helper} remove-system-units %{?*} || :; fi
%systemd_user_preun() if [ $1 -eq 0 ]; then %{helper} remove-user-units %{?*} || :; fi
"""

# @BIN@ has the interpreters; the installed script names the distribution's.
PYTHON = """\
%__python3 @BIN@/python%{python3_pkgversion}
%python3_sitelib /usr/lib/python@VERSION@/site-packages
%pyproject_wheel @PIP@ wheel -q --no-index --no-deps --no-build-isolation -w wheels .
%pyproject_install %{expand:
export PIP_NO_WARN_SCRIPT_LOCATION=1
@PIP@ install -q --no-index --no-deps --no-compile --root %{buildroot} --prefix /usr -I wheels/*
sed -i '1s|.*|#!/usr/bin/python%{python3_pkgversion} -sP|' %{buildroot}%{_bindir}/*
}
"""
PIP = "%{__python3} -m pip --disable-pip-version-check"

SUSE = """\
%systemd_pre() %{helper} mark-install-system-units %{?*} || :
%systemd_user_pre() %{helper} mark-install-user-units %{?*} || :
%regenerate_initrd_post mkdir -p /run/regenerate-initrd; >/run/regenerate-initrd/all
%regenerate_initrd_posttrans /usr/lib/module-init-tools/regenerate-initrd-posttrans
"""

FLAVORS: Mapping[str, str] = {
    "fedora": "%fedora 43\n%dist .fc43\n%python3_pkgversion 3\n",
    "el9": "%rhel 9\n%dist .el9\n",
    "suse": f"%suse_version 1699\n%dist .suse\n%python3_pkgversion 3\n{SUSE}",
}

# EL 9's own interpreter: a spec that calls it has not requested the right one.
TOO_OLD = "#!/bin/sh\necho 'this is Python 3.9' >&2\nexit 1\n"

# Each program records that it ran.
DRACUT = '#!/bin/sh\necho "dracut $*" >> /calls\n'
HELPER = '#!/bin/sh\necho "units $*" >> /calls\n'
REGENERATE = "#!/bin/sh\n[ ! -e /run/regenerate-initrd/all ] || dracut --regenerate-all --force\n"

PYTHON_PROVIDES = """
    python(abi)=@VERSION@ /usr/bin/python3 /usr/bin/python3.12
    python@VERSION@dist(pyroute2)=0.9 python3-pyroute2=0.9
    python@VERSION@dist(pyudev)=0.24.5 python3-pyudev=0.24.5
"""

# What the packages require from other packages; those have names of the test.
STAND_INS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "shell": ("/bin/sh /bin/bash bash", {}),
    "python": (PYTHON_PROVIDES, {}),
    "dracut": ("", {"/usr/bin/dracut": DRACUT}),
    "systemd": ("", {"/usr/lib/systemd/systemd-update-helper": HELPER}),
    "suse-module-tools": (
        "",
        {"/usr/lib/module-init-tools/regenerate-initrd-posttrans": REGENERATE},
    ),
    "zfs-dracut": ("python3dist(pyzfs) python3.12dist(pyzfs) python3-pyzfs", {}),
}
# By package manager: how it installs, updates and removes packages.
WORDS = {
    "rpm": {"install": "--install", "update": "--upgrade", "remove": "--erase"},
    "dnf": {"install": "install", "update": "upgrade", "remove": "remove"},
}
PYTHON_VERSION = "{}.{}".format(*sys.version_info)


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def settings(folder: Path, flavor: str) -> list[str]:
    """The options that give rpm the macros of a *flavor*; their programs are written to
    *folder*.
    """
    programs = folder / "bin"
    programs.mkdir(parents=True)
    version = "3.12" if flavor == "el9" else "3"
    if flavor == "el9":
        _write_program(programs / "python3", TOO_OLD)
    _write_program(programs / f"python{version}", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    text = SYSTEMD + PYTHON.replace("@PIP@", PIP) + FLAVORS[flavor]
    text = text.replace("@BIN@", str(programs)).replace("@VERSION@", PYTHON_VERSION)
    (folder / "macros").write_text(text)
    return ["--define", f"_topdir {folder}", "--load", str(folder / "macros")]


def _write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def build(sdist: Path, folder: Path, flavor: str) -> dict[str, Path]:
    """Build the packages of *sdist* with the spec as on a distribution; return them by name, with
    the ``source`` package. Works in the new directory *folder*.
    """
    words = settings(folder, flavor)
    (folder / "SOURCES").mkdir()
    shutil.copy(sdist, folder / "SOURCES")
    _rpmbuild(folder, "-ba", *words, SPEC)
    return _made(folder, ephemeroot.__version__)


def build_previous(folder: Path, flavor: str) -> dict[str, Path]:
    """Packages of an older version, with the spec's scriptlets and almost no files, by name."""
    words = settings(folder, flavor)
    head, rest = SPEC.read_text().split("%prep\n")
    scriptlets = rest.split("# Installation changes nothing")[1].split("\n%files\n")[0]
    head = re.sub("(?m)^Source0.*\n", "", head).replace(f" {ephemeroot.__version__}\n", " 0.0.1\n")
    guard = "%{vendor_dir}/ephemeroot/may-be-removed"
    parts = "".join(f"\n%files {name}\n" for name in ("dracut", "zfs"))
    spec = folder / "previous.spec"
    spec.write_text(
        f"{head}%install\ninstall -D {CHECKOUT}/packaging/may-be-removed %{{buildroot}}{guard}\n"
        f"# {scriptlets}\n%files\n{guard}\n{parts}"
    )
    _rpmbuild(folder, "-bb", *words, spec)
    return _made(folder, "0.0.1")


def _rpmbuild(folder: Path, *words: str | Path) -> None:
    environment = {"PATH": f"{folder}/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
    run("rpmbuild", "--nodeps", *words, env=environment)


def _made(folder: Path, version: str) -> dict[str, Path]:
    made = {}
    for path in [*(folder / "RPMS").rglob("*.rpm"), *(folder / "SRPMS").glob("*.rpm")]:
        name = path.name.partition(f"-{version}-")[0]
        made["source" if path.suffixes[-2] == ".src" else name] = path
    return made


def stand_ins(folder: Path) -> list[Path]:
    """Packages that provide the requirements of the project's own. Works in the new directory
    *folder*.
    """
    lines = [
        "Name: stand-ins", "Version: 1", "Release: 1", "Summary: For a test", "License: MIT",
        "BuildArch: noarch", "AutoReqProv: no", "%description", "None.",
    ]  # fmt: skip
    for name, (provided, files) in STAND_INS.items():
        lines += [f"%package -n {name}", "Summary: For a test", "AutoReqProv: no"]
        words = provided.replace("@VERSION@", PYTHON_VERSION).split()
        lines += [f"Provides: {word.replace('=', ' = ')}" for word in words]
        lines += [f"%description -n {name}", "None.", f"%files -n {name}", *files]
        for path, text in files.items():
            _write_program(folder / "root" / path.lstrip("/"), text)
    lines += ["%install", "mkdir -p %{buildroot}", f"cp -r {folder}/root/. %{{buildroot}}"]
    (folder / "stand-ins.spec").write_text("\n".join(lines) + "\n")
    _rpmbuild(folder, "-bb", "--define", f"_topdir {folder}", folder / "stand-ins.spec")
    return list((folder / "RPMS").rglob("*.rpm"))


class Machine:
    """A system at *tree* with those packages, and the actions of its package managers."""

    def __init__(self, tree: Path, repository: Path) -> None:
        self.tree = tree
        self.repository = repository
        for program in ("/bin/sh", "/bin/cat", "/bin/mkdir"):
            self._copy(program)

    def _copy(self, program: str) -> None:
        """Copy a program of the host, with its libraries: scriptlets run in the tree."""
        listed = run("ldd", program).split()
        for name in [program, *(word for word in listed if word.startswith("/"))]:
            target = self.tree / name.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(name).resolve(), target)

    def act(
        self, manager: str, verb: str, packages: Mapping[str, Path], names: Sequence[str]
    ) -> subprocess.CompletedProcess[str]:
        """Let *manager* install, update or remove the packages called *names*, of *packages*."""
        if manager == "rpm":
            given: Sequence[str | Path] = [packages[name] for name in names]
            return self.rpm(WORDS["rpm"][verb], *(names if verb == "remove" else given))
        if verb != "remove":
            publish(self.repository, [packages[name] for name in names])
        # The dracut module is installed as well: it is recommended.
        return self.dnf(WORDS["dnf"][verb], *(names[:1] if verb == "install" else names))

    def rpm(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """rpm(8) on this system."""
        return self._run("rpm", "--root", self.tree, *words)

    def dnf(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """dnf(8) on this system, with the repository and no other."""
        return self._run(
            "dnf", "--installroot", self.tree, "--releasever=43", "--noplugins", "--assumeyes",
            f"--repofrompath=own,file://{self.repository}", "--repo=own", "--nogpgcheck",
            "--refresh", *words,  # metadata younger than a second never expires by itself
        )  # fmt: skip

    def _run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True)

    def calls(self) -> list[str]:
        """The calls of scriptlets since the last question."""
        file = self.tree / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def owned(self) -> list[str]:
        """The files and directories of the project's installed packages."""
        listed = self.rpm("--query", "--all", "--queryformat", "[%{=NAME} %{FILENAMES}\\n]").stdout
        rows = [line.split() for line in listed.splitlines()]
        return [path for name, path in rows if name.startswith("ephemeroot")]


def publish(repository: Path, packages: Sequence[Path]) -> None:
    """Add *packages* to a repository for dnf."""
    repository.mkdir(exist_ok=True)
    for path in packages:
        shutil.copy(path, repository)
    run("createrepo_c", "--quiet", "--general-compress-type=gz", repository)
