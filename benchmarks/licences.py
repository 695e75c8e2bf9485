"""Writes docs/licences.md: under which licences the dependencies and the shipped data come.

    python -m benchmarks.licences

Licences are what the installed packages say of themselves, as pip-licenses reads it, for the
versions in constraints.txt. Run it again, in an environment made with them, when that file changes.
"""

import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
# Packages whose metadata name no licence, with the place where it was read.
READ_BY_HAND = {"namex": "Apache-2.0 (its LICENSE file)"}
HEAD = """# Licences

Written by `python -m benchmarks.licences` from what the packages say of themselves. The package
itself is under the Apache License 2.0 ([LICENSE](../LICENSE)). Nothing below is shipped with it
but the emoji data.

## Dependencies

Direct ones, which `setup.cfg` names, are marked; the others come with them. The extras `dev` and
`bench` are included; `tpu` and `gpu` add vendors' runtimes under the vendors' terms.

| package | version | licence | direct |
|---|---|---|---|
"""

NEWLINE = "\n"
DATA = """## Data

The emoji set in `data/emoji`. Each record carries its licence; attribution is required where that
says so.

"""


def pinned(constraints: str) -> dict[str, str]:
    """Name -> version of a constraints file."""
    lines = (line.strip() for line in constraints.splitlines())
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def canonical(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licences() -> dict[str, str]:
    """Canonical name -> licence, of all installed packages that state one or are READ_BY_HAND."""
    words = [sys.executable, "-m", "piplicenses", "--format=json", "--from=mixed", "--with-system"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    stated = {canonical(one["Name"]): one["License"] for one in json.loads(done.stdout)}
    # Some state the whole text: its first line is the name.
    named = {name: text.splitlines()[0].replace("; ", ", ") for name, text in stated.items()}
    return {name: text for name, text in named.items() if text != "UNKNOWN"} | READ_BY_HAND


def page() -> str:
    """The whole page.

    Raises:
      KeyError: a pinned package is not installed, or states no licence and nobody has looked.
    """
    setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    direct = {canonical(name) for name in re.findall(r"^    ([A-Za-z0-9_-]+)\W", setup, re.M)}
    known, rows = licences(), []
    for name, version in pinned((ROOT / "constraints.txt").read_text()).items():
        mark = "yes" if canonical(name) in direct else ""
        rows.append(f"| {name} | {version} | {known[canonical(name)]} | {mark} |")
    readme = (ROOT / "data" / "emoji" / "README.md").read_text(encoding="utf-8")
    _, heading, data = readme.partition("## Sources and licences")
    if not heading:
        raise ValueError("data/emoji/README.md has no section on its sources and licences")
    data = data.partition("\n")[2].strip()
    return f"{HEAD}{NEWLINE.join(rows)}\n\n{DATA}{data}\n"


def main() -> int:
    """Writes the page; returns the exit code."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
