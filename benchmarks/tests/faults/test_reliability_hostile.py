"""Nothing that comes from data is run: the code does not hold what could run it."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
FILES = [path for name in ("jest_tf", "configs") for path in sorted((ROOT / name).rglob("*.py"))]
RUNS_BYTES = {"pickle", "cPickle", "_pickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}
RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
WRITES_MEMBERS = {"extractall", "unpack_archive"}


def dangers(source: str) -> list[str]:
    """What in a source text could run data, or let them write where they like."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            found += [f"import {n}" for n in names if n.split(".")[0] in RUNS_BYTES]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if isinstance(node.func, ast.Name) and called in RUNS_TEXT:
            found.append(called)
        if called.rpartition(".")[2] in WRITES_MEMBERS:
            found.append(called)
        if called.startswith("yaml.") and "safe" not in called:
            found.append(called)
        if keywords.get("allow_pickle", "False") != "False":
            found.append("allow_pickle")
        if called.endswith("np.load") and "allow_pickle" not in keywords:
            found.append("np.load without allow_pickle=False")
        if called.endswith("load_model") and keywords.get("safe_mode", "True") != "True":
            found.append("load_model outside safe mode")
        if keywords.get("shell", "False") != "False":
            found.append("shell")
        if called.endswith("enable_unsafe_deserialization"):
            found.append(called)
    return found


def test_no_file_of_the_package_can_run_data():
    assert len(FILES) > 100
    found = {str(p.relative_to(ROOT)): dangers(p.read_text(encoding="utf-8")) for p in FILES}
    assert {path: list_ for path, list_ in found.items() if list_} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "yaml.load(f)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "keras.models.load_model(p, safe_mode=False)",
        "keras.config.enable_unsafe_deserialization()",
        "tar.extractall(p)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_search_finds_each_danger(source):
    assert dangers(source)
