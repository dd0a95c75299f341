"""The floors of the house: imports only go down, in no circle, and the core needs torch and NumPy alone."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the ground up. A module may import from its own floor and from those below it. The name of a package
# stands for all that is in it; `sdesolve.__init__` is the front of the house and imports the rest.
FLOORS = [
    {"sdesolve.errors", "sdesolve.state", "sdesolve.capture", "sdesolve.progress", "sdesolve.versions"},
    {
        "sdesolve.problem",
        "sdesolve.force",
        "sdesolve.semilinear",
        "sdesolve.split",
        "sdesolve.langevin",
        "sdesolve.hamiltonian",
        "sdesolve.system",
        "sdesolve.brownian",
    },
    {"sdesolve.methods"},
    {
        "sdesolve.loop",
        "sdesolve.driver",
        "sdesolve.fixed",
        "sdesolve.compiled",
        "sdesolve.plan",
        "sdesolve.fixed_plan",
        "sdesolve.adaptive_plan",
        "sdesolve.start",
        "sdesolve.clock",
        "sdesolve.lanes",
        "sdesolve.outputs",
        "sdesolve.shared_clock",
        "sdesolve.lattice_clock",
        "sdesolve.coupling",
        "sdesolve.along",
        "sdesolve.divisible",
        "sdesolve.part",
        "sdesolve.fewer",
        "sdesolve.step_size",
        "sdesolve.interpolate",
        "sdesolve.solution",
        "sdesolve.plots",
        "sdesolve.export",
        "sdesolve.event",
        "sdesolve.crossing",
        "sdesolve.lookout",
        "sdesolve.table_clock",
        "sdesolve.bracket",
    },
    {"sdesolve.adjoint"},
    {"sdesolve.solve", "sdesolve.request", "sdesolve.setting_up", "sdesolve.failure", "sdesolve.stiffness"},
    {"sdesolve.compat", "sdesolve.testing"},
    {"sdesolve.__init__", "sdesolve.__main__"},
    {"diffusion"},
    {"validation", "benchmarks"},
]
PACKAGES = ("sdesolve", "diffusion", "validation", "benchmarks")
SHIPPED = ("sdesolve", "diffusion")
ALWAYS_THERE = {"torch", "numpy"} | sys.stdlib_module_names
TYPES_ONLY = {"TYPE_CHECKING", "typing.TYPE_CHECKING"}  # what stands under such an `if` never runs


@dataclass(frozen=True)
class Import:
    """One name brought in by an import statement: `from a.b import c` is base a.b and name c."""

    base: str
    name: str | None
    line: int
    in_function: bool
    guarded: bool  # inside a module-level try, whose except says what happens without the package

    @property
    def package(self) -> str:
        return self.base.partition(".")[0]


@dataclass(frozen=True)
class House:
    """All modules under a root, by dotted name, and what each imports at run time."""

    imports: dict[str, list[Import]]

    @classmethod
    def read(cls, root: Path) -> "House":
        imports = {}
        for package in PACKAGES:
            for path in sorted((root / package).rglob("*.py")):
                module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
                imports[module] = list(run_time_imports(path, module))
        return cls(imports)

    def targets(self, module: str, imported: Import) -> set[str]:
        """The modules of the house that this import runs, less the packages that `module` itself lies in."""
        whole = f"{imported.base}.{imported.name}"
        target = whole if whole in self.imports else imported.base
        parts = target.split(".")
        run = {".".join(parts[:n]) for n in range(1, len(parts))} - {target}
        already_running = {package for package in run if module == package or module.startswith(package + ".")}
        return ((run - already_running) | {target}) & self.imports.keys()


def run_time_imports(path: Path, module: str) -> Iterator[Import]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def visit(node: ast.AST, in_function: bool, guarded: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and not in_function and ast.unparse(node.test) in TYPES_ONLY:
            children: list[ast.AST] = list(node.orelse)
        else:
            children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, None, node.lineno, in_function, guarded)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            for alias in node.names:
                yield Import(base, alias.name, node.lineno, in_function, guarded)
        in_function = in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        guarded = guarded or (isinstance(node, ast.Try) and bool(node.handlers))
        for child in children:
            yield from visit(child, in_function, guarded)

    yield from visit(ast.parse(path.read_text(encoding="utf-8"), str(path)), False, False)


def floor(module: str) -> int | None:
    """The floor of the longest name in FLOORS that is `module` or holds it."""
    parts = (module if module != "sdesolve" else "sdesolve.__init__").split(".")
    for n in range(len(parts), 0, -1):
        for height, names in enumerate(FLOORS):
            if ".".join(parts[:n]) in names:
                return height
    return None


def breaks_without_extras(imported: Import) -> bool:
    """Whether loading the module fails for want of this package where only the dependencies are installed."""
    return not (imported.package in ALWAYS_THERE or imported.in_function or imported.guarded)


def faults_of(house: House, module: str) -> list[str]:
    """Everything that is wrong with the imports of one module, as sentences."""
    height = floor(module)
    if height is None:
        return [f"{module} has no floor: give it one in FLOORS, or a place in a package that has one"]
    faults = []
    for imported in house.imports[module]:
        where = f"{module}, line {imported.line}"
        if imported.package in PACKAGES:
            if imported.in_function:
                faults.append(f"{where}: imports {imported.base} inside a function")
            for target in sorted(house.targets(module, imported)):
                other = floor(target)
                if other is not None and other > height:
                    faults.append(f"{where}: imports {target}, which stands {other - height} floors above")
        elif breaks_without_extras(imported) and module.startswith(SHIPPED):
            faults.append(
                f"{where}: imports {imported.package} at module level, which is no dependency of the core; "
                "import it inside the function that needs it, or in a try"
            )
    return faults


def circle_in(house: House) -> list[str] | None:
    """Modules that import each other in a circle, the first one again at the end; None if there are none."""
    graph = {
        module: {target for i in imports for target in house.targets(module, i)} - {module}
        for module, imports in house.imports.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return None


HOUSE = House.read(ROOT)


@pytest.mark.parametrize("module", HOUSE.imports)
def test_imports_only_go_down(module: str) -> None:
    assert faults_of(HOUSE, module) == []


def test_imports_run_in_no_circle() -> None:
    assert circle_in(HOUSE) is None


# The checker itself: a small house that is in order, and one fault at a time.

SOUND = {
    "sdesolve/__init__.py": "from .solve import solve\nfrom . import testing",
    "sdesolve/errors.py": "",
    "sdesolve/problem.py": "import torch\nfrom sdesolve.errors import SolveError",
    "sdesolve/methods/__init__.py": "from sdesolve.methods.euler import Euler\nfrom . import tableau",
    "sdesolve/methods/euler.py": "from ..problem import ODE\nfrom .tableau import Tableau",
    "sdesolve/methods/tableau.py": "if typing.TYPE_CHECKING:\n    from sdesolve.solve import solve",
    "sdesolve/loop.py": "import numpy\nfrom sdesolve import step_size\nfrom sdesolve.methods import Euler",
    "sdesolve/step_size.py": "from sdesolve import errors",
    "sdesolve/solve.py": "from sdesolve.loop import drive\ndef show():\n    import rich",
    "sdesolve/testing/__init__.py": "try:\n    import hypothesis\nexcept ImportError:\n    hypothesis = None",
    "diffusion/__init__.py": "import sdesolve as ss\nfrom sdesolve.solve import solve",
}


def house_with(root: Path, **changed: str) -> House:
    for name, source in {**SOUND, **changed}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(source))
    return House.read(root)


def test_checker_accepts_a_sound_house(tmp_path: Path) -> None:
    house = house_with(tmp_path)
    assert len(house.imports) == len(SOUND)
    assert [fault for module in house.imports for fault in faults_of(house, module)] == []
    assert circle_in(house) is None


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("sdesolve/problem.py", "from sdesolve.loop import drive", "floors above"),
        ("sdesolve/problem.py", "from .loop import drive", "floors above"),
        ("sdesolve/problem.py", "from . import loop", "floors above"),
        ("sdesolve/problem.py", "import sdesolve.methods.euler", "floors above"),
        ("sdesolve/problem.py", "import diffusion", "floors above"),
        ("sdesolve/methods/euler.py", "from ..adjoint import x\nfrom ..solve import solve", "floors above"),
        ("sdesolve/methods/euler.py", "from sdesolve import ODE", "floors above"),
        (
            "sdesolve/methods/euler.py",
            "try:\n    from sdesolve.loop import x\nexcept ImportError:\n    x = 1",
            "above",
        ),
        (
            "sdesolve/methods/euler.py",
            "if not TYPE_CHECKING:\n    from sdesolve.loop import drive",
            "floors above",
        ),
        ("sdesolve/methods/euler.py", "class Euler:\n    from sdesolve.loop import drive", "floors above"),
        ("sdesolve/loop.py", "def drive():\n    from sdesolve.methods import Euler", "inside a function"),
        (
            "sdesolve/loop.py",
            "class L:\n    def drive(self):\n        if 1:\n            from . import errors",
            "inside a",
        ),
        ("sdesolve/loop.py", "import rich.progress", "imports rich at module level"),
        ("diffusion/sample.py", "from sklearn import datasets", "imports sklearn at module level"),
        ("sdesolve/utils.py", "", "has no floor"),
    ],
)
def test_checker_catches(tmp_path: Path, path: str, source: str, complaint: str) -> None:
    house = house_with(tmp_path, **{path: source})
    module = path.removesuffix(".py").replace("/", ".")
    assert any(complaint in fault for fault in faults_of(house, module))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("sdesolve/step_size.py", "from sdesolve import loop"),
        ("sdesolve/step_size.py", "from sdesolve.loop import drive"),
        ("sdesolve/methods/tableau.py", "from sdesolve.methods.euler import Euler"),
        ("sdesolve/methods/tableau.py", "from sdesolve.methods import Euler"),
        ("sdesolve/methods/tableau.py", "from . import Euler"),
        ("sdesolve/methods/tableau.py", "def late():\n    from .euler import Euler"),
    ],
)
def test_checker_catches_a_circle(tmp_path: Path, path: str, source: str) -> None:
    circle = circle_in(house_with(tmp_path, **{path: source}))
    assert circle is not None
    assert circle[0] == circle[-1]
    assert path.removesuffix(".py").replace("/", ".") in circle
