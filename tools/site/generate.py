"""The documentation site from docs/ and man/, into build/site: `make docs`.

python -P tools/site              pictures, manual pages, and the site
python -P tools/site pictures DIR   the pictures alone, into DIR; needs no generator
"""

from __future__ import annotations

import sys
from pathlib import Path

import manual
import pictures

CHECKOUT = Path(__file__).resolve().parent.parent.parent
OUTPUT = CHECKOUT / "build/site"

# The home page is docs/index.md, so that the same index can be read beside the documents.
FRONT = """\
<!DOCTYPE html>
<meta charset="utf-8">
<title>Ephemeroot</title>
<meta http-equiv="refresh" content="0; url=docs/index.html">
<a href="docs/index.html">Ephemeroot</a>
"""


def main(arguments: list[str]) -> int:
    """Build what *arguments* ask for. Returns the exit status of the generator."""
    if arguments[:1] == ["pictures"]:
        pictures.write(Path(arguments[1]))
        return 0
    from sphinx.cmd.build import main as sphinx

    pictures.write(CHECKOUT / "docs")
    manual.write(CHECKOUT / "man", CHECKOUT / "docs/man")
    here, doctrees = str(CHECKOUT / "tools/site"), str(CHECKOUT / "build/doctrees")
    # Strict: a link or an anchor that does not resolve fails the build.
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--fresh-env"]
    status = int(sphinx([*options, "-c", here, "-d", doctrees, str(CHECKOUT), str(OUTPUT)]))
    if status == 0:
        (OUTPUT / "index.html").write_text(FRONT, encoding="utf-8")
        print(f"the site is in {(OUTPUT / 'index.html').relative_to(CHECKOUT)}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
