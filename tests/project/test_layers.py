"""The layers: imports point one way, and boot code stays within its import budget."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ephemeroot
import proof
from checkout import CHECKOUT

PACKAGE = Path(ephemeroot.__file__).parent
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")

# The contracts in pyproject.toml.
ONE_WAY = "imports point one way"
BACKENDS = "a backend is built on what backends share, and knows of no other"
OPERATIONS = "operations use guards and stores, and neither uses operations"
NO_CIRCLES = "no circles"

BOOT_CODE = {
    "ephemeroot.hooks": CHECKOUT / "hooks",
    "ephemeroot.wipers": CHECKOUT / "wipers",
    "ephemeroot.linux": CHECKOUT / "ephemeroot" / "linux",
}

# All modules of the standard library that boot code may import, in addition to those written in C.
# Each other module costs 4 to 40 ms at every boot. `json` imports `re` and its dependencies.
BUDGET = (
    "__future__", "os", "sys", "json", "errno", "ctypes", "time", "stat", "fcntl", "binascii",
)  # fmt: skip

# Prints "NAME KIND" for each module that is loaded after importing the arguments.
IMPORT_AND_LIST = """
import sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    __import__(name)
for name, module in sorted(sys.modules.items()):
    file = getattr(module, "__file__", None)
    print(name, "C" if file is None or file.endswith(".so") else "Python")
"""


def boot_modules() -> list[str]:
    """The import name of every module that runs in the initramfs."""
    names = []
    for package, folder in BOOT_CODE.items():
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            names.append(".".join((package, *(part for part in parts if part != "__init__"))))
    return names


def modules_after(*names: str, tree: Path = PACKAGE.parent) -> dict[str, str]:
    """The modules that a bare interpreter, started as in the initramfs, has loaded after importing
    these modules.

    The value is ``C`` or ``Python``, the language of the module.
    """
    command = [sys.executable, "-I", "-S", "-B", "-c", IMPORT_AND_LIST, str(tree), *names]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(line.split() for line in run.stdout.splitlines())


@functools.cache
def within_budget() -> frozenset[str]:
    """The modules that a bare interpreter has loaded after the imports that boot code may use."""
    return frozenset(modules_after(*BUDGET))


def beyond_budget(*names: str, tree: Path = PACKAGE.parent) -> set[str]:
    """The modules that these modules of Ephemeroot import although boot code must not."""
    return {
        module
        for module, language in modules_after(*names, tree=tree).items()
        if module not in within_budget()
        and language != "C"
        and module.split(".")[0] != "ephemeroot"
    }


def lint_imports(tree: Path, config: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the package in *tree*."""
    command = [str(LINT_IMPORTS), "--no-logo", "--no-cache", "--config", str(config)]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True)


def breaks(copied: Path, module: str, text: str, contract: str) -> bool:
    """Whether *contract* fails with *text* at the end of *module*."""
    with (copied / "ephemeroot" / module).open("a") as file:
        file.write(f"\n{text}\n")
    linted = lint_imports(copied, CHECKOUT / "pyproject.toml")
    assert linted.returncode in (0, 1), linted.stdout + linted.stderr
    return linted.returncode == 1 and f"{contract} BROKEN" in linted.stdout


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with a copy of the package, which a test may damage."""
    shutil.copytree(PACKAGE, tmp_path / "ephemeroot", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_imports_point_one_way() -> None:
    linted = lint_imports(PACKAGE.parent, CHECKOUT / "pyproject.toml")
    assert linted.returncode == 0, linted.stdout + linted.stderr
    for contract in (ONE_WAY, BACKENDS, OPERATIONS, NO_CIRCLES):
        assert f"{contract} KEPT" in linted.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("linux/mounts.py", "from ephemeroot.wipers import contract"),
        ("wipers/contract.py", "import ephemeroot.hooks.plan"),
        ("hooks/plan.py", "import ephemeroot.config"),
        ("hooks/plan.py", "def f():\n    import ephemeroot.plan.compile"),
        ("config/__init__.py", "import ephemeroot.cli"),
        ("plan/__init__.py", "import ephemeroot.image"),
        ("errors.py", "import ephemeroot.linux"),
    ],
)
def test_finds_an_import_in_the_other_direction(copied: Path, module: str, line: str) -> None:
    assert breaks(copied, module, line, ONE_WAY)


FORMS = ("{}", "if TYPE_CHECKING:\n    {}", "def f():\n    {}")
FORBIDDEN = [
    ("wipers/zfs/history.py", "from ephemeroot.wipers.btrfs import subvolumes", BACKENDS),
    ("wipers/tmpfs.py", "from ephemeroot.wipers.overlay import Overlay", BACKENDS),
    ("wipers/skeleton.py", "from ephemeroot.wipers.btrfs import subvolumes", BACKENDS),
    ("wipers/history.py", "from ephemeroot.wipers import pruning", BACKENDS),
    ("wipers/btrfs/subvolumes.py", "from ephemeroot.wipers.btrfs import history", NO_CIRCLES),
    ("wipers/zfs/datasets.py", "from ephemeroot.wipers.zfs import rotation", NO_CIRCLES),
    ("hooks/store/seed.py", "from ephemeroot.hooks.operations.copies import Copy", OPERATIONS),
    (
        "hooks/guards/proofs.py",
        "from ephemeroot.hooks.operations.volumes import Attach",
        OPERATIONS,
    ),
    ("hooks/guards/waiting.py", "from ephemeroot.hooks.store import seed", OPERATIONS),
    ("hooks/limits.py", "from ephemeroot.hooks.store import unseeded", NO_CIRCLES),
    ("hooks/operation.py", "from ephemeroot.hooks.operations.wipe import Wipe", NO_CIRCLES),
    ("image/readback.py", "from ephemeroot.image.generators import contract", NO_CIRCLES),
    ("wipers/names.py", "from ephemeroot.wipers.contract import Wiper", BACKENDS),
    ("linux/values.py", "from ephemeroot.wipers.contract import Wiper", ONE_WAY),
    ("linux/contents.py", "from ephemeroot.linux.copying import Copier", NO_CIRCLES),
    ("linux/trees.py", "from ephemeroot.linux import copying", NO_CIRCLES),
    ("mirror/descent.py", "from ephemeroot.mirror.tree import Mirror", NO_CIRCLES),
    ("adopt/adoption.py", "from ephemeroot.adopt import adopter", NO_CIRCLES),
    ("cli/status_listing.py", "from ephemeroot.cli.status import collect", NO_CIRCLES),
    ("status/disk_holders.py", "from ephemeroot.status.full_disks import Full", NO_CIRCLES),
    ("config/syntax/clean.py", "from ephemeroot.config import resolution", NO_CIRCLES),
]


@pytest.mark.parametrize(
    ("module", "line", "contract", "form"),
    proof.sample([(*one, form) for one in FORBIDDEN for form in FORMS], 12),
)
def test_finds_an_import_between_backends_or_in_a_circle(
    copied: Path, module: str, line: str, contract: str, form: str
) -> None:
    assert breaks(copied, module, form.format(line), contract)


def test_finds_a_module_outside_the_layers(copied: Path) -> None:
    (copied / "ephemeroot" / "helpers.py").write_text("")
    linted = lint_imports(copied, CHECKOUT / "pyproject.toml")
    assert linted.returncode == 1
    assert "ephemeroot.helpers" in linted.stdout


def test_the_list_of_boot_code_is_complete() -> None:
    names = boot_modules()
    assert {"ephemeroot.hooks", "ephemeroot.hooks.plan", "ephemeroot.linux.mounts"} <= set(names)
    assert modules_after(*names).keys() >= set(names)


@pytest.mark.parametrize("name", boot_modules())
def test_boot_code_stays_within_the_import_budget(name: str) -> None:
    assert beyond_budget(name) == set()


def test_only_json_imports_re() -> None:
    without_json = modules_after(*(name for name in BUDGET if name != "json"))
    assert without_json.keys().isdisjoint({"re", "enum", "functools", "collections"})


@pytest.mark.parametrize(
    "module",
    [
        "argparse", "btrfsutil", "contextlib", "dataclasses", "importlib.metadata", "logging",
        "pathlib", "pyroute2", "pyudev", "subprocess", "tomllib", "typing",
    ],
)  # fmt: skip
def test_finds_an_import_beyond_the_budget(copied: Path, module: str) -> None:
    # A replacement for libraries that a bare interpreter does not find, on the path as in an image.
    if module in ("btrfsutil", "pyroute2", "pyudev"):
        (copied / f"{module}.py").write_text("")
    broken = copied / "ephemeroot" / "linux" / "mounts.py"
    broken.write_text(f"{broken.read_text()}\nimport {module}\n")
    assert module in beyond_budget("ephemeroot.linux.mounts", tree=copied)
