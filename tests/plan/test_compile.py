"""From a configuration and a machine to a plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import proof
from ephemeroot.config import InvalidConfiguration, Machine, examine, read
from ephemeroot.hooks import plan
from ephemeroot.hooks.records import NO_MARKER
from ephemeroot.plan.compile import compile_machine, compile_plan
from machine_tree import DEVICE, FSTAB, IDENTITY, MAIN, ROOT, SOUND, STORE, VOLUME, MachineTree

SAMPLE = """\
[root]
wiper = "btrfs"

[root.btrfs]
base = "root-base"
old-roots = "old_roots"
keep-days = 30
keep-last = 3
min-free = "10%"

[on-failure]
wipe = "keep"
store = "emergency"
path = "continue"

[[volumes]]
mount-point = "/persistent"
device = "UUID=3c2a1b0e-0000-4000-8000-000000000001"
type = "btrfs"
options = ["subvol=persistent", "noatime"]
needed-for-boot = true

[persistence."/persistent"]
hide-mounts = true
directories = [
  "/var/log",
  { directory = "/var/lib/colord", user = "colord", group = "colord", mode = "u=rwx,g=rx,o=" },
]
files = [
  "/etc/machine-id",
  { file = "/etc/shadow", method = "copy" },
  { file = "/var/keys/secret_file", parent-directory = { mode = "u=rwx,g=,o=" } },
]

[persistence."/persistent".users.talyz]
directories = ["Downloads", { directory = ".ssh", mode = "0700" }]
files = [".screenrc"]
"""


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path)


def operations(tree: MachineTree, stage: str, kind: str = "") -> list[dict[str, Any]]:
    """A stage's operations in the plan, without defaults."""
    content = json.loads(tree.plan().dump())
    return [o for o in content[stage] if not kind or o["operation"] == kind]


def persist(tree: MachineTree, **wanted: object) -> dict[str, Any]:
    """The only operation of the persistence stage with these values."""
    (found,) = [
        o for o in operations(tree, "persist") if all(o.get(k) == v for k, v in wanted.items())
    ]
    return found


def declare(tree: MachineTree, directories: str = "", files: str = "", more: str = "") -> None:
    tree.write(MAIN, ROOT + VOLUME + '[persistence."/persistent"]\n'
               f'directories = ["/var/log", {directories}]\n'
               f'files = ["/etc/machine-id", {files}]\n{more}')  # fmt: skip


def test_compiles_the_example_of_the_design(tree: MachineTree) -> None:
    tree.write(MAIN, SAMPLE)
    content = json.loads(tree.plan().dump())
    store = {"store": "/persistent"}
    assert content["wipe"] == [
        {"operation": "volume", "mount-point": "/persistent", "name": "persistent",
         "device": DEVICE, "type": "btrfs", "options": ["subvol=persistent", "noatime"]},
        {"operation": "store", "path": "/persistent", "volume": "persistent", "id": IDENTITY},
        {"operation": "wipe", "target": "/", "wiper": "btrfs",
         "attribute": "ephemeroot.wipers.btrfs:Btrfs",
         "identity": {"filesystem": DEVICE.removeprefix("UUID="), "subvolume": "root"},
         "settings": {"base": "root-base", "old-roots": "old_roots", "keep-days": 30,
                      "keep-last": 3, "keep-at-most": None, "old-bases": "old_bases",
                      "keep-bases": 3, "min-free": "10%", "set-default": False,
                      "mount-options": []}},
    ]  # fmt: skip
    assert content["persist"] == [
        {"operation": "attach", "mount-point": "/persistent", "volume": "persistent"},
        {"operation": "parent", "path": "/etc", "source": "etc", **store},
        {"operation": "directory", "path": "/etc/ephemeroot", "source": "etc/ephemeroot", **store},
        {"operation": "machine-id", **store},
        {"operation": "copy", "path": "/etc/shadow", "source": "etc/shadow", **store},
        {"operation": "parent", "path": "/home", "source": "home", **store},
        {"operation": "parent", "path": "/home/talyz", "source": "home/talyz", "user": 1000,
         "group": 1001, "mode": 0o700, **store},
        {"operation": "file", "path": "/home/talyz/.screenrc", "source": "home/talyz/.screenrc",
         **store},
        {"operation": "directory", "path": "/home/talyz/.ssh", "source": "home/talyz/.ssh",
         "user": 1000, "group": 1001, "mode": 0o700, **store},
        {"operation": "directory", "path": "/home/talyz/Downloads",
         "source": "home/talyz/Downloads", "user": 1000, "group": 1001, **store},
        {"operation": "parent", "path": "/var", "source": "var", **store},
        {"operation": "parent", "path": "/var/keys", "source": "var/keys", "mode": 0o700,
         "explicit": True, **store},
        {"operation": "file", "path": "/var/keys/secret_file", "source": "var/keys/secret_file",
         **store},
        {"operation": "parent", "path": "/var/lib", "source": "var/lib", **store},
        {"operation": "directory", "path": "/var/lib/colord", "source": "var/lib/colord",
         "user": 120, "group": 121, "mode": 0o750, **store},
        {"operation": "directory", "path": "/var/log", "source": "var/log", **store},
        {"operation": "hide", "paths": ["/etc/ephemeroot", "/home/talyz/.screenrc",
         "/home/talyz/.ssh", "/home/talyz/Downloads", "/var/keys/secret_file", "/var/lib/colord",
         "/var/log"]},
    ]  # fmt: skip
    assert content["on-failure"] == {"wipe": "keep", "store": "emergency", "path": "continue"}
    assert content["host"] == "kiosk-7"


def test_a_written_plan_reads_back(tree: MachineTree) -> None:
    tree.write(MAIN, SAMPLE)
    raw = tree.plan().dump()
    assert plan.parse(raw).dump() == raw


def test_operations_keep_the_place_of_their_declaration(tree: MachineTree) -> None:
    tree.write(MAIN, SAMPLE)
    compilation = tree.compilation()
    assert len(compilation.wipe_places) == len(compilation.plan.wipe)
    assert len(compilation.persist_places) == len(compilation.plan.persist)
    lines = (tree.path / MAIN).read_text().split("\n")
    for operation, place in zip(
        compilation.plan.persist, compilation.persist_places, strict=True
    ):  # fmt: skip
        assert place.file == tree.show()
        path = getattr(operation, "path", "")
        if operation.KIND in ("directory", "file") and path != "/etc/ephemeroot":
            assert path.rpartition("/")[2] in lines[(place.line or 0) - 1]


def test_mistakes_prevent_a_plan(tree: MachineTree) -> None:
    tree.write(MAIN, SAMPLE.replace("/var/log", "var/log"))
    with pytest.raises(InvalidConfiguration):
        compile_plan(read(tree.machine), tree.machine)


def test_on_failure_and_seed_limit(tree: MachineTree) -> None:
    tree.write(MAIN, 'seed-limit = "1G"\non-failure.path = "reboot"\n' + SOUND)
    made = tree.plan()
    assert made.on_failure == {"wipe": "keep", "store": "emergency", "path": "reboot"}
    assert made.seed_limit == 1 << 30
    tree.write(MAIN, SOUND)
    assert tree.plan().seed_limit == plan.SEED_LIMIT


def test_generation_and_store_ids_come_from_the_machine(tree: MachineTree) -> None:
    machine = replace(tree.machine, generation=7, store_ids={"/persistent": "another"})
    made = compile_plan(read(machine), machine)
    assert made.generation == 7
    assert b'"id":"another"' in made.dump()


def test_a_plan_for_a_store_without_a_marker_is_for_display_only(tree: MachineTree) -> None:
    (tree.path / "persistent/.ephemeroot-store").unlink()
    compilation = tree.compilation()
    assert compilation.unmarked == ("/persistent",)
    assert [p.reason for p in compilation.warnings] == ["the store /persistent has no marker"]
    assert operations(tree, "wipe", "store")[0]["id"] == NO_MARKER
    tree.mark("persistent")
    assert tree.compilation().unmarked == ()


def test_compiles_a_store_below_its_volume(tree: MachineTree) -> None:
    tree.mark("data/persistent")
    tree.write(MAIN, ROOT + VOLUME.replace("/persistent", "/data")
               + STORE.replace("/persistent", "/data/persistent"))  # fmt: skip
    (store,) = operations(tree, "wipe", "store")
    assert store == {"operation": "store", "path": "/data/persistent", "volume": "data",
                     "below": "persistent", "id": IDENTITY}  # fmt: skip


def test_the_wipe_has_device_and_subvolume(tree: MachineTree) -> None:
    tree.write(MAIN, SOUND.replace(
        "[root.btrfs]", f'[root.btrfs]\ndevice = "{DEVICE}"\nsubvolume = "/root/"'
    ))  # fmt: skip
    (wipe,) = operations(tree, "wipe", "wipe")
    assert (wipe["device"], wipe["subvolume"]) == (DEVICE, "root")
    assert not {"device", "subvolume"} & set(wipe["settings"])


def test_mounts_a_wiped_volume_after_its_wipe(tree: MachineTree) -> None:
    home = VOLUME.replace('"/persistent"', '"/home"').replace("subvol=persistent", "subvol=@home")
    tree.write(MAIN, SOUND + home + 'wipe = { wiper = "btrfs", old-roots = "old_homes" }\n')
    steps = operations(tree, "wipe")
    assert [(o["operation"], o.get("mount-point") or o.get("target") or o["path"])
            for o in steps] == [
        ("volume", "/persistent"), ("store", "/persistent"), ("wipe", "/"), ("wipe", "/home"),
        ("volume", "/home"),
    ]  # fmt: skip
    assert (steps[3]["device"], steps[3]["subvolume"]) == (DEVICE, "@home")
    assert steps[3]["settings"]["old-roots"] == "old_homes"
    assert [o["mount-point"] for o in operations(tree, "persist", "attach")] == [
        "/home", "/persistent"
    ]  # fmt: skip


def test_merges_fstab_lines_and_volumes_into_one_order(tree: MachineTree) -> None:
    tree.write("etc/fstab", f"{FSTAB}LABEL=a /persistent/in ext4 x-initrd.mount 0 0\n"
               "LABEL=b /a ext4 x-initrd.mount 0 0\nLABEL=c /late ext4 defaults 0 0\n")  # fmt: skip
    assert [o["mount-point"] for o in operations(tree, "wipe", "volume")] == [
        "/a", "/persistent", "/persistent/in"
    ]  # fmt: skip
    places = {str(place) for place in tree.compilation().wipe_places}
    assert f"{tree.show('etc/fstab')}:3: /a" in places


def test_merges_the_marks_of_all_levels(tree: MachineTree) -> None:
    tree.write(MAIN, ROOT + VOLUME + """
[persistence."/persistent"]
hide-mounts = true
mount-options = ["nodev", "noexec"]
directories = [
  "/var/log",
  { directory = "/a", hide-mounts = false, mount-options = ["exec"] },
  { directory = "/b", allow-trash = true },
  { directory = "/c", method = "symlink" },
]
files = ["/etc/machine-id", { file = "/d", method = "copy" }, "/e"]
[persistence."/persistent".users.talyz]
allow-trash = true
mount-options = ["x-gvfs-name=Mine", "nodev"]
directories = ["f"]
""")  # fmt: skip
    assert persist(tree, path="/var/log")["options"] == ["nodev", "noexec"]
    assert persist(tree, path="/a")["options"] == ["nodev", "noexec", "exec"]
    assert persist(tree, path="/home/talyz/f")["options"] == ["noexec", "nodev"]
    assert operations(tree, "persist", "hide") == [
        {"operation": "hide", "paths": ["/e", "/etc/ephemeroot", "/var/log"]},
        {"operation": "hide", "paths": ["/home/talyz/f"],
         "options": ["x-gvfs-hide", "x-gvfs-name=Mine", "x-gvfs-trash"]},
        {"operation": "hide", "paths": ["/b"], "options": ["x-gvfs-hide", "x-gvfs-trash"]},
    ]  # fmt: skip


def test_file_permissions_are_set_only_on_request(tree: MachineTree) -> None:
    declare(tree, files='"/a", { file = "/b", user = "talyz", group = 5, mode = "g+w" }')
    assert "mode" not in persist(tree, path="/a")
    assert persist(tree, path="/b").items() >= {"user": 1000, "group": 5, "mode": 0o664}.items()


def test_copies_and_overlays_have_only_the_declared_attributes(tree: MachineTree) -> None:
    declare(
        tree,
        directories='{ directory = "/o", method = "overlay", mode = "0700", mount-options = '
        '["nodev"] }, { directory = "/p", method = "overlay" }',
        files='{ file = "/c", method = "copy", user = "talyz", required = true }',
    )
    assert persist(tree, path="/o") == {
        "operation": "overlay", "path": "/o", "source": "o", "store": "/persistent",
        "mode": 0o700, "options": ["nodev"],
    }  # fmt: skip
    assert "mode" not in persist(tree, path="/p")
    assert persist(tree, path="/c") == {
        "operation": "copy", "path": "/c", "source": "c", "store": "/persistent",
        "user": 1000, "required": True,
    }  # fmt: skip


def test_compiles_the_machine_id(tree: MachineTree) -> None:
    tree.write(MAIN, SOUND.replace(
        '"/etc/machine-id"', '{ file = "/etc/machine-id", first-boot = true, method = "copy" }'
    ))  # fmt: skip
    assert persist(tree, operation="machine-id") == {
        "operation": "machine-id", "store": "/persistent", "first-boot": True
    }  # fmt: skip
    assert "/etc/machine-id" not in [o.get("path") for o in operations(tree, "persist", "file")]


@pytest.mark.parametrize("directories", ['"/etc/ephemeroot"', '"/etc"'])
def test_our_own_configuration_persists_once(tree: MachineTree, directories: str) -> None:
    declare(tree, directories)
    paths = [o["path"] for o in operations(tree, "persist", "directory")]
    assert [p for p in paths if "/etc" in p] == [directories.strip('"')]


def test_our_own_configuration_is_in_the_first_store(tree: MachineTree) -> None:
    tree.mark("persistent/second")
    tree.write(MAIN, ROOT + VOLUME + '[persistence."/persistent/second"]\n' + STORE)
    assert persist(tree, path="/etc/ephemeroot")["store"] == "/persistent/second"


def test_compiles_paths_in_homes(tree: MachineTree) -> None:
    declare(tree, '"/home/talyz/Music/x", "/srv/people/ada"', more="""
[persistence."/persistent".users.ada]
files = ["a/b/c"]
[persistence."/persistent".users.colord]
home = "/var/lib/other"
directories = ["x/y"]
""")  # fmt: skip
    talyz, ada = {"user": 1000, "group": 1001}, {"user": 1002, "group": 1002}
    assert (
        persist(tree, path="/home/talyz", operation="parent").items()
        >= (talyz | {"mode": 0o700}).items()
    )
    assert persist(tree, path="/home/talyz/Music", operation="parent").items() >= talyz.items()
    # A directory declared system-wide belongs to root, even in a home.
    assert "user" not in persist(tree, path="/home/talyz/Music/x")
    # A declared home belongs to the user, and is closed to others.
    assert persist(tree, path="/srv/people/ada").items() >= (ada | {"mode": 0o700}).items()
    assert persist(tree, path="/srv/people/ada/a/b").items() >= ada.items()
    assert (
        persist(tree, path="/var/lib/other").items()
        >= ({"user": 120, "group": 121, "mode": 0o700}).items()
    )
    assert persist(tree, path="/var/lib/other/x/y").items() >= {"user": 120, "group": 121}.items()


def test_parents_never_inherit_a_childs_mode(tree: MachineTree) -> None:
    declare(tree, '{ directory = "/a/b/c", mode = "0700", user = "talyz" }, "/var/lib/private/x"')
    assert persist(tree, path="/a/b") == {
        "operation": "parent", "path": "/a/b", "source": "a/b", "store": "/persistent"
    }  # fmt: skip
    assert persist(tree, path="/var/lib/private")["mode"] == 0o700


def test_well_known_directories_keep_their_modes(tree: MachineTree) -> None:
    declare(tree, '"/root", "/var/tmp", "/var/lib/private", { directory = "/tmp", mode = "0755" }')
    modes = {o["path"]: o.get("mode") for o in operations(tree, "persist", "directory")}
    assert modes["/root"] == 0o700
    assert modes["/var/tmp"] == 0o1777
    assert modes["/var/lib/private"] == 0o700
    assert modes["/tmp"] is None  # 0755, as declared


def test_one_parent_directory_of_paths_in_two_stores(tree: MachineTree) -> None:
    tree.mark("persistent/second")
    declare(tree, '"/var/lib/a"', more='[persistence."/persistent/second"]\n'
            'directories = ["/var/lib/b", "/var/log/x"]\n')  # fmt: skip
    parents = [(o["path"], o["store"], o.get("store-only", False))
               for o in operations(tree, "persist", "parent")]  # fmt: skip
    assert ("/var/lib", "/persistent", False) in parents
    assert ("/var/lib", "/persistent/second", True) in parents
    # /var/log is declared in the first store: in the second it only has to exist.
    assert ("/var/log", "/persistent/second", True) in parents
    assert ("/var/log", "/persistent", False) not in parents


def test_paths_in_a_declared_directory_are_created_in_its_store(tree: MachineTree) -> None:
    tree.mark("persistent/second")
    declare(tree, '"/home"', more='[persistence."/persistent/second"]\n'
            'directories = ["/home/x/y"]\n')  # fmt: skip
    parents = {(o["path"], o["store"]): o.get("store-only", False)
               for o in operations(tree, "persist", "parent")}  # fmt: skip
    assert parents["/home/x", "/persistent"] is False
    assert parents["/home/x", "/persistent/second"] is True


def test_compiles_another_store_for_one_entry(tree: MachineTree) -> None:
    tree.mark("persistent/second")
    declare(tree, '{ directory = "/a/b", store = "/persistent/second/" }',
            more='[persistence."/persistent/second"]\n')  # fmt: skip
    assert persist(tree, path="/a/b")["store"] == "/persistent/second"
    assert persist(tree, path="/a")["store"] == "/persistent/second"


NAMES = st.sampled_from(["a", "b", "a b", "é", "new\nline", "*", "-x"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))
ENTRIES = st.lists(
    st.tuples(PATHS, st.booleans(), st.sampled_from(["/persistent", "/persistent/second"])),
    unique_by=lambda entry: entry[0],
    max_size=7,
)


def text_of(entries: list[tuple[str, bool, str]]) -> str:
    """A configuration with these paths, each a directory or not, and their stores."""
    text = ROOT + VOLUME
    for store in ("/persistent", "/persistent/second"):
        text += f"[persistence.{json.dumps(store)}]\n"
        for key, wanted in (("directories", True), ("files", False)):
            paths = [p for p, is_directory, s in entries if (is_directory, s) == (wanted, store)]
            text += f"{key} = {json.dumps(paths)}\n"
    return text


@given(entries=ENTRIES)
@settings(
    max_examples=proof.rounds(40, 1000),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_plan_has_unique_parents_first_and_is_reproducible(
    tree: MachineTree, entries: list[tuple[str, bool, str]]
) -> None:
    tree.mark("persistent/second")
    tree.write(MAIN, text_of(entries))
    machine = tree.machine
    config = read(machine)
    below_a_file = any(
        other != path and other.startswith(f"{path}/")
        for path, is_directory, _ in entries if not is_directory for other, _, _ in entries
    )  # fmt: skip
    assert bool(examine(config, machine).errors) == below_a_file
    if below_a_file:
        return
    made = compile_plan(config, machine)
    assert made.dump() == compile_plan(read(machine), Machine.of(machine.root)).dump()
    assert plan.parse(made.dump()).dump() == made.dump()
    seen: set[tuple[str, str]] = set()
    for operation in json.loads(made.dump())["persist"]:
        if "path" not in operation:
            continue
        path, store = operation["path"], operation["store"]
        parent = path.rpartition("/")[0]
        assert (path, store) not in seen
        assert parent == "" or (parent, store) in seen
        seen.add((path, store))
    assert {(path, store) for path, _, store in entries} <= seen


def test_the_order_of_declarations_does_not_matter(tree: MachineTree) -> None:
    declare(tree, '"/b", "/a/c", "/a"')
    first = tree.plan().dump()
    declare(tree, '"/a", "/b", "/a/c"')
    assert tree.plan().dump() == first


def test_keeps_warnings(tree: MachineTree) -> None:
    tree.write(MAIN, ROOT + VOLUME + '[persistence."/persistent"]\n')
    compilation = compile_machine(read(tree.machine), tree.machine)
    assert {p.reason.split()[0] for p in compilation.warnings} == {"/etc/machine-id", "/var/log"}
