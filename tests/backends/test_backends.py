"""The contract of backends: code outside the backends' folders never asks which backend it has."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from checkout import CHECKOUT
from ephemeroot import backends
from ephemeroot.backends.contract import Backend
from ephemeroot.config import plugins
from ephemeroot.errors import Damaged, Misconfigured, Refused
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.linux.namespace import Namespace
from ephemeroot.machine.root import Root
from ephemeroot.wipers.contract import Wiper
from ephemeroot.wipers.overlay import Overlay
from ephemeroot.wipers.tmpfs import Tmpfs

NAMES = tuple(plugins.names())
NOWHERE = Root(None, None, None, ())

FOLDERS = ("wipers", "ephemeroot/backends")
"""These have a folder or a module for each backend."""

ASKED = ("wiper", "NAME")
"""The modules and names that belong to a backend."""


def product_files() -> list[str]:
    """The program's Python files outside the backends' folders."""
    found = [
        file
        for folder in ("ephemeroot", "hooks", "wipers")
        for file in (CHECKOUT / folder).rglob("*.py")
    ]
    names = sorted(str(file.relative_to(CHECKOUT)) for file in found)
    own = tuple(f"{folder}/{name}{end}" for folder in FOLDERS for name in NAMES for end in "/.")
    return [name for name in names if not name.startswith(own)]


def asks(source: str) -> list[str]:
    """Where *source* depends on a particular backend: it imports one of its modules, contains its
    name as a string or identifier, tests for its class (``isinstance``), or compares a wiper's
    name.

    The same words are also names of filesystems. A comparison of a variable called ``type`` or
    ``fstype`` is about a mount or a volume, and is allowed.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        found += list(imported(node))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if _is_module(node.value.partition(":")[0]):
                found.append(f"{node.lineno}: {node.value!r}")
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(one, ast.Attribute) and one.attr in ASKED for one in sides):
                if any(_has_text(one) for one in sides):
                    found.append(f"{node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            kinds = {ast.unparse(one).rpartition(".")[2].lower() for one in ast.walk(node.args[1])
                     if isinstance(one, (ast.Name, ast.Attribute))}  # fmt: skip
            # operations.overlays.Overlay is an operation: a declared directory with method
            # "overlay".
            if kinds & set(NAMES) - ({"overlay"} if "operations.overlays" in source else set()):
                found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


def imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (one.name for one in node.names if _is_module(one.name))
    elif isinstance(node, ast.ImportFrom):
        names = [node.module or "", *(f"{node.module}.{one.name}" for one in node.names)]
        yield from (name for name in names if _is_module(name))


def _is_module(name: str) -> bool:
    parents = ("ephemeroot.wipers.", "ephemeroot.backends.")
    return any(
        name == parent + backend or name.startswith(f"{parent}{backend}.")
        for parent in parents
        for backend in NAMES
    )


def _has_text(node: ast.AST) -> bool:
    return any(isinstance(one, ast.Constant) and isinstance(one.value, str)
               for one in ast.walk(node))  # fmt: skip


@pytest.mark.parametrize("name", product_files())
def test_product_code_never_asks_a_wiper_for_its_backend(name: str) -> None:
    assert asks((CHECKOUT / name).read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "from ephemeroot.wipers.btrfs import Btrfs",
        "from ephemeroot.wipers import zfs",
        "def f():\n    import ephemeroot.wipers.overlay.uppers",
        "if TYPE_CHECKING:\n    from ephemeroot.backends.btrfs.bases import Opened",
        "load('ephemeroot.wipers.tmpfs:Tmpfs')",
        "if wipe.wiper == 'btrfs': pass",
        "if wiper.NAME in ('btrfs', 'zfs'): pass",
        "if layout.wiper != 'lvm': pass",
        "isinstance(wiper, Btrfs)",
        "issubclass(plugin.wiper, (Tmpfs, overlay.Overlay))",
    ],
)
def test_the_search_finds_each_kind_of_question(source: str) -> None:
    assert asks(source)


@pytest.mark.parametrize("source", ["if volume.type == 'zfs': pass", "mount = create('tmpfs')"])
def test_a_filesystem_type_is_not_a_backend(source: str) -> None:
    assert asks(source) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_installed_half_is_named_by_the_wiper(name: str) -> None:
    wiper = plugins.find(name).wiper
    assert wiper.INSTALLED.startswith(f"ephemeroot.backends.{name}:")
    assert issubclass(backends.kind(wiper), Backend)
    assert backends.kind(wiper) is not Backend


class Silent(Wiper):
    NAME = "silent"

    __slots__ = ()


class Derived(Tmpfs):
    __slots__ = ()


def test_a_root_below_an_overlay_can_be_changed_in_a_kept_boot() -> None:
    backend = backends.of(Overlay({}))
    with pytest.raises(Misconfigured) as refused:
        backend.bases(NOWHERE, Namespace(), writable=False)
    assert "ephemeroot next-boot keep" in refused.value.hint


@pytest.mark.parametrize("wiper", [Silent({}), Derived({})])
def test_a_wiper_without_an_installed_half_has_no_throwaway_and_no_base(wiper: Wiper) -> None:
    """The installed half of the parent class does not know the behaviour of a derived wiper."""
    backend = backends.of(wiper)
    wipe = Wipe(target="/", wiper="silent", attribute="nowhere:Silent")
    with pytest.raises(Refused, match="cannot be rehearsed") as refused:
        backend.rehearsal(wipe, NOWHERE, CHECKOUT, [])
    for name in backends.answering("rehearsal"):
        assert name in refused.value.hint
    with pytest.raises(Misconfigured, match="only a root on btrfs is made from a base"):
        backend.bases(NOWHERE, Namespace(), writable=False)
    assert backend.omitted(0) == []


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("no_such_module:Half", r"no_such_module:Half\): ModuleNotFoundError"),
        ("ephemeroot.backends.contract:Layer", r"contract:Layer\): AttributeError"),
        ("ephemeroot.backends.contract:Layout", "is not a class derived from Backend"),
    ],
)
def test_an_installed_half_that_cannot_be_loaded_is_reported_as_damage(
    named: str, said: str
) -> None:
    class Broken(Silent):
        __slots__ = ()
        INSTALLED = named

    with pytest.raises(Damaged, match=said):
        backends.of(Broken({}))
