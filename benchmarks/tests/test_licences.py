"""The list of licences is complete and is what the command writes; the pins hold together."""

import configparser
import importlib.metadata
import json
import re
import subprocess
import sys

from packaging.requirements import Requirement

from benchmarks import licences

CONSTRAINTS = licences.pinned((licences.ROOT / "constraints.txt").read_text())
SETUP = configparser.ConfigParser()
SETUP.read(licences.ROOT / "setup.cfg")


def requirements(*extras: str) -> list[Requirement]:
    blocks = [SETUP["options"]["install_requires"]]
    blocks += [SETUP["options.extras_require"][extra] for extra in extras]
    lines = [line.split("#")[0].strip() for line in "\n".join(blocks).splitlines()]
    return [Requirement(line) for line in lines if line]


def test_the_page_lists_every_pinned_package_once_with_a_licence():
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (.+?) \| (?:yes)? *\|$", _page(), re.MULTILINE)
    assert {name: version for name, version, _ in rows} == CONSTRAINTS
    assert len(rows) == len(CONSTRAINTS) > 60
    assert all(len(licence) > 2 for _, _, licence in rows)


def test_every_dependency_of_a_dependency_is_pinned():
    """Of what the tests install; the extra `bench` may be absent here."""
    pinned = {licences.canonical(name) for name in CONSTRAINTS}
    todo, seen = [r.name for r in requirements("dev")], set()
    while todo:
        name = licences.canonical(todo.pop())
        if name in seen:
            continue
        seen.add(name)
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                todo.append(needed.name)
    assert len(seen) > 50
    assert seen - pinned <= {"pip", "wheel"}  # belong to the environment


def test_what_was_tested_lies_within_what_is_allowed():
    for requirement in requirements("dev", "bench"):
        version = {licences.canonical(k): v for k, v in CONSTRAINTS.items()}[
            licences.canonical(requirement.name)
        ]
        assert requirement.specifier.contains(version), requirement
        assert str(requirement.specifier), f"{requirement} allows any version"


def test_the_environment_is_consistent():
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_licences_of_the_data_are_on_the_page():
    data = _page().partition("## Data")[2]
    for licence in ("Apache-2.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-3.0", "MIT", "Unicode"):
        assert licence in data


def test_a_package_without_a_licence_is_not_passed_over(monkeypatch):
    stated = [{"Name": "X_y", "License": "UNKNOWN"}, {"Name": "z", "License": "MIT\n\nPermission"}]
    done = subprocess.CompletedProcess([], 0, stdout=json.dumps(stated))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert licences.licences() == {"z": "MIT"} | licences.READ_BY_HAND


def _page() -> str:
    return licences.PAGE.read_text(encoding="utf-8")
