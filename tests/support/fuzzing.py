"""One reader under a coverage-guided fuzzer: NAME CORPUS and libFuzzer's options."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ephemeroot", "tomllib"]):
    from readers import READERS, Reader


def main() -> None:
    name, corpus, *options = sys.argv[1:]
    reader = next(reader for reader in READERS if reader.name == name)
    for number, raw in enumerate(reader.samples):
        Path(corpus, f"sample-{number}").write_bytes(raw)
    atheris.Setup([sys.argv[0], *options], partial(_read, reader))
    atheris.Fuzz()


def _read(reader: Reader, raw: bytes) -> None:
    reader.read(raw)


if __name__ == "__main__":
    main()
