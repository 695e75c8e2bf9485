"""Layers: a module imports from lower layers only, and CONTRIBUTING.md names what exists."""

import ast
import graphlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "jest_tf"
FILES = sorted(PACKAGE.rglob("*.py"))
# From the ground up. Packages of one layer do not import each other.
LAYERS = {
    "ground": {
        "errors", "config", "config_checks", "devices", "model_record", "results",
        "files", "collectives", "pages", "progress", "selection_spec",
        "tuning",
    },
    "operations": {"ops"},
    "layer 1": {"selection", "losses", "models", "data"},
    "layer 2": {"runtime", "evaluation", "serving", "monitoring"},
    "layer 3": {"training"},
    "preflight": {"preflight"},
}  # fmt: skip
HEIGHT = {name: i for i, names in enumerate(LAYERS.values()) for name in names}
ENTRY_POINTS = len(LAYERS)  # `jest_tf/*.py` and the configs


def module_of(path: pathlib.Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imported(path: pathlib.Path) -> set[str]:
    """The modules of jest_tf that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in inner}
    return {name for name in names if name in MODULES} - {"jest_tf", module_of(path)}


def room(module: str) -> str:
    """The package or top-level module that a module belongs to."""
    return module.split(".")[1]


def test_a_module_imports_from_lower_layers_only():
    wrong = []
    for module, path in MODULES.items():
        if module == "jest_tf":
            continue
        own = room(module)
        height = HEIGHT.get(own, ENTRY_POINTS)
        for name in imported(path):
            other = HEIGHT.get(room(name), ENTRY_POINTS)
            is_sibling = other == height and height != ENTRY_POINTS and height != 0
            if room(name) != own and (other > height or is_sibling):
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_no_circle():
    graph = {module: imported(path) for module, path in MODULES.items() if module != "jest_tf"}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the circle


def test_every_package_has_a_layer():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages <= set(HEIGHT) | {"configs"}
    assert set(HEIGHT) <= {room(module) for module in MODULES if module != "jest_tf"}


def test_the_ground_imports_no_tensorflow():
    for module, path in MODULES.items():
        if module != "jest_tf" and room(module) in LAYERS["ground"]:
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"^(import|from) (tensorflow|keras)", text, re.MULTILINE), module


@pytest.mark.parametrize("beyond", [r"\.parents\[", r"\.parent\.parent", r'"\.\./'])
def test_no_file_outside_the_package_is_read(beyond):
    for module, path in MODULES.items():
        assert not re.search(beyond, path.read_text(encoding="utf-8")), module


def test_the_product_names_no_demo_data():
    for module, path in MODULES.items():
        if not module.startswith("jest_tf.configs"):
            assert "emoji_captions" not in path.read_text(encoding="utf-8"), module
            assert not re.search(r"^\s*(from|import) examples", path.read_text(), re.M), module


def test_contributing_names_what_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = re.sub(r"^`[\w./]+`:$", "", text, flags=re.MULTILINE)  # what its recipes would add
    quoted = re.findall(r"`([\w./]+)`", text)
    endings = (".py", ".sh", ".txt", ".cfg", ".toml", "/")
    paths = [name for name in quoted if name.endswith(endings) and "NAME" not in name]
    assert len(paths) > 20
    places = (ROOT, *(PACKAGE / p for p in ("", "training", "training/run", "runtime")))
    missing = [p for p in paths if not any((place / p).exists() for place in places)]
    assert missing == []
    for name in ("KINDS", "POLICIES", "MAY_DIFFER", "DRAWS", "SCHEMES", "problems"):
        assert name in text
        code = "".join(path.read_text(encoding="utf-8") for path in FILES)
        assert re.search(rf"^(def {name}\(|{name}\b.*=)", code, re.MULTILINE), name
