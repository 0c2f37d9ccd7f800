"""A machine that resumes from hibernation is never changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ephemeroot.errors import Refused
from ephemeroot.hooks.cmdline import CommandLine
from ephemeroot.hooks.guards import resume

PAGE = 4096


def swap(path: Path, signature: bytes, *, page: int = 0) -> Path:
    """A file that looks like swap space, with *signature* in its page *page*."""
    content = bytearray(PAGE * (page + 2))
    content[page * PAGE + PAGE - 10 : page * PAGE + PAGE] = signature.ljust(10, b"\0")
    path.write_bytes(content)
    return path


def test_allows_the_wipe_without_hibernation() -> None:
    resume.require_none_pending(CommandLine("root=/dev/vda"))


@pytest.mark.parametrize("signature", [b"S1SUSPEND", b"ULSUSPEND", b"LINHIB0001"])
def test_a_hibernation_image_refuses_the_wipe(tmp_path: Path, signature: bytes) -> None:
    device = swap(tmp_path / "swap", signature)
    with pytest.raises(Refused, match="holds a hibernation image") as caught:
        resume.require_none_pending(CommandLine(f"resume={device}"))
    assert "noresume" in caught.value.hint


def test_plain_swap_allows_the_wipe(tmp_path: Path) -> None:
    device = swap(tmp_path / "swap", b"SWAPSPACE2")
    resume.require_none_pending(CommandLine(f"resume={device}"))


def test_the_offset_is_counted_in_pages(tmp_path: Path) -> None:
    device = swap(tmp_path / "file", b"S1SUSPEND", page=3)
    resume.require_none_pending(CommandLine(f"resume={device}"))
    with pytest.raises(Refused, match="holds a hibernation image"):
        resume.require_none_pending(CommandLine(f"resume={device} resume_offset=3"))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("resume=UUID=11111111-2222-3333-4444-555555555555", "cannot tell"),
        ("resume={folder}", "cannot tell"),
        ("resume=nonsense", "does not name a device"),
        ("resume={plain} resume_offset=x", "not a number"),
    ],
)
def test_refuses_if_the_swap_cannot_be_read(tmp_path: Path, words: str, reason: str) -> None:
    plain = swap(tmp_path / "swap", b"SWAPSPACE2")
    with pytest.raises(Refused, match=reason):
        resume.require_none_pending(CommandLine(words.format(folder=tmp_path, plain=plain)))


def test_noresume_allows_the_wipe(tmp_path: Path) -> None:
    device = swap(tmp_path / "swap", b"S1SUSPEND")
    resume.require_none_pending(CommandLine(f"resume={device} noresume"))


def test_each_of_several_resume_words_is_checked(tmp_path: Path) -> None:
    image = swap(tmp_path / "image", b"S1SUSPEND")
    plain = swap(tmp_path / "plain", b"SWAPSPACE2")
    with pytest.raises(Refused):
        resume.require_none_pending(CommandLine(f"resume={image} resume={plain}"))


@pytest.mark.parametrize("file", ["cmdline.d/95resume.conf", "cmdline"])
def test_resume_devices_in_dracuts_configuration_are_checked(tmp_path: Path, file: str) -> None:
    image = swap(tmp_path / "image", b"S1SUSPEND")
    baked = tmp_path / "etc" / file
    baked.parent.mkdir(parents=True)
    baked.write_text(f" resume={image}\n")
    (baked.parent / "other.txt").write_text("noresume\n")
    etc = str(tmp_path / "etc")
    # On a running system such files belong to other programs.
    resume.require_none_pending(CommandLine("quiet"), etc)
    (tmp_path / "etc/initrd-release").touch()
    with pytest.raises(Refused, match="holds a hibernation image"):
        resume.require_none_pending(CommandLine("quiet"), etc)
    resume.require_none_pending(CommandLine("quiet noresume"), etc)
