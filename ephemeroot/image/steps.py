"""Steps of ``apply``, ``leave`` and ``setup``: rebuilding images, installing and removing files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ephemeroot.image.generators.contract import Image
from ephemeroot.image.installation import Item
from ephemeroot.linux import paths
from ephemeroot.step import Step


class Rebuilding(Step):
    """Rebuild *image* with the plan that *plan* returns, or without a plan if that is ``None``. If
    it fails, the old image stays. Its generation is older, so it does not wipe; the other images
    are still rebuilt.
    """

    __slots__ = ("image", "plan")

    GOES_ON = True

    def __init__(self, image: Image, plan: Callable[[], bytes] | None) -> None:
        self.image = image
        self.plan = plan

    def describe(self) -> str:
        return self.image.describe(armed=self.plan is not None)

    def execute(self) -> str:
        return self.image.rebuild(self.plan() if self.plan is not None else None)


class Installation(Step):
    """Install *item* under *root*, in place of an existing file."""

    __slots__ = ("item", "path")

    def __init__(self, item: Item, root: Path) -> None:
        self.item = item
        self.path = item.place(root)

    def describe(self) -> str:
        item = self.item
        return f"link {item.name} to {item.target}" if item.target else f"install {item.name}"

    def execute(self) -> str:
        item = self.item
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if item.target is None:
            paths.write_atomically(str(self.path), item.content, item.mode)
        else:
            self.path.unlink(missing_ok=True)
            self.path.symlink_to(item.target)
        return ""


class Removal(Step):
    """Remove *item* under *root*."""

    __slots__ = ("item", "path")

    def __init__(self, item: Item, root: Path) -> None:
        self.item = item
        self.path = item.place(root)

    def describe(self) -> str:
        return f"remove {self.item.name}"

    def execute(self) -> str:
        self.path.unlink(missing_ok=True)
        return ""
