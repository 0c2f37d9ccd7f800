"""A plan answers questions about itself: no other code searches its operations."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from checkout import CHECKOUT
from ephemeroot.errors import Damaged
from ephemeroot.hooks import plan as plans
from ephemeroot.hooks.operations.copies import Copy
from ephemeroot.hooks.operations.directories import Directory, Parent
from ephemeroot.hooks.operations.files import File
from ephemeroot.hooks.operations.hide import Hide
from ephemeroot.hooks.operations.machine_id import MachineId
from ephemeroot.hooks.operations.overlays import Overlay
from ephemeroot.hooks.operations.volumes import Attach, MountVolume, Store
from ephemeroot.hooks.operations.wipe import Wipe
from ephemeroot.hooks.plan import Plan

BTRFS = "ephemeroot.wipers.btrfs:Btrfs"


def volume(name: str) -> MountVolume:
    return MountVolume(mount_point=f"/{name}", name=name, device=f"LABEL={name}", type="ext4")


def store(name: str) -> Store:
    return Store(path=f"/{name}", volume=name, id=f"id of {name}")


def wipe(target: str) -> Wipe:
    return Wipe(target=target, wiper="btrfs", attribute=BTRFS, device="LABEL=system")


def declared(path: str, name: str) -> dict[str, Any]:
    return {"path": path, "store": f"/{name}", "source": path.lstrip("/")}


@pytest.fixture
def plan() -> Plan:
    return Plan(
        wipe=[volume("one"), store("one"), volume("two"), wipe("/two"), store("two"), wipe("/")],
        persist=[
            Attach(mount_point="/one", volume="one"),
            Parent(**declared("/var", "one")),
            Directory(**declared("/var/log", "one")),
            File(**declared("/etc/hostname", "two")),
            Copy(**declared("/etc/shadow", "two")),
            Overlay(**declared("/etc", "one")),
            MachineId(store="/two", source="etc/machine-id"),
        ],
        on_failure={"path": "reboot"},
        generation=7,
        host="here",
        seed_limit=12,
    )


def test_lists_operations_of_a_kind_in_their_order(plan: Plan) -> None:
    assert [found.name for found in plan.volumes()] == ["one", "two"]
    assert [found.path for found in plan.stores()] == ["/one", "/two"]
    assert [found.target for found in plan.wipes()] == ["/two", "/"]
    assert [found.mount_point for found in plan.attached()] == ["/one"]


def test_finds_the_wipe_of_the_root(plan: Plan) -> None:
    found = plan.root_wipe()
    assert found is not None
    assert found.target == "/"
    assert plan.changed(wipe=[volume("one"), wipe("/one")]).root_wipe() is None


def test_lists_stores_of_declared_paths_without_parents(plan: Plan) -> None:
    assert plan.declared() == {
        "/var/log": "/one",
        "/etc/hostname": "/two",
        "/etc/shadow": "/two",
        "/etc": "/one",
        "/etc/machine-id": "/two",
    }


def test_a_changed_plan_keeps_its_other_values(plan: Plan) -> None:
    same = plan.changed()
    assert same.dump() == plan.dump()
    later = plans.parse(plan.changed(persist=[], generation=8).dump())
    expected = {**plan.to_json(), "persist": [], "generation": 8}
    assert later.to_json() == expected


def test_an_operation_of_the_other_stage_is_damage(plan: Plan) -> None:
    content = plan.changed(wipe=[Hide(paths=["/var/log"])])
    with pytest.raises(Damaged, match="unknown operation 'hide'"):
        plans.parse(content.dump())


KINDS = {"Wipe", "MountVolume", "Store", "Attach"}
IN_ORDER = {
    "hooks/plan.py": "the answers themselves",
    "hooks/wipe.py": "carries out a stage: what differs between its operations is decided there",
    "hooks/persist.py": "the same; an Attach that fails ends the stage",
    "ephemeroot/simulate/environment.py": "rebuilds the first part of the stage in its order",
    "ephemeroot/leave/leaving.py": "the plan of a machine that has left wipes nothing",
}
"""Code that may loop over a plan's operations and ask each for its kind, and why."""


def looked_for(source: str) -> set[str]:
    """The kinds of operations that *source* searches for although ``Plan`` answers for them."""
    return {
        name.id
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
        for name in ast.walk(node.args[1])
        if isinstance(name, ast.Name) and name.id in KINDS
    }


def test_no_other_code_searches_a_plans_operations() -> None:
    found = {
        str(file.relative_to(CHECKOUT))
        for folder in ("ephemeroot", "hooks", "wipers")
        for file in (CHECKOUT / folder).rglob("*.py")
        if looked_for(file.read_text())
    }
    assert found == set(IN_ORDER)


def test_the_search_finds_a_loop_over_operations() -> None:
    assert looked_for("[o for o in plan.wipe if isinstance(o, MountVolume | Store)]") == {
        "MountVolume",
        "Store",
    }
