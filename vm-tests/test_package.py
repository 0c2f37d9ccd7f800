"""The Debian package: its content, and its effect on a machine and its images. No machine boots
here: other tests boot the systems in which it is installed.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ephemeroot
from ephemeroot.image import archive
from vm import layer
from vm import package as packages
from vm.cache import Cache
from vm.command import Unavailable
from vm.ephemeral import CONFIGURATION
from vm.system import System

CHECKOUT = Path(__file__).resolve().parent.parent

# A kernel's update, as far as it concerns images: its package's postinst runs the generators' hooks
# (dracut's is /etc/kernel/postinst.d/dracut). QEMU loads the kernel: an empty file represents it.
LIFE = """\
set -e
export DEBIAN_FRONTEND=noninteractive
unset INITRD
kernel=$(ls /usr/lib/modules)
image=/boot/initrd.img-$kernel
touch "/boot/vmlinuz-$kernel"
echo 'compress="cat" filesystems="btrfs"' > /etc/dracut.conf.d/quick.conf
update_kernel() {
    rm -f "$image"
    dpkg-reconfigure "linux-image-$kernel" > /run/log 2>&1 || { cat /run/log; exit 1; }
    cp "$image" "/run/results/$1"
}

update_kernel without
sum=$(sha256sum "$image")
echo "== installed"; apt-get -qq -y --no-install-recommends install /usr/src/ephemeroot.deb 2>&1
[ "$sum" = "$(sha256sum "$image")" ] && echo "the image is as it was"
find /etc/ephemeroot /etc/systemd/*/*.wants -name '*ephemeroot*' -o -path '/etc/ephemeroot/*'
update_kernel unconfigured

useradd --uid 1000 talyz
mkdir -p /persistent /run/machine
# A store that is not mounted gets no marker; this one has been a store before.
echo '{"version": 1, "id": "0e2b7c1a-5d3f-4a68-9b70-c1d2e3f4a5b6"}' > \
  /persistent/.ephemeroot-store
cp /usr/src/configuration /etc/ephemeroot/ephemeroot.toml
mount --rbind / /run/machine
ephemeroot --root /run/machine apply --yes --no-images > /dev/null
umount --lazy /run/machine
cp /etc/ephemeroot/plan.json /run/results/
update_kernel applied
rm "$image"
echo "== upgraded"; apt-get -qq -y install --reinstall /usr/src/ephemeroot.deb > /run/log 2>&1
cp "$image" /run/results/upgraded

echo "== refused"; apt-get -qq -y remove ephemeroot 2>&1 && exit 1
dpkg-query --show --showformat '${db:Status-Status}\\n' ephemeroot
ephemeroot --version
rm /etc/ephemeroot/plan.json
mkdir /.ephemeroot; touch /.ephemeroot/leaving.json
echo "== leaving"; apt-get -qq -y remove ephemeroot 2>&1 && exit 1
rm -r /.ephemeroot
echo "== removed"; apt-get -qq -y purge ephemeroot > /run/log 2>&1
dpkg-query --show ephemeroot 2>&1 || true
find /usr /var /etc /boot -name '*ephemeroot*' -not -path '/usr/src/*' -not -path '/var/log/*'
"""

SIGNS = re.compile(r"ephemeroot|python")


@pytest.fixture(scope="module")
def built(cache: Cache) -> Path:
    """The source package and the packages that were built from it."""
    try:
        return packages.everything(cache)
    except Unavailable as error:
        pytest.skip(f"no Debian package can be built here: {error}")


def test_the_source_package_builds_and_lintian_reports_nothing(cache: Cache, built: Path) -> None:
    """Without a boot: Debian's tools run in a chroot."""
    assert len(list(built.glob("ephemeroot_*.dsc"))) == 1
    assert len(list(built.glob("ephemeroot_*.deb"))) == 1
    script = "cd /usr/src && lintian --allow-root --display-info --pedantic *.changes 2>&1 || true"
    assert packages.run_in_builder(cache, script, built) == ""


def test_contents_of_the_debian_package(cache: Cache, built: Path) -> None:
    """Without a boot: Debian's tools run in a chroot."""
    listing = packages.run_in_builder(cache, "dpkg-deb --contents /usr/src/*.deb", built)
    packed = {row.split()[5].removeprefix("."): row.split()[0] for row in listing.splitlines()}
    (module,) = (CHECKOUT / "dracut").iterdir()
    modules = "/usr/lib/python3/dist-packages/ephemeroot"
    expected = {
        "/usr/bin/ephemeroot",
        f"/usr/lib/dracut/modules.d/{module.name}/module-setup.sh",
        f"/usr/lib/dracut/modules.d/{module.name}/ephemeroot",
        "/usr/lib/initcpio/install/ephemeroot",
        "/usr/lib/initcpio/hooks/ephemeroot",
        "/usr/lib/systemd/system/ephemeroot-boot-complete.service",
        "/usr/lib/systemd/system/multi-user.target.wants/ephemeroot-boot-complete.service",
        "/usr/lib/systemd/user/ephemeroot-home.service",
        "/usr/share/doc/ephemeroot/README.md",
        "/usr/share/doc/ephemeroot/docs/boot.md",
        "/usr/share/bash-completion/completions/ephemeroot",
        "/usr/share/fish/vendor_completions.d/ephemeroot.fish",
        "/usr/share/zsh/vendor-completions/_ephemeroot",
        "/etc/ephemeroot/conf.d/",
        "/usr/lib/ephemeroot/conf.d/",
        *(f"/usr/share/man/man{p.suffix[1:]}/{p.name}.gz" for p in (CHECKOUT / "man").iterdir()),
        *(f"{modules}/{name}/__init__.py" for name in ("cli", "hooks", "linux", "wipers")),
    }
    assert expected <= packed.keys()
    # In /etc there are folders for the administrator and the hook of apt, which reads no others.
    assert {name for name in packed if name.startswith("/etc/")} == {
        "/etc/", "/etc/ephemeroot/", "/etc/ephemeroot/conf.d/",
        "/etc/apt/", "/etc/apt/apt.conf.d/", "/etc/apt/apt.conf.d/80ephemeroot",
    }  # fmt: skip
    tops = {re.sub(r"(?<=.)/.*", "", name.removeprefix("/usr")) for name in packed}
    assert tops == {"/", "/bin", "/etc", "/lib", "/share"}


def test_the_package_during_the_life_of_a_machine(
    cache: Cache, image: System, package: Path
) -> None:
    """Without a boot: dpkg and dracut run in a chroot."""
    if package.suffix != ".deb":
        pytest.skip("EPHEMEROOT_PACKAGE is no .deb")
    files = {
        "usr/src/ephemeroot.deb": package.read_bytes(),
        "usr/src/configuration": CONFIGURATION.encode(),
    }
    system = image.on_top(layer.make(cache, files=files))
    with cache.scratch("life") as results:
        said = system.run(cache, "sh", "-c", LIFE, results=results)
        images = {path.name: path for path in results.iterdir() if path.name != "plan.json"}
        plan = (results / "plan.json").read_bytes()
        found = {name: archive.read(path, _is_plan) for name, path in images.items()}
    parts = re.split(r"^== (\w+)\n", said, flags=re.MULTILINE)
    told = dict(zip(parts[1::2], parts[2::2], strict=True))

    # Its installation changes nothing: no image, no unit, and images that are built afterwards are
    # the same.
    assert told["installed"].splitlines()[-3:] == [
        "the image is as it was",
        "/etc/ephemeroot",
        "/etc/ephemeroot/conf.d",
    ]
    assert set(found["unconfigured"].names) == set(found["without"].names)
    assert not any(SIGNS.search(name) for name in found["unconfigured"].names)

    # Once a configuration is applied, an update of the kernel or of the package rebuilds the images
    # with it.
    for name in ("applied", "upgraded"):
        assert list(found[name].files.values()) == [plan], name
        assert any(n.endswith("/ephemeroot-wipe.service") for n in found[name].names)

    # While it is applied, the package cannot be removed by mistake.
    assert "THIS MACHINE'S ROOT IS MADE FRESH AT EVERY BOOT" in told["refused"]
    assert "ephemeroot leave" in told["refused"]
    assert told["refused"].splitlines()[-2:] == [
        "installed",
        f"ephemeroot {ephemeroot.__version__}",
    ]
    assert "reboot, then remove the package again" in told["leaving"]

    # After its removal, only the administrator's configuration remains.
    assert told["removed"].splitlines() == [
        "dpkg-query: no packages found matching ephemeroot",
        "/etc/ephemeroot",
        "/etc/ephemeroot/ephemeroot.toml",
    ]


def _is_plan(name: str) -> bool:
    return name.endswith("ephemeroot/plan.json")
