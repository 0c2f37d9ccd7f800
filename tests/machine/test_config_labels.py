"""Labels of SELinux's policy for directories that do not exist yet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ephemeroot.machine.labels import Labels
from machine_tree import MAIN, SOUND, MachineTree

CONTEXTS = r"""
/.*	system_u:object_r:default_t:s0
/var/.*	system_u:object_r:var_t:s0
# a comment
/var/log	-d	system_u:object_r:var_log_t:s0
/var/log/.*	system_u:object_r:var_log_t:s0
/var/log/audit(/.*)?	system_u:object_r:auditd_log_t:s0
/var/lib/only-a-file	--	system_u:object_r:wrong_t:s0
/var/lib/a\.b	system_u:object_r:dotted_t:s0
/var/lib/none	<<none>>
/(srv|data)/www	system_u:object_r:www_t:s0
/broken(	system_u:object_r:wrong_t:s0
/opt?/x	system_u:object_r:opt_t:s0
"""
HOMES = "/home/[^/]+/\\.ssh(/.*)?\tunconfined_u:object_r:ssh_home_t:s0\n"
SUBSTITUTIONS = "# alias real\n/var/home /home\n"


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    tree = MachineTree(tmp_path)
    folder = "etc/selinux/targeted/contexts/files"
    tree.write("etc/selinux/config", "# off?\nSELINUX=enforcing\nSELINUXTYPE=targeted\n")
    tree.write(f"{folder}/file_contexts", CONTEXTS)
    tree.write(f"{folder}/file_contexts.homedirs", HOMES)
    tree.write(f"{folder}/file_contexts.subs_dist", SUBSTITUTIONS)
    return tree


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/log", "var_log_t"),
        ("/var/log/audit", "auditd_log_t"),
        ("/var/lib/only-a-file", "var_t"),
        ("/var/lib/a.b", "dotted_t"),
        ("/var/lib/aXb", "var_t"),
        ("/var/lib/none", None),
        ("/data/www", "www_t"),
        ("/op/x", "opt_t"),
        ("/else", "default_t"),
        ("/home/eve/.ssh", "ssh_home_t"),
        ("/var/home/eve/.ssh", "ssh_home_t"),
    ],
)
def test_finds_the_label_of_a_directory(tree: MachineTree, path: str, kind: str | None) -> None:
    label = Labels.of(str(tree.path)).of_directory(path)
    assert (label and label.split(":")[2]) == kind


def test_the_plan_has_the_labels(tree: MachineTree) -> None:
    tree.write(MAIN, SOUND)
    content = json.loads(tree.plan().dump())
    labels = {o["path"]: o.get("label") for o in content["persist"] if "path" in o}
    assert labels["/var/log"] == "system_u:object_r:var_log_t:s0"
    assert labels["/var"] == "system_u:object_r:default_t:s0"


@pytest.mark.parametrize("settings", ["", "SELINUX=disabled\nSELINUXTYPE=targeted\n"])
def test_there_are_no_labels_without_a_policy(tree: MachineTree, settings: str) -> None:
    tree.write("etc/selinux/config", settings)
    assert "label" not in tree.plan().dump().decode()


def test_warns_of_a_store_that_the_policy_labels_differently(
    tree: MachineTree,
) -> None:
    folder = "etc/selinux/targeted/contexts/files"
    tree.write(f"{folder}/file_contexts.local", "/etc(/.*)?\tsystem_u:object_r:etc_t:s0\n")
    tree.write(MAIN, SOUND)
    hint = "run 'ephemeroot apply', which runs 'semanage fcontext -a -e / /persistent' in the base"
    assert [p.hint for p in tree.problems() if "SELinux" in p.reason] == [hint]
    # A file as semanage writes it.
    tree.write(f"{folder}/file_contexts.subs", "/persistent /\n")
    assert [p for p in tree.problems() if "SELinux" in p.reason] == []
