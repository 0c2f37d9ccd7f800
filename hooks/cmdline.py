"""The kernel command line: what the boot was asked for, and by which root it starts.

Words are split as the kernel does it (double quotes group, proc_cmdline(5) and the
kernel's lib/cmdline.c); ``-`` and ``_`` in keys are the same, as for the kernel's own
parameters; booleans are systemd's. Invalid parameters are reported.
"""

from __future__ import annotations

from ephemeroot.errors import Refused
from ephemeroot.linux import devices, paths

TRUE = ("1", "yes", "y", "true", "t", "on")
FALSE = ("0", "no", "n", "false", "f", "off")
POLICIES = ("emergency", "reboot", "poweroff", "keep", "continue")

_OURS = ("ephemeroot", "ephemeroot.wipe", "ephemeroot.root", "ephemeroot.persist",
         "ephemeroot.on-failure")  # fmt: skip


class CommandLine:
    """The words of one command line, in order; the last one of a key takes effect."""

    __slots__ = ("words",)

    def __init__(self, text: str) -> None:
        self.words: list[tuple[str, str | None]] = []
        for word in _split(text):
            key, equals, value = word.partition("=")
            self.words.append((key.replace("_", "-"), value if equals else None))

    def has(self, key: str) -> bool:
        """Whether the line has the word, with or without a value."""
        return any(k == key for k, _ in self.words)

    def get(self, key: str) -> str | None:
        """The last value of *key*; ``None`` if it is absent or has none."""
        value = None
        for k, v in self.words:
            if k == key:
                value = v
        return value

    def values(self, key: str) -> list[str]:
        """All values of *key*, in order."""
        return [v for k, v in self.words if k == key and v is not None]

    def allows(self, key: str) -> bool:
        """Whether the boolean *key* is on; absent, or without a value, it is.

        Raises ``Refused`` for a value that is not a boolean.
        """
        value = self.get(key)
        if value is None or value.lower() in TRUE:
            return True
        if value.lower() in FALSE:
            return False
        raise Refused(
            f"kernel command line: {key}={value} is neither yes nor no", f"write {key}=no"
        )

    def is_off(self, key: str) -> bool:
        """Whether the boolean *key* is clearly off; nonsense counts as on."""
        value = self.get(key)
        return value is not None and value.lower() in FALSE

    def unknown(self) -> list[str]:
        """Words that look like ours and are not: a typing error must not pass unseen."""
        return [
            key if value is None else f"{key}={value}"
            for key, value in self.words
            if (key == "ephemeroot" or key.startswith("ephemeroot.")) and key not in _OURS
        ]

    def policy(self) -> str | None:
        """``ephemeroot.on-failure=``, or ``None``. An unknown policy counts as none."""
        value = self.get("ephemeroot.on-failure")
        return value if value in POLICIES else None

    def problems(self) -> list[str]:
        """What on the line was meant for us and is not understood, a line each."""
        found = [f"kernel command line: unknown word {word}" for word in self.unknown()]
        for key in ("ephemeroot", "ephemeroot.wipe", "ephemeroot.persist"):
            try:
                self.allows(key)
            except Refused as error:
                found.append(error.message)
        policy = self.get("ephemeroot.on-failure")
        if policy is not None and policy not in POLICIES:
            found.append(f"kernel command line: unknown policy ephemeroot.on-failure={policy}")
        return found

    def root_device(self) -> str | None:
        """``root=`` as a device spec, without dracut's ``block:``; ``None`` if it is not one."""
        root = self.get("root")
        if root is None:
            return None
        root = root.removeprefix("block:").strip('"')
        try:
            devices.link(root)
        except ValueError:
            return None
        return root

    def root_flags(self) -> list[str]:
        """The options of all ``rootflags=`` words, in order."""
        return [o for value in self.values("rootflags") for o in value.split(",") if o]

    def root_subvolume(self) -> str | None:
        """``subvol=`` of ``rootflags=``, without leading slashes.

        Raises ``Refused`` for ``subvolid=``: a root that is made again has another
        id at each boot.
        """
        number = self._last_root_flag("subvolid")
        if number is not None:
            raise Refused(
                f"kernel command line: rootflags=subvolid={number} names the root by its id, but "
                "each fresh root has a new id",
                "write rootflags=subvol=NAME instead",
            )
        return self.named_subvolume()

    def named_subvolume(self) -> str | None:
        """The same, whether or not there is a ``subvolid=`` too."""
        subvolume = self._last_root_flag("subvol")
        return None if subvolume is None else subvolume.strip("/")

    def root_subvolume_id(self) -> int | None:
        """``subvolid=`` of ``rootflags=``, as the kernel reads it; ``None`` for nonsense."""
        number = self._last_root_flag("subvolid")
        try:
            return None if number is None else int(number, 0)
        except ValueError:
            return None

    def _last_root_flag(self, name: str) -> str | None:
        found = None
        for option in self.root_flags():
            key, _, value = option.partition("=")
            if key == name:
                found = value
        return found


def read() -> CommandLine:
    """The command line of the running kernel."""
    text = paths.read("/proc/cmdline", 1 << 16).decode("utf-8", "surrogateescape")
    return CommandLine(text)


def _split(text: str) -> list[str]:
    words = []
    word = ""
    quoted = started = False
    for character in text:
        if character == '"':
            quoted = not quoted
            started = True
        elif character.isspace() and not quoted:
            if started:
                words.append(word)
            word, started = "", False
        else:
            word += character
            started = True
    if started:
        words.append(word)
    return words
