"""Volumes on the network: addresses, options, the table [network], and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from ephemeroot.hooks.operations.network import Network
from ephemeroot.hooks.operations.volumes import MountVolume
from machine_tree import MAIN, ROOT, STORE, MachineTree


def nfs(device: str = "10.9.0.1:/srv/kiosk", options: str = "", kind: str = "nfs4") -> str:
    return (
        f'[[volumes]]\nmount-point = "/persistent"\ndevice = "{device}"\ntype = "{kind}"\n'
        f"options = [{options}]\ntimeout = 20\n"
    )


NETWORK = """\
[network]
interface = "enp1s0"
address = "10.9.0.7/24"
"""


@pytest.fixture
def tree(tmp_path: Path) -> MachineTree:
    return MachineTree(tmp_path, ROOT + nfs() + STORE)


def with_volume(tree: MachineTree, volume: str, more: str = "") -> MachineTree:
    tree.write(MAIN, ROOT + volume + STORE + more)
    return tree


def planned(tree: MachineTree) -> MountVolume:
    (volume,) = [o for o in tree.plan().wipe if isinstance(o, MountVolume)]
    return volume


def warnings(tree: MachineTree) -> str:
    return "\n".join(str(problem) for problem in tree.problems() if problem.warning)


def test_the_plan_has_address_and_version(tree: MachineTree) -> None:
    assert planned(tree).options == ["vers=4.2", "addr=10.9.0.1"]
    assert planned(tree).timeout == 20


def test_leaves_out_options_that_only_mount_nfs_understands(tree: MachineTree) -> None:
    with_volume(tree, nfs(options='"bg", "retry=2", "_netdev", "hard", "vers=4.1", "soft"'))
    assert planned(tree).options == ["hard", "vers=4.1", "soft", "addr=10.9.0.1"]


def test_reads_a_network_volume_from_fstab(tree: MachineTree) -> None:
    tree.write(MAIN, ROOT + STORE)
    with (tree.path / "etc/fstab").open("a") as lines:
        lines.write(
            "[fd00::1]:/srv /persistent nfs4 _netdev,x-initrd.mount,x-systemd.device-timeout=7s\n"
        )
    assert planned(tree).options == ["vers=4.2", "addr=fd00::1"]
    assert planned(tree).device == "[fd00::1]:/srv"


def test_resolves_a_name_in_the_machines_own_hosts(tree: MachineTree) -> None:
    tree.write("etc/hosts", "127.0.0.1 localhost\nbad nas\n10.9.0.3 NAS.example.net nas # ours\n")
    with_volume(tree, nfs("nas:/srv"))
    assert planned(tree).options[-1] == "addr=10.9.0.3"
    assert planned(tree).device == "nas:/srv"


def test_refuses_an_unknown_name(tree: MachineTree) -> None:
    with_volume(tree, nfs("nowhere:/srv"))
    complaint = tree.complaint()
    assert "the address of the server nowhere is not known" in complaint
    assert tree.show("etc/hosts") in complaint


def test_keeps_an_explicit_address(tree: MachineTree) -> None:
    with_volume(tree, nfs("nowhere:/srv", '"addr=10.9.0.9"'))
    assert planned(tree).options == ["vers=4.2", "addr=10.9.0.9"]


def test_accepts_nfs_3_and_4_0(tree: MachineTree) -> None:
    with_volume(tree, nfs(options='"vers=3", "nolock"', kind="nfs"))
    assert planned(tree).options == ["vers=3", "nolock", "addr=10.9.0.1"]
    with_volume(tree, nfs(options='"vers=4.0"'))
    assert planned(tree).options == ["vers=4.0", "clientaddr=0.0.0.0", "addr=10.9.0.1"]


def share(options: str, kind: str = "cifs") -> str:
    """A volume in addition to the store."""
    return nfs() + nfs("//10.9.0.1/media", options, kind).replace("/persistent", "/srv/media")


def test_accepts_a_share_by_smb(tree: MachineTree) -> None:
    with_volume(tree, share('"username=kiosk", "password=a, b", "uid=1000", "file_mode=0640"'))
    media = tree.plan().wipe[1]
    assert isinstance(media, MountVolume)
    assert media.options[-1] == "ip=10.9.0.1"
    assert "password=***," in media.describe()
    assert "a, b" not in media.describe()
    assert "root will own all files" not in warnings(tree)
    with_volume(tree, share('"guest"', "smb3"))
    assert "root will own all files of /srv/media: smb3 stores neither owners" in warnings(tree)


@pytest.mark.parametrize("options", ['"guest"', '"guest", "posix"', '"guest", "modefromsid"'])
def test_refuses_a_store_on_a_share_by_smb(tree: MachineTree, options: str) -> None:
    with_volume(tree, nfs("//10.9.0.1/kiosk", options, "cifs"))
    assert "a cifs, which stores neither owners nor modes" in tree.complaint()


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        (nfs("10.9.0.1"), "does not name a server"),
        (nfs(options='"sec=krb5p"'), "rpc.gssd"),
        (nfs(options='"vers=3"', kind="nfs"), 'add "nolock"'),
        (nfs(options='"vers=3", "nolock"'), 'set type = "nfs"'),
        (nfs(options='"nfsvers=2"', kind="nfs"), "NFS 2"),
        (share('"guest"').replace("//10.9.0.1/", "10.9.0.1:/"), "//SERVER/SHARE"),
        (share('"credentials=/etc/cifs"'), "mount.cifs"),
        (share(""), "the user name"),
        (share('"guest", "uid=ada"'), "is not a number"),
        (share('"guest", "sec=krb5"'), "daemon"),
        (nfs("store", '"trans=tcp"', "9p"), "trans=virtio"),
        (nfs("store", "", "9p"), "trans=virtio"),
        (nfs("ada@10.9.0.1:", "", "fuse.sshfs"), "a running daemon"),
        (nfs("10.9.0.1:/vol", "", "glusterfs"), "use nfs4"),
    ],
)  # fmt: skip
def test_refuses_volumes_that_an_initramfs_cannot_mount(
    tree: MachineTree, volume: str, words: str
) -> None:
    assert words in with_volume(tree, volume).complaint()


def test_shares_of_the_hypervisor_need_no_network(tree: MachineTree) -> None:
    with_volume(tree, nfs("store", '"trans=virtio"', "9p"))
    assert planned(tree).options == ["trans=virtio"]
    with_volume(tree, nfs("store", "", "virtiofs"), NETWORK)
    assert "[network] has no effect" in warnings(tree)


def test_leaves_volumes_not_needed_for_boot_to_the_real_system(tree: MachineTree) -> None:
    volume = '[[volumes]]\nmount-point = "/media"\ndevice = "a@b:"\ntype = "fuse.sshfs"\n'
    with_volume(tree, nfs() + volume + "needed-for-boot = false\n")
    assert not tree.errors()


def test_refuses_an_overlay_on_the_network(tree: MachineTree) -> None:
    with_volume(tree, nfs())
    entry = '{ directory = "/opt", method = "overlay" }'
    text = (tree.path / MAIN).read_text().replace('"/var/log"', f'"/var/log", {entry}')
    tree.write(MAIN, text)
    assert "/opt cannot be an overlay in the store /persistent" in tree.complaint()


def test_warns_of_soft_mounts(tree: MachineTree) -> None:
    assert "has the option soft" in warnings(with_volume(tree, nfs(options='"soft"')))


# The table [network]


def test_a_static_network_is_set_up_first(tree: MachineTree) -> None:
    with_volume(tree, nfs("192.0.2.1:/srv"), NETWORK + 'gateway = "10.9.0.1"\n')
    compilation = tree.compilation()
    first = compilation.plan.wipe[0]
    assert isinstance(first, Network)
    assert first.describe() == "set up enp1s0 with 10.9.0.7/24, gateway 10.9.0.1"
    assert first.timeout == 20
    assert compilation.wipe_places[0].key == "network"
    assert isinstance(compilation.plan.wipe[1], MountVolume)


def test_accepts_several_addresses(tree: MachineTree) -> None:
    text = NETWORK.replace('"10.9.0.7/24"', '["10.9.0.7/24", "fd00::7/64"]')
    with_volume(tree, nfs(), text + 'gateway = ["10.9.0.1", "fe80::1"]\n')
    first = tree.plan().wipe[0]
    assert isinstance(first, Network)
    assert first.addresses == ["10.9.0.7/24", "fd00::7/64"]
    assert first.gateways == ["10.9.0.1", "fe80::1"]


def test_a_drop_in_overrides_a_key_of_the_network(tree: MachineTree) -> None:
    with_volume(tree, nfs(), NETWORK)
    tree.write("etc/ephemeroot/conf.d/host.toml", '[network]\naddress = "10.9.0.8/24"\n')
    first = tree.plan().wipe[0]
    assert isinstance(first, Network)
    assert (first.interface, first.addresses) == ("enp1s0", ["10.9.0.8/24"])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("/24", "", 'add it, for example "10.9.0.7/24"'),
        ("10.9.0.7/24", "10.9.0.777/24", "is not an address"),
        ("enp1s0", "enp1 s0", "is not the name of an interface"),
        ('interface = "enp1s0"\n', "", "`interface` is missing"),
        ("address =", "adress =", "did you mean `address`"),
        ("/24", '/24"\ngateway = "10.8.0.1', "not in a network of the interface"),
        ("/24", '/24"\ngateway = "router', "not the address of a router"),
        (
            "/24",
            '/24"\ngateway = ["10.9.0.1", "10.9.0.2"]\n# "',
            "name one router for each protocol",
        ),
        ("10.9.0.7", "10.8.0.7", "has no gateway"),
    ],
)
def test_reports_mistakes_in_the_network_table(
    tree: MachineTree, old: str, new: str, words: str
) -> None:
    with_volume(tree, nfs(), NETWORK.replace(old, new))
    assert words in tree.complaint()


def test_the_network_table_has_no_effect_without_a_network_volume(tmp_path: Path) -> None:
    tree = MachineTree(tmp_path)
    with (tmp_path / MAIN).open("a") as text:
        text.write(NETWORK)
    assert "[network] has no effect" in warnings(tree)
    assert not any(isinstance(o, Network) for o in tree.plan().wipe)


NO_MACHINES = {
    4: {"224.0.0.5": "multicast", "127.0.0.1": "loopback", "0.0.0.0": "unspecified",
        "255.255.255.255": "broadcast"},
    6: {"ff02::1": "multicast", "::1": "loopback", "::": "unspecified"},
}  # fmt: skip
"""Addresses that a machine cannot have, each with a word from the reason, by IP version."""


@pytest.mark.parametrize("key", ["address", "gateway"])
@pytest.mark.parametrize("version", [4, 6])
def test_refuses_addresses_that_a_machine_cannot_have(
    tree: MachineTree, key: str, version: int
) -> None:
    length = 24 if version == 4 else 64
    for text, word in NO_MACHINES[version].items():
        value = f"{text}/{length}" if key == "address" else text
        table = (
            f'[network]\ninterface = "enp1s0"\naddress = "{value}"\n'
            if key == "address"
            else f'{NETWORK}gateway = "{value}"\n'
        )
        assert f"'{value}' is " in with_volume(tree, nfs(), table).complaint()
        assert f"{word} address" in tree.complaint()


@pytest.mark.parametrize("version", [4, 6])
def test_refuses_a_server_at_which_no_other_machine_can_be(tree: MachineTree, version: int) -> None:
    """Whether its address is written, or comes from the machine's own hosts."""
    for text, word in NO_MACHINES[version].items():
        server = f"[{text}]" if version == 6 else text
        for device, hosts in ((server, ""), ("nas", f"{text} nas\n")):
            tree.write("etc/hosts", hosts)
            for table in ("", NETWORK):
                assert (
                    f"{word} address" in with_volume(tree, nfs(f"{device}:/x"), table).complaint()
                )


@pytest.mark.parametrize("server", ["10.9.0.0", "10.9.0.255", "[fd00::]"])
def test_refuses_the_address_of_a_network_as_a_server(tree: MachineTree, server: str) -> None:
    own = "fd00::2/64" if "[" in server else "10.9.0.2/24"
    table = f'[network]\ninterface = "enp1s0"\naddress = "{own}"\n'
    assert "is the address of all of" in with_volume(tree, nfs(f"{server}:/x"), table).complaint()


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("10.9.0.0/24", "the address of a network"),
        ("10.9.0.255/24", "the broadcast address"),
        ("10.9.3.255/22", "the broadcast address"),
        ("fd00::/64", "the address of a network"),
        ("10.9.0.0/31", None),  # RFC 3021: both addresses belong to machines
        ("10.9.0.1/31", None),
        ("10.9.0.7/32", None),
        ("10.9.0.255/22", None),
        ("fd00::/127", None),
    ],
)
def test_refuses_the_address_of_the_network_itself(
    tree: MachineTree, address: str, word: str | None
) -> None:
    server = "[fd00::1]" if ":" in address else "10.9.0.2"
    table = f'[network]\ninterface = "enp1s0"\naddress = "{address}"\n'
    if word is not None:
        assert word in with_volume(tree, nfs(f"{server}:/srv"), table).complaint()
        return
    with_volume(tree, nfs(f"{server}:/srv"), f'{table}gateway = "{server.strip("[]")}"\n')
    assert "the address of a network" not in "".join(map(str, tree.errors()))
    assert "broadcast" not in "".join(map(str, tree.errors()))


@pytest.mark.parametrize("address", ["10.9.0.7/24", "fd00::7/64"])
def test_refuses_the_machines_own_address_as_router_or_server(
    tree: MachineTree, address: str
) -> None:
    own = address.partition("/")[0]
    server = f"[{own}]" if ":" in own else own
    table = f'[network]\ninterface = "enp1s0"\naddress = "{address}"\n'
    other = own.replace("7", "1")
    volume = nfs(f"{server.replace(own, other)}:/srv")
    with_volume(tree, volume, f'{table}gateway = "{own}"\n')
    assert f"the gateway {own} is this machine's own address" in tree.complaint()
    with_volume(tree, nfs(f"{server}:/srv"), table)
    assert f"the server {own} of /persistent is this machine's own address" in tree.complaint()


@pytest.mark.parametrize("kind", ["nfs4", "cifs"])
def test_resolves_a_name_in_an_address_option_like_the_servers(
    tree: MachineTree, kind: str
) -> None:
    key = "addr" if kind == "nfs4" else "ip"
    device = "10.9.0.1:/srv" if kind == "nfs4" else "//10.9.0.1/srv"
    options = f'"{key}=nas.lan"' + (', "guest", "uid=0"' if kind == "cifs" else "")
    volume = nfs(device, options, kind).replace("/persistent", "/srv/media")
    with_volume(tree, nfs() + volume, NETWORK)
    assert "the address of the server nas.lan is not known" in tree.complaint()
    tree.write("etc/hosts", "10.9.0.8 nas.lan\n")
    media = next(
        o for o in tree.plan().wipe if isinstance(o, MountVolume) and "srv" in o.mount_point
    )
    assert media.options[-1] == f"{key}=10.9.0.8"


@pytest.mark.parametrize("where", ["device", "option", "hosts"])
def test_a_link_local_server_keeps_its_interface(tree: MachineTree, where: str) -> None:
    def declared(address: str) -> MachineTree:
        table = NETWORK.replace("10.9.0.7/24", "fe80::5/64")
        if where == "device":
            return with_volume(tree, nfs(f"[{address}]:/srv"), table)
        if where == "option":
            return with_volume(tree, nfs("nas:/srv", f'"addr={address}"'), table)
        tree.write("etc/hosts", f"{address} nas\n")
        return with_volume(tree, nfs("nas:/srv"), table)

    assert declared("fe80::1%enp1s0").errors() == []
    operation = next(o for o in tree.plan().wipe if isinstance(o, MountVolume))
    assert operation.options[-1] == "addr=fe80::1%enp1s0"
    assert "is link-local, but does not name an interface" in declared("fe80::1").complaint()


def test_refuses_a_link_local_server_of_a_share(tree: MachineTree) -> None:
    volume = nfs("//[fe80::1%eth0]/media", '"guest", "uid=0"', "cifs")
    with_volume(tree, nfs() + volume.replace("/persistent", "/srv/media"), NETWORK)
    assert "cifs does not accept the name of an interface" in tree.complaint()


@pytest.mark.parametrize("port", ["65536", "99999", "-1", "nfs", "²"])
@pytest.mark.parametrize("kind", ["nfs4", "cifs"])
def test_a_port_has_sixteen_bits(tree: MachineTree, port: str, kind: str) -> None:
    device = "10.9.0.1:/srv" if kind == "nfs4" else "//10.9.0.1/srv"
    volume = nfs(device, f'"port={port}", "guest", "uid=0"', kind).replace(
        "/persistent", "/srv/media"
    )
    assert f"port={port} is not a port" in with_volume(tree, nfs() + volume, NETWORK).complaint()


@pytest.mark.parametrize(
    ("line", "more", "warned"),
    [
        ("root=/dev/sda rootflags=subvol=root", "", True),
        ("root=/dev/sda rootflags=subvol=root", NETWORK, False),
        ("root=/dev/sda rootflags=subvol=root rd.neednet=1 ip=dhcp", "", False),
    ],
)
def test_decides_which_program_sets_up_the_network(
    tree: MachineTree, line: str, more: str, warned: bool
) -> None:
    with_volume(tree, nfs(), more)
    tree.write("etc/kernel/cmdline", line + "\n")
    assert ("cannot mount /persistent in the initramfs: no network" in warnings(tree)) == warned
