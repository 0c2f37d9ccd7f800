"""Keys of encrypted ZFS datasets in an initramfs.

OpenZFS's dracut module loads the key of the root and of datasets that are mounted with it
(zfs-load-key.sh); a store can have another key.
"""

from __future__ import annotations

from ephemeroot.errors import EphemerootError, Refused
from ephemeroot.linux import programs

_TRIES = 3


def load(dataset: str) -> None:
    """Load the key of *dataset* if it is encrypted and its key is not loaded: from ``keylocation``,
    or from the console.

    Raises ``Refused`` if that fails. If the dataset cannot be queried, nothing happens: its mount
    reports the error.
    """
    facts = _properties(dataset, "encryptionroot", "keystatus")
    if facts.get("keystatus") != "unavailable":
        return
    root = facts["encryptionroot"]
    location = _properties(root, "keylocation").get("keylocation", "")
    try:
        if location == "prompt":
            _ask(root)
        else:
            programs.run("zfs", "load-key", root)
    except EphemerootError as error:
        raise Refused(
            f"cannot load the key of {root}, for {dataset}, from {location}: {error.message}",
            "add the file to the initramfs (install_items+= in dracut.conf.d, FILES= in "
            "mkinitcpio.conf); to be asked for the key, set keylocation=prompt",
        ) from None


def _properties(dataset: str, *names: str) -> dict[str, str]:
    words = ("get", "-Hpo", "property,value", ",".join(names), dataset)
    try:
        said = programs.run("zfs", *words)
    except EphemerootError:
        return {}
    return {key: value for key, _, value in (line.partition("\t") for line in said.splitlines())}


def _ask(root: str) -> None:
    """Ask by systemd's agents, with the question of OpenZFS's dracut module."""
    question = f"Encrypted ZFS password for {root}"
    for left in reversed(range(_TRIES)):
        key = programs.run("systemd-ask-password", "--timeout=0", "--no-tty", question)
        try:
            programs.run("zfs", "load-key", root, given=key)
            return
        except EphemerootError:
            if not left:
                raise
