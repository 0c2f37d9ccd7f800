"""`check` refuses every option, address and link that the kernel refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from machine_tree import MAIN, ROOT, STORE, VOLUME, MachineTree

NETWORK = '[network]\ninterface = "eth0"\n'
V4 = NETWORK + 'address = "10.0.0.5/24"\ngateway = "10.0.0.1"\n'
V6 = NETWORK + 'address = ["10.0.0.5/24", "fe80::5/64"]\n'


def mounting(
    tmp_path: Path, device: str, kind: str = "nfs4", options: str = "", table: str = V4
) -> MachineTree:
    words = ", ".join(f'"{word}"' for word in options.split(",") if word)
    volume = f'[[volumes]]\nmount-point = "/n"\ndevice = "{device}"\ntype = "{kind}"\n'
    return MachineTree(tmp_path, f"{ROOT}{VOLUME}{volume}options = [{words}]\n{table}{STORE}")


@pytest.mark.parametrize("key", ["port", "mountport"])
@pytest.mark.parametrize(
    ("value", "accepted"),
    [("1", True), ("65535", True), ("65536", False), ("99999", False), ("-1", False),
     ("nfs", False), ("", False), ("0x801", False), ("+2049", False)],
)  # fmt: skip
def test_refuses_a_port_that_is_not_a_number(
    tmp_path: Path, key: str, value: str, accepted: bool
) -> None:
    tree = mounting(tmp_path, "10.0.0.1:/x", "nfs", f"vers=3,nolock,{key}={value}")
    assert (tree.errors() == []) == accepted
    if not accepted:
        assert f"{key}={value} is not a port" in tree.complaint()
        assert not any("[network] has no effect" in p.reason for p in tree.problems()), (
            "there is one"
        )


@pytest.mark.parametrize(
    ("option", "accepted"),
    [("timeo=0", False), ("timeo=1", True), ("timeo=600", True), ("timeo=-1", False),
     ("retrans=0", True), ("retrans=x", False), ("nconnect=0", False), ("nconnect=16", True),
     ("nconnect=17", False), ("max_connect=17", False)],
)  # fmt: skip
def test_refuses_a_number_that_the_kernel_refuses(
    tmp_path: Path, option: str, accepted: bool
) -> None:
    assert (mounting(tmp_path, "10.0.0.1:/x", options=option).errors() == []) == accepted


@pytest.mark.parametrize(
    ("device", "kind", "options"),
    [
        ("10.0.0.1:/x", "nfs", "vers=3,nolock,mountaddr=nas.lan"),
        ("10.0.0.1:/x", "nfs4", "clientaddr=here.lan"),
        ("10.0.0.1:/x", "nfs4", "addr=nas.lan"),
        ("//10.0.0.1/s", "cifs", "guest,ip=nas.lan"),
        ("//10.0.0.1/s", "cifs", "guest,addr=nas.lan"),
        ("//10.0.0.1/s", "cifs", "guest,srcaddr=here.lan"),
    ],
)
def test_refuses_a_name_where_the_kernel_needs_an_address(
    tmp_path: Path, device: str, kind: str, options: str
) -> None:
    assert "cannot resolve names" in mounting(tmp_path, device, kind, options).complaint()


def test_both_names_of_the_address_option_of_cifs_are_recognised(tmp_path: Path) -> None:
    tree = mounting(tmp_path, "//nas/s", "cifs", "guest,uid=0,addr=10.0.0.9")
    (planned,) = [o for o in tree.plan().wipe if getattr(o, "mount_point", "") == "/n"]
    assert planned.options == ["guest", "uid=0", "ip=10.0.0.9"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("fe80::1%eth0", ""),
        ("fe80::1", "is link-local, but does not name an interface"),
        ("fe80::1%eth1", "its link is that of eth1, but [network] sets up eth0"),
        ("fe80::1%25eth0", "its link is that of 25eth0"),
        ("2001:db8::1%eth0", "names an interface, but is not link-local"),
        ("::ffff:10.0.0.1", "not in a network"),
    ],
)
@pytest.mark.parametrize("where", ["device", "option", "hosts"])
def test_a_link_local_server_must_name_the_configured_interface(
    tmp_path: Path, server: str, words: str, where: str
) -> None:
    device = f"[{server}]:/x" if where == "device" else "nas:/x"
    tree = mounting(tmp_path, device, options=f"addr={server}" if where == "option" else "",
                    table=V6)  # fmt: skip
    if where == "hosts":
        tree.write("etc/hosts", f"{server} nas\n")
    if words:
        assert words in tree.complaint()
    else:
        assert tree.problems() == []


@pytest.mark.parametrize(
    ("address", "gateway", "words"),
    [
        ("10.0.0.5/24", "10.0.0.1", ""),
        ("10.0.0.5/24", "10.0.0.5", "own address"),
        ("10.0.0.5/24", "10.0.0.0", "broadcast address of 10.0.0.0/24"),
        ("10.0.0.5/24", "10.0.0.255", "broadcast address of 10.0.0.0/24"),
        ("10.0.0.5/24", "10.0.1.1", "not in a network"),
        ("10.0.0.4/31", "10.0.0.5", ""),
        ("fd00::5/64", "fd00::", "broadcast address of fd00::/64"),
        ("fd00::5/64", "fd00:0::0005", "own address"),
        ("fd00::5/64", "fe80::1", ""),
    ],
)
def test_refuses_a_gateway_that_is_not_another_machine_of_the_network(
    tmp_path: Path, address: str, gateway: str, words: str
) -> None:
    server = "[2001:db8::9]:/x" if ":" in address else "10.9.9.9:/x"
    table = f'{NETWORK}address = "{address}"\ngateway = "{gateway}"\n'
    tree = mounting(tmp_path, server, table=table)
    if words:
        assert words in tree.complaint()
    else:
        assert tree.problems() == []


def test_warns_of_an_unused_network_table(tmp_path: Path) -> None:
    tree = MachineTree(tmp_path, f"{ROOT}{VOLUME}{V4}{STORE}")
    assert tree.errors() == []
    assert any("[network] has no effect" in problem.reason for problem in tree.problems())
    tree.write(MAIN, ROOT + VOLUME + STORE)
    assert tree.problems() == []
