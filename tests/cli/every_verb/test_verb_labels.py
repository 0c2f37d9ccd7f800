"""Every verb that writes, on a machine with an SELinux policy: each file that it creates has the
policy's label for its final path, in the root, in the store, in a base and in an old root.

The policy is Debian's, and matchpathcon(8) agrees with the labels that are
asked for here (`test_label_policy`). Labels are attributes, and need no SELinux in the kernel.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import proof
from checkout import CHECKOUT
from ephemeroot.machine.libselinux import LibSelinux
from verb_cases import CASES, Case
from verb_machine import Image, VerbMachine

POLICY = CHECKOUT / ".venv/selinux"
FOLDER = "etc/selinux/default/contexts/files"
ATTRIBUTE = "security.selinux"

pytestmark = [
    pytest.mark.requires_loop,
    pytest.mark.requires_program("bindfs"),
    pytest.mark.requires_program("setpriv"),
    pytest.mark.skipif(not POLICY.exists(), reason="needs SELinux's policy: run tools/setup test"),
]

# With SELinux off, the kernel lets no user give labels.
WRITING = [case for case in CASES if case.changes and not case.user]
ALWAYS = (
    "apply", "adopt", "copyback", "roots-restore", "base-run", "base-commit", "leave",
    "setup-dracut",
)  # fmt: skip
CHOSEN = [case for case in WRITING if case.id in ALWAYS]
OTHERS = [case for case in WRITING if case.id not in ALWAYS]

# Content that was moved aside in a store keeps its label.
ASIDE = re.compile(r"/\.ephemeroot/(replaced|copies)/")


@pytest.fixture(scope="module")
def policy() -> LibSelinux:
    return LibSelinux(POLICY / "file_contexts")


def final(name: str) -> str | None:
    """The path for which the policy labels what `VerbMachine.state` calls *name*."""
    found = re.fullmatch(
        r"(?:disk/(?:root|root-base|persistent|(?:old_roots|old_bases)/[^/]+)|(usr))(/.*)?", name
    )
    if found is None or ASIDE.search(name):
        return None
    return f"{'/usr' if found[1] else ''}{found[2] or ''}" or "/"


def label_of(path: Path) -> str | None:
    try:
        return os.getxattr(path, ATTRIBUTE, follow_symlinks=False).rstrip(b"\0").decode()
    except OSError:
        return None


def place(machine: VerbMachine, name: str) -> Path:
    tree, _, rest = name.partition("/")
    return (machine.top if tree == "disk" else machine.folder / "usr/upper") / rest


def mislabelled(
    machine: VerbMachine, policy: LibSelinux, others: Sequence[str] = ()
) -> dict[str, tuple[str | None, str]]:
    """Entries with another label than the policy wants: their own, and that. Those that match
    *others* are not Ephemeroot's, and the host's files in /usr have no labels.
    """
    found = {}
    for name in machine.state():
        path = final(name)
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in others):
            continue
        if path is not None and not (name.startswith("usr") and os.path.lexists(path)):
            where = place(machine, name)
            wanted = policy.look_up(path, stat.S_IFMT(where.lstat().st_mode))
            if wanted is not None and label_of(where) != wanted:
                found[name] = (label_of(where), wanted)
    return found


def install(tree: Path) -> None:
    """The policy in the root directory *tree*."""
    (tree / FOLDER).mkdir(parents=True)
    (tree / "etc/selinux/config").write_text("SELINUX=enforcing\nSELINUXTYPE=default\n")
    for path in POLICY.glob("file_contexts*"):
        (tree / FOLDER / path.name).write_bytes(path.read_bytes())


def label_everything(machine: VerbMachine) -> None:
    policy = LibSelinux(POLICY / "file_contexts")
    for name in machine.state():
        path = final(name)
        if path is not None:
            where = place(machine, name)
            wanted = policy.look_up(path, stat.S_IFMT(where.lstat().st_mode))
            if wanted is not None:
                os.setxattr(where, ATTRIBUTE, wanted.encode() + b"\0", follow_symlinks=False)
    os.sync()


def with_policy(prepare: Callable[[VerbMachine], None] | None) -> Callable[[VerbMachine], None]:
    """A machine that was installed with SELinux, and relabelled once as a whole."""

    def prepared(machine: VerbMachine) -> None:
        if prepare is not None:
            prepare(machine)
        for name in ("root", "root-base"):
            if (machine.top / name).exists():
                install(machine.top / name)
        label_everything(machine)

    return prepared


@pytest.mark.parametrize(
    "case", [*CHOSEN, *proof.sample(OTHERS, 2, seed=25)], ids=lambda case: case.id
)
def test_new_files_of_a_verb_have_the_label_of_their_final_path(
    case: Case, verb_image: Image, policy: LibSelinux
) -> None:
    name = f"labels-{case.id if case.prepare else ''}"
    with verb_image.machine(name, with_policy(case.prepare), booted=case.booted) as machine:
        assert mislabelled(machine, policy, case.varies) == {}
        before = machine.state()
        done = machine.ephemeroot(*case.argv, daemons=case.daemons)
        assert done.code == case.code, done.err
        after = machine.state()
        assert after != before
        assert mislabelled(machine, policy, case.varies) == {}


def subs(machine: VerbMachine, name: str) -> str:
    path = machine.top / name / FOLDER / "file_contexts.subs"
    return path.read_text() if path.exists() else ""


def test_the_store_is_equivalent_to_the_root_from_apply_to_leave(verb_image: Image) -> None:
    """In the base, of which the next root is made, and in the running root."""
    with verb_image.machine("labels-", with_policy(None)) as machine:
        trees = ("root", "root-base")
        shown = machine.must("apply", "--yes", "--no-images", "--dry-run")
        assert "have SELinux's policy in this root label /persistent like /" in shown
        assert "have SELinux's policy in the base label /persistent like /" in shown
        assert [subs(machine, name) for name in trees] == ["", ""]
        bases = os.listdir(machine.top / "old_bases")
        warned = machine.ephemeroot("check").out
        assert "does not label the store /persistent like the root" in warned
        machine.must("apply", "--yes", "--no-images")
        assert [subs(machine, name) for name in trees] == ["/persistent /\n"] * 2
        assert len(os.listdir(machine.top / "old_bases")) == len(bases) + 1
        assert "like the root" not in machine.ephemeroot("check").out
        # Again: nothing to change, and no other base.
        said = machine.must("apply", "--yes", "--no-images")
        assert said.count("label /persistent like /: already present") == 2
        assert len(os.listdir(machine.top / "old_bases")) == len(bases) + 1
        # The next root has it. An image would have the plan.
        plan = "etc/ephemeroot/plan.json"
        shutil.copy(machine.top / "persistent" / plan, machine.top / "root" / plan)
        machine.reboot()
        assert subs(machine, "root") == "/persistent /\n"
        machine.must("leave", "--yes", "--no-images")
        assert [subs(machine, name) for name in trees] == ["", ""]


def test_an_equivalence_of_the_administrator_is_kept_by_leave(verb_image: Image) -> None:
    with verb_image.machine("labels-", with_policy(None)) as machine:
        both = "/persistent /\n/a /b\n"
        for name in ("root", "root-base"):
            (machine.top / name / FOLDER / "file_contexts.subs").write_text(both)
        machine.must("apply", "--yes", "--no-images")
        machine.must("leave", "--yes", "--no-images")
        assert subs(machine, "root") == both


def test_another_equivalence_of_the_store_is_reported_and_kept(verb_image: Image) -> None:
    with verb_image.machine("labels-", with_policy(None)) as machine:
        for name in ("root", "root-base"):
            (machine.top / name / FOLDER / "file_contexts.subs").write_text("/persistent /var\n")
        done = machine.ephemeroot("apply", "--yes", "--no-images")
        assert done.code == 10
        assert "SELinux's policy labels /persistent like /var, not like /" in done.err
        assert subs(machine, "root") == "/persistent /var\n"


def test_check_and_rehearse_report_wrong_labels_and_relabellings(verb_image: Image) -> None:
    with verb_image.machine("labels-", with_policy(None)) as machine:
        machine.must("apply", "--yes", "--no-images")
        assert "SELinux" not in machine.ephemeroot("check").out
        assert "SELinux" not in machine.ephemeroot("rehearse").out
        store = machine.top / "persistent"
        wrong = b"system_u:object_r:tmp_t:s0\0"
        for name in ("var/log", "var/log/boot1", "srv/data/thesis"):
            os.setxattr(store / name, ATTRIBUTE, wrong)
        for name in ("root", "root-base"):
            (machine.top / name / ".autorelabel").touch()
        os.sync()
        said = machine.ephemeroot("check").out
        for line in (
            "/.autorelabel is in the base: at each boot SELinux relabels all files and restarts",
            "/.autorelabel is in this root, which the next boot makes fresh: nothing is relabelled",
            "rm -f /.autorelabel'\" relabels the base, and 'restorecon -RF /persistent' relabels",
            "the label differs from the SELinux policy: /persistent/var/log (tmp_t, not var_log_t)",
            "run 'restorecon -vF /persistent/var/log'",
        ):
            assert said.count(line) >= 1, (line, said)
        rehearsed = machine.ephemeroot("rehearse").out
        for line in (
            "/var/log: the label differs from the SELinux policy: /var/log (tmp_t, not var_log_t)",
            "run 'restorecon -RFv /persistent/srv/data'",
            "/.autorelabel would be in every new root",
        ):
            assert line in rehearsed, (line, rehearsed)
