"""Reading images: every compression, several archives in a row, and files that are not images."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeroot.errors import Damaged
from ephemeroot.image import archive as archives
from image_archives import archive, file, unified

MEMBERS = {
    "usr": (stat.S_IFDIR | 0o755, b""),
    "usr/lib/ephemeroot/plan.json": file(b'{"plan": 1}\n'),
    "usr/lib/odd name\\x20": file(b"123"),
    "bin": (stat.S_IFLNK | 0o777, b"usr/bin"),
    "empty": file(b""),
}


def check(path: Path) -> None:
    found = archives.read(path, lambda name: name.startswith("usr/lib/"))
    assert found.names == set(MEMBERS)
    assert found.links == {"bin": "usr/bin"}
    assert found.files == {
        "usr/lib/ephemeroot/plan.json": b'{"plan": 1}\n',
        "usr/lib/odd name\\x20": b"123",
    }


@pytest.mark.parametrize(
    "command",
    [
        "cat",
        "gzip",
        pytest.param("xz --check=crc32", marks=pytest.mark.requires_program("xz")),
        pytest.param("zstd", marks=pytest.mark.requires_program("zstd")),
    ],
)
def test_reads_each_compression(tmp_path: Path, command: str) -> None:
    done = subprocess.run(command.split(), input=archive(MEMBERS), capture_output=True, check=True)
    image = tmp_path / "initrd"
    image.write_bytes(done.stdout)
    check(image)


def test_reads_the_archive_after_an_early_one(tmp_path: Path) -> None:
    """Microcode comes first, uncompressed and padded."""
    early = archive({"kernel/x86/microcode/GenuineIntel.bin": file(b"\1" * 7)})
    main = subprocess.run(["gzip"], input=archive(MEMBERS), capture_output=True, check=True).stdout
    image = tmp_path / "initrd"
    image.write_bytes(early + b"\0" * (-len(early) % 512) + main)
    found = archives.read(image, lambda name: False)
    assert found.names == {*MEMBERS, "kernel/x86/microcode/GenuineIntel.bin"}


def test_reads_the_archive_in_a_unified_kernel_image(tmp_path: Path) -> None:
    compressed = subprocess.run(["gzip"], input=archive(MEMBERS), capture_output=True).stdout
    (tmp_path / "linux.efi").write_bytes(unified(compressed))
    check(tmp_path / "linux.efi")


@pytest.mark.parametrize("content", [b"MZ", unified(b"")[:300], b"MZ" + b"\0" * 4096])
def test_reports_a_program_for_uefi_without_an_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "linux.efi").write_bytes(content)
    with pytest.raises(Damaged, match=r"linux\.efi: the UEFI program"):
        archives.read(tmp_path / "linux.efi", lambda name: True)


def test_hard_links_share_their_content(tmp_path: Path) -> None:
    """dracut links equal files; only the last one has the bytes."""
    data = bytearray(archive({"a": file(b""), "b": file(b"same")}))
    for position in (0, data.index(b"070701", 6)):
        data[position + 6 : position + 14] = b"00000009"  # one inode
        data[position + 38 : position + 46] = b"00000002"  # two links
    image = tmp_path / "initrd"
    image.write_bytes(data)
    assert archives.read(image, lambda name: True).files == {"a": b"same", "b": b"same"}


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 64, b"not an image at all", archive(MEMBERS)[:300], b"\x1f\x8bgarbage"]
)
def test_reports_files_that_are_not_images(tmp_path: Path, content: bytes) -> None:
    image = tmp_path / "initrd"
    image.write_bytes(content)
    with pytest.raises(Damaged, match=str(image)):
        archives.read(image, lambda name: True)


@given(
    st.dictionaries(
        st.text("abc/._- é", min_size=1, max_size=20).filter(lambda n: not n.startswith("./")),
        st.binary(max_size=50),
        min_size=1,
        max_size=8,
    )
)
def test_reads_every_packed_file_back(
    tmp_path_factory: pytest.TempPathFactory, contents: dict[str, bytes]
) -> None:
    image = tmp_path_factory.getbasetemp() / "initrd"
    image.write_bytes(archive({name: file(content) for name, content in contents.items()}))
    found = archives.read(image, lambda name: True)
    assert found.files == contents
