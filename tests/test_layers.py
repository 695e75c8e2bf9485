"""The house: no file imports upwards, and CONTRIBUTING.md names what exists."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
FLOORS = [
    {"errors", "config", "devices", "host_memory", "json_text", "model_record", "pages"},
    {"selection", "data", "models"},
    {"evaluation", "serving", "monitoring", "losses", "runtime"},
    {"training"},
    # Here and above are entry points, `python -m …`: they alone know flags.
    {"preflight", "tpu_compile", "cli", "config_flag", "configs"},
]
FLOOR_OF = {name: i for i, floor in enumerate(FLOORS) for name in floor}
ROOF = len(FLOORS)
FILES = sorted((ROOT / "jest_tf").rglob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    """Full names of the jest_tf modules that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "jest_tf":
            names |= {f"jest_tf.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module)
    return {name for name in names if name.startswith("jest_tf.")}


def floor(name: str) -> int:
    return FLOOR_OF.get(name, ROOF)


def own_name(path: pathlib.Path) -> str:
    inside = path.relative_to(ROOT / "jest_tf")
    return inside.parts[0].removesuffix(".py")


def test_no_file_imports_upwards():
    wrong = []
    for path in FILES:
        own = own_name(path)
        for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
            other = name.split(".")[1]
            # The packages of floor 1 must not know each other either.
            highest = 0 if floor(own) == 1 else floor(own)
            if other != own and floor(other) > highest:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_every_package_has_a_floor():
    packages = {path.parent.name for path in (ROOT / "jest_tf").glob("*/__init__.py")}
    assert packages <= set(FLOOR_OF)
    assert len(packages) > 6


def test_the_ground_imports_no_tensorflow():
    ground = [path for path in FILES if own_name(path) in FLOORS[0]]
    assert len(ground) > len(FLOORS[0])
    for path in ground:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^(import|from) (tensorflow|keras)", text, re.MULTILINE)


def test_contributing_names_what_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    quoted = re.findall(r"`([\w./]+)`", text)
    endings = (".py", ".sh", ".txt", ".cfg", ".toml", "/")
    paths = [name for name in quoted if name.endswith(endings) and "NAME" not in name]
    assert len(paths) > 20
    places = (ROOT, *(ROOT / "jest_tf" / p for p in ("", "training", "training/run", "runtime")))
    missing = [p for p in paths if not any((place / p).exists() for place in places)]
    assert missing == []
    for name in ("OPTIONS", "POLICIES", "MAY_DIFFER", "_select", "open_source", "problems"):
        assert name in text
        code = "".join(path.read_text(encoding="utf-8") for path in FILES)
        assert re.search(rf"^(def {name}\(|{name}\b.*=)", code, re.MULTILINE), name
