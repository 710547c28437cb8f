"""What importing loads, which packages each part may use, and what nothing shipped contains."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import fpsolve

ROOT = Path(__file__).parent.parent
PACKAGES = ("theory", "fpsolve", "nets")
FILES = {p: sorted((ROOT / p).rglob("*.py")) for p in (*PACKAGES, "notebooks/studies")}
HEAVY = ("numpy", "scipy", "sympy", "numba", "fipy", "xarray", "matplotlib", "torch", "tqdm")


def _loaded_after(statement):
    code = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1  # importing prints nothing of its own
    return set(done.stdout.split())


def test_importing_fpsolve_loads_nothing_heavy():
    assert not _loaded_after("import fpsolve, fpsolve.command.line") & set(HEAVY)


def test_importing_theory_loads_sympy_and_numpy_only():
    assert not _loaded_after("import theory") & (set(HEAVY) - {"numpy", "sympy"})


def _imports(path):
    """(module, inside a function?) of every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            yield name.split(".")[0], id(node) in inside


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("theory", {"scipy", "xarray", "numba", "fipy", "torch"}), ("fpsolve", {"torch"}), ("nets", {"fipy"})],
)
def test_a_package_uses_only_what_it_is_built_on(package, forbidden):
    for path in FILES[package]:
        assert not {name for name, _ in _imports(path)} & forbidden, path.name


def test_fipy_is_imported_in_one_file_inside_a_function_and_others_where_they_are_used():
    homes = {p.name for p in FILES["fpsolve"] for name, _ in _imports(p) if name == "fipy"}
    assert homes == {"operator.py"}
    for path in (*FILES["theory"], *FILES["fpsolve"]):
        for name, inside in _imports(path):
            if name in {"fipy", "matplotlib", "tqdm", "dask"}:
                assert inside, f"{path.name} imports {name} at the top"


def test_nothing_is_evaluated_or_unpickled():
    for path in (p for files in FILES.values() for p in files):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {
                    "eval",
                    "exec",
                    "pickle.load",
                    "pickle.loads",
                    "parse_expr",
                    "sp.parse_expr",
                }, path
                if called.endswith("sympify"):
                    # Strict sympify takes numbers and expressions, and refuses text.
                    assert any(k.arg == "strict" for k in node.keywords), path


def test_an_unknown_name_is_an_attribute_error_that_lists_the_known_ones():
    with pytest.raises(AttributeError, match="stationary_density"):
        _ = fpsolve.no_such_name


def test_the_functions_keep_their_names_after_their_modules_are_loaded():
    import fpsolve.density.stationary
    import fpsolve.ensemble.simulation

    assert callable(fpsolve.simulate) and callable(fpsolve.stationary_density)
    assert inspect.ismodule(fpsolve.compare) and inspect.ismodule(fpsolve.plot)


def test_nothing_shipped_names_a_machine():
    shipped = [path for files in FILES.values() for path in files]
    shipped += [
        *ROOT.glob("*.md"),
        *ROOT.glob("*.toml"),
        *ROOT.glob("*.txt"),
        ROOT / "Makefile",
        ROOT / ".ci" / "run",
    ]
    for path in shipped:
        text = path.read_text(encoding="utf-8")
        for place in ("/home/", "/root/", "/work/", "/opt/", "file://", "/tmp/", "/usr/local"):
            assert place not in text, f"{path.name} names {place}"


def test_every_package_says_it_is_typed():
    assert all((ROOT / package / "py.typed").is_file() for package in PACKAGES)


def test_the_version_is_the_same_wherever_it_is_written():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {fpsolve.__version__}\n" in citation
