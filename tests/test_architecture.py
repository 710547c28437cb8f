"""Which way imports go, which names each face publishes, and how long a function may be."""

import ast
import graphlib
import importlib
import inspect
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STUDIES = "notebooks.studies"
#: From the bottom up: each may import those before it.
PACKAGES = ("theory", "fpsolve", "nets", STUDIES)
#: Code lines of a function, its docstring, blank lines and comments left out.
LONGEST_FUNCTION = 60


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module_name(path): path
    for package in PACKAGES
    for path in (ROOT / package.replace(".", "/")).rglob("*.py")
}
FACES = [
    module_name(path.with_suffix(".py"))
    for package in PACKAGES[:3]
    for path in (ROOT / package).rglob("*.pyi")
]


def package_of(module):
    return next((p for p in PACKAGES if module == p or module.startswith(p + ".")), None)


def room_of(module):
    """The folder a module lies in, if it is a folder of a package; else the module itself."""
    package = package_of(module)
    parts = module.split(".")
    depth = package.count(".") + 2
    inside = len(parts) > depth or module + ".__init__" in FILES or FILES[module].name == "__init__.py"
    return ".".join(parts[:depth]) if inside else module


@cache
def tree(module):
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


@cache
def imports(module):
    """(imported module, names taken from it) of every import in a file, those inside functions included."""
    found = []
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found += [(alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = (
                    module.split(".")[: -node.level]
                    if FILES[module].name != "__init__.py"
                    else module.split(".")
                )
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.append((whole, ()) if whole in FILES else (base, (alias.name,)))
    return found


def arrows(module):
    return {name for name, _ in imports(module) if name in FILES and name != module}


def test_packages_import_only_those_below_them():
    for module in FILES:
        rank = PACKAGES.index(package_of(module))
        above = {name for name, _ in imports(module) if (p := package_of(name)) and PACKAGES.index(p) > rank}
        assert not above, f"{module} imports {above}"


def study_of(module):
    """The study that a module belongs to; None for the core and for what all studies share."""
    parts = module.split(".")
    is_study = package_of(module) == STUDIES and len(parts) > 2
    return parts[2] if is_study and (ROOT / STUDIES.replace(".", "/") / parts[2]).is_dir() else None


def test_studies_never_import_each_other():
    for module in FILES:
        others = {name for name in arrows(module) if study_of(name) not in (None, study_of(module))}
        assert not others, f"{module} imports {others}"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_between_files_nor_between_rooms(package):
    files = {m: {n for n in arrows(m) if package_of(n) == package} for m in FILES if package_of(m) == package}
    rooms = defaultdict(set)
    for module, below in files.items():
        rooms[room_of(module)] |= {room_of(n) for n in below} - {room_of(module)}
    for graph in (files, rooms):
        tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_private_names_stay_in_their_modules():
    for module in FILES:
        for name, taken in imports(module):
            if package_of(name):
                private = [
                    n for n in (*name.split("."), *taken) if n.startswith("_") and not n.startswith("__")
                ]
                assert not private, f"{module} takes {private} from {name}"
        modules = {
            alias.asname or alias.name
            for node in ast.walk(tree(module))
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
            if f"{node.module}.{alias.name}" in FILES
        }
        for node in ast.walk(tree(module)):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in modules
            ):
                assert not node.attr.startswith("_") or node.attr.startswith("__"), (
                    f"{module}: {ast.unparse(node)}"
                )


def test_no_module_bears_the_name_of_a_public_function_in_it():
    for module in FILES:
        for node in tree(module).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert node.name != module.split(".")[-1], module


def code_lines(lines, function):
    counted = set(range(function.lineno, function.end_lineno + 1))
    if ast.get_docstring(function) is not None:
        counted -= set(range(function.body[0].lineno, function.body[0].end_lineno + 1))
    return sum(bool(text := lines[n - 1].strip()) and not text.startswith("#") for n in counted)


def test_no_function_is_too_long_to_read():
    for module, path in FILES.items():
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                long = code_lines(lines, node)
                assert long <= LONGEST_FUNCTION, f"{module}.{node.name} has {long} lines of code"


#: What users import from each face. A name is published here on purpose, and withdrawn never without a word.
PUBLIC = {
    "theory": """
        CriticalPoint Diffusion Landscape Langevin adiabatic anisotropic at_finite_step coloured data_shift
        degenerate_valley double_well escape flatness hessian_proportional isotropic measured
        parse_condition parse_expression phase_boundaries random_shift slow_passage styblinski_tang
        underdamped""",
    "theory.escape": """
        barrier_height effective_barrier exact_exit_time exact_log_mean_time exact_mean_time
        exact_second_moment exact_splitting_probability inflection_dimension kramers_time occupation
        rate_matrix sgd_escape_time total_rate two_temperature_time""",
    "theory.valley": """
        Reduced critical_noise critical_sigma divergence_noise effective_loss_constant_noise
        eliminate eliminate_map equivalent_noise flattest_point floor_curvature log_lifetime
        search_time second_moment_limit sgd_fast_variance steady_state transition_condition""",
    "fpsolve": """
        EscapeSetting committor compare escape_rate evolve fit_slope flatness_diagram
        flatness_growth mean_first_passage_time open_sweep phases plot plot_phases power_law
        passage_time_law probability_current relaxation_modes relaxation_rates scan_escape simulate
        simulate_escape
        simulate_minibatch_escape simulate_valley slope_table split_escape stationary_density
        styblinski_tang_setting sweep""",
    "fpsolve.compare": """
        About Below Between Claim Sides Verdict VerdictTable averages escape read_verdicts
        stationary verdict_page verdicts""",
    "fpsolve.density": """
        averages committor evolve marginal marginal_values mean_first_passage_time
        passage_time_law probability_current relaxation_modes relaxation_rates stationary_density""",
    "fpsolve.ensemble": """
        flatness_growth simulate simulate_valley""",
    "fpsolve.escape": """
        EscapeSetting escape_rate fit_slope scan_escape simulate_escape simulate_minibatch_escape
        slope_table split_escape styblinski_tang_setting ways_out""",
    "fpsolve.phases": """
        boundaries check_valley curvature_point flatness_diagram phase_diagram phase_point
        transition""",
    "fpsolve.plot": """
        CURVES INK ORDER_STYLES RESHAPED crossing_bias density deviations escape_barriers
        escape_scan escape_times landscape marginal marginal_values profiles stationary""",
    "fpsolve.sweeps": """
        Failure SweepError digest kept open_sweep sweep""",
    "fpsolve.symbols": """
        cache_directory numpy_function signed_function target_function""",
    "nets": """
        Data Recipe Run Subject active_temperature analyse continued controls datasets exponents
        fisher from_npz fully_connected hessian lenet_cifar10 lenet_mnist load logistic loss_widths
        measure_valley models net_at noise_alignment noise_covariance noise_trace
        per_sample_gradients principal_components record record_and_continue replicas sgd
        spectral_density top_eigenpairs training weights_along widths""",
    "nets.data": """
        Data from_npz gaussian_clusters load""",
    "nets.measure": """
        Subject active_temperature analyse as_subject fisher hessian measure_valley noise_alignment
        noise_covariance noise_trace per_sample_gradients project spectral_density top_eigenpairs
        widths""",
    "nets.training": """
        Adam Diverged FlatnessNoise GradientDescent IsotropicNoise Momentum Plain Recipe Run
        continued exploration_start load net_at record record_and_continue replicas save sgd
        weights_along""",
}


def public_names(face):
    """The names that a stub publishes."""
    names = []
    for node in ast.parse((ROOT / face.replace(".", "/") / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            names += [a.asname for a in node.names if a.asname and not a.asname.startswith("_")]
        elif isinstance(node, ast.Assign):
            names.append(ast.unparse(node.targets[0]))
    return sorted(names)


@pytest.mark.parametrize("face", FACES)
def test_every_name_on_a_face_is_there_and_has_its_sentence(face):
    package = importlib.import_module(face)
    assert package.__all__ == public_names(face) == sorted(PUBLIC[face].split())
    for name in package.__all__:
        value = getattr(package, name)
        assert inspect.getdoc(value), f"{face}.{name} has no docstring"
        sentences = [line for line in package.__doc__.splitlines() if line.strip().startswith(f"{name}: ")]
        assert len(sentences) == 1 and len(sentences[0].split()) > 2, f"{face}: one sentence for {name}"


@pytest.mark.parametrize("face", FACES)
def test_functions_on_a_face_say_what_they_take_and_return(face):
    package = importlib.import_module(face)
    for name in package.__all__:
        value = getattr(package, name)
        if inspect.isfunction(value):
            documentation = inspect.getdoc(value)
            signature = inspect.signature(value)
            # A figure says in its first word what comes back, and in prose what it draws.
            figure = documentation.startswith(("Axes ", "Figure "))
            nothing = signature.return_annotation in (None, "None") or not signature.parameters
            assert figure or nothing or "Returns\n" in documentation, f"{face}.{name}"
            assert figure or not signature.parameters or "Parameters\n" in documentation, f"{face}.{name}"


def test_a_face_loads_nothing_until_a_name_is_asked_for():
    heavy = ("numpy", "scipy", "sympy", "numba", "fipy", "xarray", "matplotlib", "torch", "tqdm")
    code = f"import sys; import {', '.join(FACES)}; print(*(m for m in {heavy} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not done.stdout.split() and not done.stderr


def test_a_face_names_the_extra_of_a_library_that_is_missing():
    code = "import sys; sys.modules['torch'] = None\ntry: from nets import sgd\nexcept ImportError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "nets needs torch: pip install 'fpsolve[nets]'\n"
