"""The contract of initramfs generators: code outside the generators' folders never asks which one
it has.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkout import CHECKOUT
from ephemeroot import cli
from ephemeroot.errors import EphemerootError
from ephemeroot.image import contents, units
from ephemeroot.image.contents import Contents
from ephemeroot.image.generators import installed
from ephemeroot.image.generators.contract import Generator
from image_archives import archive, file, of_tree
from machine_tree import SOUND, MachineTree

GENERATORS = "ephemeroot/image/generators"

EXCEPTIONS = {
    "ephemeroot/linux/unopened.py": "runs in the initramfs, which does not know what made it; the "
    "kernel command line's words that it advises are dracut's, which systemd reads as well",
    "ephemeroot/linux/dataset_keys.py": "runs in the initramfs, and names the settings that bring "
    "a key into it",
    "ephemeroot/config/checks/covered.py": "compares the directories in /usr/lib that packages "
    "fill, those of all generators among them, whichever is installed",
    "ephemeroot/cli/verbs.py": "the examples of the help are command lines that can be typed",
}
"""Files of the program that name a generator, each with the reason."""


def product_files() -> list[str]:
    """The program's Python files outside the generators' folders."""
    folders = [CHECKOUT / name for name in ("ephemeroot", "hooks", "wipers")]
    found = [path for folder in folders for path in folder.rglob("*.py")]
    names = sorted(str(path.relative_to(CHECKOUT)) for path in found)
    return [name for name in names if not name.startswith(f"{GENERATORS}/")]


def generators_named(source: str, but: str = "") -> list[str]:
    """The lines of *source* that name a generator (except *but*) in a string, an import or an
    identifier; comments and document strings are not searched.
    """
    tree = ast.parse(source)
    documents = {id(text) for node in ast.walk(tree) for text in document_strings(node)}
    names = [name.replace("-", "_") for name in installed.names() if name != but]
    return [
        f"{getattr(node, 'lineno', 0)}: {word}"
        for node in ast.walk(tree)
        if id(node) not in documents
        for word in words(node)
        if any(name in word.lower().replace("-", "_") for name in names)
    ]


def document_strings(node: ast.AST) -> Iterator[ast.AST]:
    """Strings that are statements: those of modules, classes, functions and constants."""
    body = getattr(node, "body", None)
    for statement in body if isinstance(body, list) else []:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            yield statement.value


def words(node: ast.AST) -> Iterator[str]:
    for field in ("id", "attr", "name", "module", "arg", "asname", "value"):
        value = getattr(node, field, None)
        if isinstance(value, str):
            yield value


@pytest.mark.parametrize("name", product_files())
def test_a_product_file_does_not_name_a_generator(name: str) -> None:
    if name in EXCEPTIONS:
        assert generators_named((CHECKOUT / name).read_text()), f"{name} is no longer an exception"
    else:
        assert generators_named((CHECKOUT / name).read_text()) == []


@pytest.mark.parametrize("name", installed.names())
def test_a_generator_does_not_name_another(name: str) -> None:
    files = list((CHECKOUT / GENERATORS / name.replace("-", "_")).glob("*.py"))
    assert files
    for path in files:
        assert generators_named(path.read_text(), but=name) == [], path


def test_the_contract_does_not_name_a_generator() -> None:
    assert generators_named((CHECKOUT / GENERATORS / "contract.py").read_text()) == []


def test_only_the_recommended_generator_is_named_where_they_are_found() -> None:
    recommended = installed.recommended().NAME
    source = (CHECKOUT / GENERATORS / "installed.py").read_text()
    assert generators_named(source, but=recommended) == []


@pytest.mark.parametrize(
    "line",
    [
        "import ephemeroot.image.generators.dracut",
        "from ephemeroot.image.generators.dracut import images",
        "from ephemeroot.image.generators import mkinitcpio",
        "from ephemeroot.image.generators import installed as dracut",
        'if name == "dracut": pass',
        'message = f"run {program} or mkinitcpio"',
        "def dracut_hooks(): pass",
        "class Mkinitcpio: pass",
        "x = y.dracut",
        "f(mkinitcpio=1)",
    ],
)
def test_the_search_finds_a_name_of_a_generator(line: str) -> None:
    assert generators_named(f'"""For dracut."""\n# mkinitcpio\n{line}\n')


def test_document_strings_and_comments_may_name_one() -> None:
    source = '"""dracut"""\nX = 1\n"""dracut\'s"""\n\n\ndef f():\n    """mkinitcpio."""  # dracut\n'
    assert generators_named(source) == []


@pytest.fixture(params=installed.names())
def generator(request: pytest.FixtureRequest) -> Generator:
    return installed.find(str(request.param))


def test_each_folder_is_found_by_entry_point() -> None:
    folders = [folder.parent.name for folder in (CHECKOUT / GENERATORS).glob("*/__init__.py")]
    assert [name.replace("-", "_") for name in installed.names()] == sorted(folders)
    assert [one.NAME for one in installed.every()] == installed.names()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The entry points of another installed package, and its module `foreign`."""
    folder = tmp_path / "foreign-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1\n")
    (tmp_path / "foreign.py").write_text("NUMBER = 1\n")
    (tmp_path / "broken_foreign.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder / "entry_points.txt"
    installed.find.cache_clear()
    installed.every.cache_clear()


@pytest.mark.parametrize(
    ("entry", "name", "said"),
    [
        ("odd = broken_foreign:Odd", "odd", "ModuleNotFoundError: No module named 'no_such"),
        ("odd = foreign:NUMBER", "odd", "foreign:NUMBER is not a class derived from Generator"),
        ("odd = foreign:Missing", "odd", "AttributeError"),
        ("even = foreign:NUMBER", "odd", "no installed package provides it"),
        ("dracut = foreign:NUMBER", "dracut", "several installed packages"),
    ],
)
def test_reports_a_generator_that_cannot_be_loaded(
    package: Path, entry: str, name: str, said: str
) -> None:
    package.write_text(f"[{installed.GROUP}]\n{entry}\n")
    installed.find.cache_clear()
    with pytest.raises(EphemerootError, match=said):
        installed.find(name)


def test_recognises_a_generator_by_its_program_and_its_module(
    tmp_path: Path, generator: Generator
) -> None:
    root = str(tmp_path)
    assert (installed.on(root), generator.has_module(root)) == (None, False)
    program = tmp_path / generator.PLACES[0]
    program.parent.mkdir(parents=True)
    program.write_text("")
    assert installed.on(root) is generator
    assert not generator.has_module(root)
    assert cli.main(["setup", generator.NAME, "--root", root]) == 0
    assert generator.has_module(root)
    assert cli.main(["setup", generator.NAME, "--remove", "--root", root]) == 0
    assert not generator.has_module(root)


def test_names_a_generator_that_cannot_contain_the_stages(tmp_path: Path) -> None:
    assert installed.unsupported(str(tmp_path)) == ""
    (tmp_path / "usr/sbin").mkdir(parents=True)
    (tmp_path / "usr/sbin/update-initramfs").symlink_to("/nowhere")
    assert installed.on(str(tmp_path)) is None
    assert installed.unsupported(str(tmp_path)) == "initramfs-tools"


def test_the_module_file_is_installed_last(generator: Generator) -> None:
    """A kernel update during `ephemeroot setup` must not find an incomplete module."""
    items = generator.items("/usr/bin/ephemeroot")
    assert Path(items[-1].name.lstrip("/")).match(generator.MODULE.replace("??", "*"))


def test_an_empty_system_has_no_images(tmp_path: Path, generator: Generator) -> None:
    assert generator.images(tmp_path) == ([], [])
    assert generator.files(tmp_path) == []


OWN, WITH_SYSTEMD = "base udev block ephemeroot", "base systemd block ephemeroot"

CALLS = [
    ("dracut", True, ["--init", "dracut"]),
    ("dracut", False, ["--init", "systemd"]),
    ("mkinitcpio", True, ["--hooks", OWN, "--configured-hooks", OWN]),
    ("mkinitcpio", False, ["--hooks", WITH_SYSTEMD, "--configured-hooks", WITH_SYSTEMD]),
]
"""How each generator's module calls `ephemeroot image`, and whether the image then has the
generator's own init.
"""


def test_every_generator_is_listed_here() -> None:
    assert {name for name, _, _ in CALLS} == set(installed.names())


@pytest.mark.requires_root
@pytest.mark.parametrize(("name", "own_init", "options"), CALLS)
def test_an_inert_image_says_why_under_each_init(
    tmp_path: Path,
    name: str,
    own_init: bool,
    options: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With units under systemd; an init of its own gets a script that the generator adds."""
    (tmp_path / "etc/ephemeroot").mkdir(parents=True)
    (tmp_path / "etc/ephemeroot/plan.json").write_text("{}")
    words = ["image", "--generator", name, "--root", str(tmp_path), *options]
    assert cli.main([*words, "--into", str(tmp_path / "made")]) == 10
    lines = capsys.readouterr().out.splitlines()
    kinds = {line.partition("\t")[0] for line in lines}
    assert kinds >= {"copy", "link"}
    assert bool(kinds - {"copy", "link"}) == own_init
    assert any(line.endswith(f"/{units.INERT}") for line in lines)
    assert any(line.endswith(f"\t{contents.REASON}") for line in lines)


def test_every_image_has_the_same_lines_for_the_folder(tmp_path: Path) -> None:
    made = Contents(tmp_path / "tree")
    made.tree.write("/a", "", why="a test")
    made.tree.link("/b", "a", why="a test")
    made.tree.folder("/c")
    made.modules = ["ext4"]
    assert made.lines() == [
        f"copy\t{tmp_path}/tree/a\t/a",
        "link\ta\t/b",
        "folder\t/c",
        "module\text4",
    ]


def test_recognises_the_generator_by_its_options_or_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A module installed by an older `ephemeroot setup` does not pass its name."""
    words = ["image", "--root", str(tmp_path), "--into", str(tmp_path / "made")]
    fallback = ["--hooks", "base udev", "--configured-hooks", "base udev autodetect"]
    assert cli.main([*words, *fallback]) == 0
    assert "a fallback image never wipes" in capsys.readouterr().err
    assert cli.main([*words, *fallback, "--generator", "dracut"]) == 0
    assert "no plan is applied" in capsys.readouterr().err


ODD = """
from pathlib import Path
from ephemeroot.image.contents import Script
from ephemeroot.image.generators import contract
from ephemeroot.image.installation import Item
from ephemeroot.image.readback import Advice


class Image(contract.Image):
    def __init__(self, path):
        self.path = path

    release = "6.1-odd"
    advice = Advice("add it", "look", "load them")

    def describe(self, *, armed):
        return f"make {self.path} odd" if armed else f"make {self.path} even"

    def build(self, path):
        path.write_bytes(Path(f"{self.path}.made").read_bytes())


class Target(contract.Target):
    init = "odd-init"
    systemd_advice = "there is none"

    def require(self):
        pass

    def add(self, contents, root):
        contents.scripts.append(Script("oddity\\t1", "/odd/wipe", "the odd script"))

    def add_inert(self, contents):
        contents.scripts.append(Script("oddity\\t0", "/odd/wipe", "the odd script"))


class Odd(contract.Generator):
    NAME = PROGRAM = "odd-maker"
    PLACES = ("usr/bin/odd-maker",)
    MODULE = "usr/lib/odd/ephemeroot"

    def enabling(self, root):
        return ["echo ephemeroot >> /etc/odd.conf"]

    def installation(self, has):
        return "install odd-maker"

    def items(self, program):
        return [Item("/usr/lib/odd/ephemeroot", program.encode())]

    def images(self, root):
        found = [Image(path) for path in (root / "boot").glob("*.odd")]
        return found, [] if found else ["nothing odd"]

    def files(self, root):
        return [image.path for image in self.images(root)[0]]

    def target(self, arguments):
        return Target()
"""


@pytest.fixture
def odd(package: Path) -> Generator:
    """A generator of another package, for which this program has no file."""
    (package.parent.parent / "foreign.py").write_text(ODD)
    package.write_text(f"[{installed.GROUP}]\nodd-maker = foreign:Odd\n")
    sys.modules.pop("foreign", None)
    installed.find.cache_clear()
    installed.every.cache_clear()
    return installed.find("odd-maker")


@pytest.mark.requires_root
def test_a_generator_of_another_package_goes_through_every_verb(
    tmp_path: Path, odd: Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    external = SOUND.replace('wiper = "btrfs"', 'wiper = "btrfs"\nexternal-boot = true')
    tree = MachineTree(tmp_path / "machine", external)
    root = str(tree.path)
    tree.write("usr/bin/odd-maker", "")
    assert installed.on(root) is odd
    assert cli.main(["init", "--root", root]) == 0
    proposed = capsys.readouterr().out
    assert "its initramfs is made by odd-maker" in " ".join(proposed.replace("\n#", "").split())
    assert "ephemeroot setup odd-maker" in proposed
    assert "echo ephemeroot >> /etc/odd.conf" in proposed
    assert cli.main(["setup", "odd-maker", "--root", root]) == 0
    capsys.readouterr()
    assert cli.main(["init", "--root", root]) == 0
    assert "ephemeroot setup" not in capsys.readouterr().out

    assert cli.main(["apply", "--yes", "--root", root]) == 2
    assert "run odd-maker in that root" in capsys.readouterr().err
    assert cli.main(["apply", "--yes", "--no-images", "--root", root]) == 0
    plan = (tree.path / "etc/ephemeroot/plan.json").read_bytes()
    into = tmp_path / "into"
    words = ["image", "--root", root, "--generator", "odd-maker", "--into", str(into)]
    capsys.readouterr()
    assert cli.main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "oddity\t1"
    assert cli.main([*words, "--explain"]) == 0
    assert "the odd script" in capsys.readouterr().out

    tree.write("boot/linux.odd", "")
    (tree.path / "boot/linux.odd").write_bytes(archive({"init": file(b"")}))
    assert cli.main(["check", "--root", root]) == 0
    assert "linux.odd does not contain ephemeroot" in capsys.readouterr().out
    (image,), unknown = odd.images(tree.path)
    assert (installed.releases(tree.path), unknown) == ({"6.1-odd"}, [])
    members = of_tree(into / "tree")
    members["lib/modules/6.1-odd/modules.builtin"] = file(b"kernel/fs/btrfs/btrfs.ko\n")
    made = tree.path / "boot/linux.odd.made"
    made.write_bytes(archive(members))
    with pytest.raises(EphemerootError, match="lacks /odd/wipe"):
        image.rebuild(plan)
    made.write_bytes(archive({**members, "scripts/odd/wipe": file(b"")}))
    assert "hooks, kernel modules" in image.rebuild(plan)
    assert cli.main(["check", "--root", root]) == 0
    assert "linux.odd" not in capsys.readouterr().out
