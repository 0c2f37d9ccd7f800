"""Normalisation of paths and words in the configuration, with reasons for invalid ones."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ephemeroot.config.syntax.problem import Mistake

LONGEST_PATH = 4095
"""Bytes: the kernel's PATH_MAX without its final NUL (include/uapi/linux/limits.h)."""

LONGEST_NAME = 255
"""Bytes: NAME_MAX."""

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/libexec", "/boot",
           "/efi")  # fmt: skip
_IN_SYSTEM = tuple(f"{directory}/" for directory in _SYSTEM)
_LOCAL = "/usr/local"

_VARIABLE = re.compile(r"\$\{?[A-Za-z_]")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def absolute(text: str) -> str:
    """The normalised absolute path in *text*. Raises ``Mistake``.

    Repeated and trailing slashes and ``.`` are removed. ``..`` is refused, because its meaning
    depends on links that may differ at boot.
    """
    _require_usable(text)
    if not text.startswith("/"):
        raise Mistake(f"{text!r} is not an absolute path", _why_relative(text))
    path = "/" + "/".join(_components(text))
    require_length(path)
    return path


def below_home(text: str) -> str:
    """The normalised path in *text*, relative to a user's home. Raises ``Mistake``."""
    _require_usable(text)
    if text.startswith("/"):
        raise Mistake(
            f"{text!r} is absolute, but a user's paths are relative to the home",
            "remove the home from the path, or declare it outside users",
        )
    if text.startswith("~") or _VARIABLE.match(text):
        rest = text.partition("/")[2]
        raise Mistake(
            f"{text!r} starts with a home directory, which is not expanded here",
            f"write {rest!r}" if rest else "write a path relative to the home",
        )
    path = "/".join(_components(text))
    if not path:
        raise Mistake(
            f"{text!r} is the home itself",
            "declare the path of the home in the store's directories",
        )
    require_length(path)
    return path


def inner(text: str) -> str:
    """The normalised path in *text*, relative to the top of a filesystem, without a leading slash.

    Raises ``Mistake``, also for the top itself.
    """
    _require_usable(text)
    path = "/".join(_components(text))
    if not path:
        raise Mistake(f"{text!r} is the root directory", "name a path below it")
    require_length(path)
    return path


def require_length(path: str) -> None:
    """Raise ``Mistake`` if the kernel would refuse *path* as too long."""
    if len(path) <= LONGEST_NAME and path.isascii():
        return  # the usual case
    if len(_bytes(path)) > LONGEST_PATH:
        raise Mistake(
            f"the path is longer than {LONGEST_PATH} bytes, the limit of the kernel",
            "use a shorter path",
        )
    for name in path.split("/"):
        if len(_bytes(name)) > LONGEST_NAME:
            raise Mistake(
                f"the name {name[:20]!r}… is longer than {LONGEST_NAME} bytes, the limit of the "
                "kernel",
                "use a shorter name",
            )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _require_usable(text: str) -> None:
    if text == "":
        raise Mistake("the path is empty", "write the path, or remove the entry")
    if "\0" in text:
        raise Mistake(
            "the path contains a NUL character",
            "remove the NUL character: no file name can contain it",
        )


def _components(text: str) -> list[str]:
    names = [name for name in text.split("/") if name not in ("", ".")]
    if ".." in names:
        raise Mistake(f"{text!r} contains '..'", "write the resulting path without '..'")
    return names


def _why_relative(text: str) -> str:
    if text.startswith("~") or _VARIABLE.match(text):
        return "write the absolute path, or declare it below users.NAME"
    return f"write {'/' + text!r}, or declare it below users.NAME if it is in a home"


def is_below(path: str, ancestor: str) -> bool:
    """Whether *path* is *ancestor* or is below it; both are normalised, and both absolute or both
    relative.
    """
    return ancestor in ("/", "", path) or path.startswith(f"{ancestor}/")


def is_system(path: str) -> bool:
    """Whether the absolute *path* is, or is in, a directory with files of the system's packages."""
    if is_below(path, _LOCAL):
        return False
    return path in _SYSTEM or path.startswith(_IN_SYSTEM)


def components(path: str) -> tuple[str, ...]:
    """A sort key with which parents are directly before their content."""
    return tuple(path.strip("/").split("/")) if path != "/" else ()


def parents(path: str) -> list[str]:
    """The parents of the absolute *path*, the topmost first, without ``/``."""
    names = path.split("/")[1:-1]
    return ["/" + "/".join(names[: number + 1]) for number in range(len(names))]


def ancestors(path: str) -> list[str]:
    """The absolute *path* with all its parents, from ``/`` to *path* itself."""
    return ["/", *parents(path), path]


def kebab(word: str) -> str:
    """*word* in the spelling of keys: ``hide-mounts`` for ``hideMounts`` and ``hide_mounts``."""
    return _CAMEL.sub("-", word).replace("_", "-").lower()


def meant(word: str, known: Iterable[str]) -> str:
    """A hint with the *known* word that is similar to *word*, else with all of them."""
    words = list(known)
    listed = f"known: {', '.join(words)}" if words else ""
    return close(word, words) or listed


def close(word: str, known: Iterable[str]) -> str:
    """A hint with the *known* word that is similar to *word*; empty if there is none."""
    found = closest(word, known)
    return f"did you mean `{found}`?" if found else ""


def closest(word: str, known: Iterable[str]) -> str | None:
    """The *known* word that is similar to *word*."""
    import difflib  # takes 3 ms

    words = list(known)
    plain = kebab(word)
    found = difflib.get_close_matches(plain, words, n=1, cutoff=0.6)
    found += [longer for longer in words if len(plain) > 2 and longer.startswith(plain)]
    return found[0] if found else None
