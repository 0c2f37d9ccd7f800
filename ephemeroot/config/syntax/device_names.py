"""Names of block devices in the configuration and in /etc/fstab."""

from __future__ import annotations

import os

from ephemeroot.config.syntax.kinds import Kind, Schema
from ephemeroot.config.syntax.problem import Mistake

TAGS = ("UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "ID=")


class Device(Kind):
    """A block device: a path below /dev, or one of ``TAGS`` with a value."""

    word = "a device such as UUID=… or /dev/…"

    def parse(self, value: object) -> str:
        text = self.text(value)
        require(text)
        return text

    def schema(self) -> Schema:
        return {"type": "string", "pattern": f"^(/dev/.|({'|'.join(TAGS)}).)"}


def require(text: str) -> None:
    """Raise ``Mistake`` unless *text* can name a block device."""
    if text.startswith(TAGS):
        tag, _, value = text.partition("=")
        if value.strip("\"' "):
            return
        raise Mistake(
            f"{text!r} is not a device", f"write {tag}=VALUE ('lsblk -f' shows the values)"
        )
    if text.startswith("/dev/") and os.path.normpath(text).startswith("/dev/"):
        return
    hint = "write /dev/…, UUID=…, LABEL=…, PARTUUID=… or PARTLABEL=…"
    if os.path.exists(f"/dev/{text}"):
        hint = f"write /dev/{text}, or its UUID=… ('blkid /dev/{text}' shows it)"
    raise Mistake(f"{text!r} is not a device", hint)
