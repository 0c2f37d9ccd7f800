"""The contract of initramfs generators: nothing outside of it asks which one it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemeroot import cli
from ephemeroot.image import contents, units
from ephemeroot.image.contents import Contents
from ephemeroot.image.generators import installed
from ephemeroot.image.generators.contract import Generator

CHECKOUT = Path(__file__).resolve().parent.parent
GENERATORS = "ephemeroot/image/generators"

EXCEPTIONS = {
    "ephemeroot/linux/unopened.py": "runs in the initramfs, which does not know what made it; the "
    "kernel command line's words that it advises are dracut's, which systemd reads as well",
}
"""Product files that name a generator, each with the reason."""


def product_files() -> list[str]:
    """The product's Python outside of the generators' own folders."""
    found = [
        file
        for folder in ("ephemeroot", "hooks", "wipers")
        for file in (CHECKOUT / folder).rglob("*.py")
    ]
    names = sorted(str(file.relative_to(CHECKOUT)) for file in found)
    return [name for name in names if not name.startswith(f"{GENERATORS}/")]


def generators_named(source: str, but: str = "") -> list[str]:
    """The lines of *source* that name a generator (*but* one): in a string, an import or an
    identifier, not in a comment or a document string.
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
    """Strings that are statements: of a module, a class, a function or a constant."""
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
def test_a_product_file_names_no_generator(name: str) -> None:
    if name in EXCEPTIONS:
        assert generators_named((CHECKOUT / name).read_text()), f"{name} is no longer an exception"
    else:
        assert generators_named((CHECKOUT / name).read_text()) == []


@pytest.mark.parametrize("name", installed.names())
def test_a_generator_names_no_other(name: str) -> None:
    files = list((CHECKOUT / GENERATORS / name).glob("*.py"))
    assert files
    for file in files:
        assert generators_named(file.read_text(), but=name) == [], file


def test_the_contract_names_no_generator() -> None:
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
def test_a_name_of_a_generator_is_found(line: str) -> None:
    assert generators_named(f'"""For dracut."""\n# mkinitcpio\n{line}\n')


def test_document_strings_and_comments_may_name_one() -> None:
    source = '"""dracut"""\nX = 1\n"""dracut\'s"""\n\n\ndef f():\n    """mkinitcpio."""  # dracut\n'
    assert generators_named(source) == []


@pytest.fixture(params=installed.names())
def generator(request: pytest.FixtureRequest) -> Generator:
    return installed.find(str(request.param))


def test_both_are_found_by_entry_point() -> None:
    assert installed.names() == ["dracut", "mkinitcpio"]
    assert [one.NAME for one in installed.every()] == installed.names()


def test_a_generator_is_known_by_its_program_and_its_module(
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


def test_a_generator_that_cannot_carry_the_stages_is_named(tmp_path: Path) -> None:
    assert installed.unsupported(str(tmp_path)) == ""
    (tmp_path / "usr/sbin").mkdir(parents=True)
    (tmp_path / "usr/sbin/update-initramfs").symlink_to("/nowhere")
    assert installed.on(str(tmp_path)) is None
    assert installed.unsupported(str(tmp_path)) == "initramfs-tools"


def test_the_module_file_is_installed_last(generator: Generator) -> None:
    """A kernel update beside `ephemeroot setup` must not find half a module."""
    items = generator.items("/usr/bin/ephemeroot")
    assert Path(items[-1].name.lstrip("/")).match(generator.MODULE.replace("??", "*"))


def test_an_empty_system_has_no_images(tmp_path: Path, generator: Generator) -> None:
    assert generator.images(tmp_path) == ([], [])
    assert generator.files(tmp_path) == []


def target_words(own_init: bool) -> dict[str, list[str]]:
    """How each generator's module calls `ephemeroot image`."""
    hooks = "base udev block ephemeroot" if own_init else "base systemd block ephemeroot"
    return {
        "dracut": ["--init", "dracut" if own_init else "systemd"],
        "mkinitcpio": ["--hooks", hooks, "--configured-hooks", hooks],
    }


@pytest.mark.requires_root
@pytest.mark.parametrize("own_init", [True, False])
def test_an_inert_image_says_why_under_each_init(
    tmp_path: Path, generator: Generator, own_init: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Units under systemd; under an init of the generator's own it is told to add a script."""
    (tmp_path / "etc/ephemeroot").mkdir(parents=True)
    (tmp_path / "etc/ephemeroot/plan.json").write_text("{}")
    words = target_words(own_init)[generator.NAME]
    into = tmp_path / "made"
    assert cli.main(["image", "--root", str(tmp_path), "--into", str(into), *words]) == 10
    lines = capsys.readouterr().out.splitlines()
    kinds = {line.partition("\t")[0] for line in lines}
    assert bool(kinds & {"hook", "runscript"}) == own_init
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


def test_the_generator_is_known_by_its_options_or_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A module that an older `ephemeroot setup` installed does not name itself."""
    words = ["image", "--root", str(tmp_path), "--into", str(tmp_path / "made")]
    fallback = ["--hooks", "base udev", "--configured-hooks", "base udev autodetect"]
    assert cli.main([*words, *fallback]) == 0
    assert "a fallback image never wipes" in capsys.readouterr().err
    assert cli.main([*words, *fallback, "--generator", "dracut"]) == 0
    assert "nothing was ever applied" in capsys.readouterr().err
