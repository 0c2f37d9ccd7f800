"""Manual pages in HTML, by mandoc: as pages of the site, and as files that need no site."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

# mandoc writes a section as <section class="Sh"><h1 class="Sh" id="X"><a …>X</a></h1>…</section>.
_HEADING = re.compile(r'<h([12]) class="S[hs]"(?: id="[^"]*")?>(.*?)</h\1>', re.DOTALL)
# Pages of other packages are not part of the site.
_ELSEWHERE = re.compile(r'<a class="Xr" href="(?!ephemeroot)[^"]*">(.*?)</a>', re.DOTALL)
# "SECTION in page(N)": a section of another page.
_SECTION_OF = re.compile(
    r'<a class="Sx" href="#[^"]*">([^<]*)</a>(\s+in\s+)<a class="Xr" href="(ephemeroot[^"]*)">'
)
_SECTION = re.compile(r'<a class="Sx" href="#[^"]*">(.*?)</a>', re.DOTALL)


# The style of a page that is read without the site, in light and dark.
STYLE = """\
:root { color-scheme: light dark }
body { max-width: 48rem; margin: auto; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif }
pre, code, .Pa, .Ev, .Dv { font-family: ui-monospace, monospace; font-size: .9rem }
pre { overflow-x: auto }
a.permalink { color: inherit; text-decoration: none }
table.Bl-column { display: block; overflow-x: auto }
"""


def write(source: Path, target: Path) -> None:
    """Write two files into the directory *target* for each manual page in *source*: ``.md`` for
    the site, and ``.html`` for a browser.

    Raises ``CalledProcessError`` if mandoc fails.
    """
    target.mkdir(exist_ok=True)
    for page in sorted(source.iterdir()):
        name, _, section = page.name.rpartition(".")
        text = f"# {name}({section})\n\n{convert(_mandoc(page, 'fragment'))}"
        (target / f"{page.name}.md").write_text(text, encoding="utf-8")
        html = complete(_mandoc(page, "toc"))
        (target / f"{page.name}.html").write_text(html, encoding="utf-8")


def complete(html: str) -> str:
    """mandoc's whole page, with `STYLE`, and links only to pages that are beside it."""
    html = _ELSEWHERE.sub(r"\1", html)
    html = _SECTION_OF.sub(
        lambda m: (
            f'<a href="{m[3]}#{m[1].replace(" ", "_")}">{m[1]}</a>{m[2]}'
            f'<a class="Xr" href="{m[3]}">'
        ),
        html,
    )
    return html.replace("  </style>", f"{STYLE}  </style>", 1)


def convert(html: str) -> str:
    """mandoc's fragment as Markdown: its headings become the site's, all else stays HTML."""
    body = re.sub(r"</?section[^>]*>\n?", "", html.partition('<div class="manual-text">')[2])
    body = body.rpartition("</div>\n<table")[0]
    body = _ELSEWHERE.sub(r"\1", body)
    body = _SECTION_OF.sub(
        lambda m: f'<a href="{m[3]}#{anchor(m[1])}">{m[1]}</a>{m[2]}<a class="Xr" href="{m[3]}">',
        body,
    )
    body = _SECTION.sub(lambda m: f'<a class="Sx" href="#{anchor(m[1])}">{m[1]}</a>', body)
    parts = _HEADING.split(body)
    out = [_raw(parts[0])]
    for level, heading, rest in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        out.append(f"{'#' * (int(level) + 1)} {_plain(heading)}\n\n{_raw(rest)}")
    return "\n".join(out)


def anchor(heading: str) -> str:
    """The anchor that the site gives to a heading."""
    words = re.sub(r"[^\w\- ]", "", _plain(heading).lower())
    return words.replace(" ", "-")


def _plain(html: str) -> str:
    text = " ".join(re.sub(r"<[^>]*>", "", html).split())
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        text = text.replace(entity, character)
    return text


def _raw(html: str) -> str:
    return f"````{{raw}} html\n{html.strip()}\n````\n" if html.strip() else ""


def _mandoc(page: Path, form: str) -> str:
    command = ["mandoc", "-T", "html", "-O", f"{form},man=%N.%S.html", str(page)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
