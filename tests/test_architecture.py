"""The budgets of the design. Each check is a function over (path, source) and is itself shown to fail on a bad snippet."""

import ast
import doctest
import importlib
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import medvlm_r1

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "medvlm_r1"

# Raising this is a reviewed change of one line.
MAX_TOTAL_LINES = 38550
MAX_MODULE_LINES, MAX_FUNCTION_LINES, MAX_LOOP_LINES, MAX_PARAMETERS = 300, 60, 80, 6

# A unit imports from rows above its own and from itself. The first row is one unit: the vocabulary builds on itself.
ROWS = (
    {"", "types", "reasoning", "config", "errors", "files", "console", "wording", "cells", "intervals"},
    {"data", "rewards", "models"},
    {"audit", "rollout", "clinical"},
    {"training", "evaluation"},
    {"preflight", "report", "recipes", "serving"},
    {"reading"},
    {"launch"},
    {"experiments"},
    {"commands"},
    {"__main__"},
)
OPEN_ROWS = (0,)
# The package's face: it tells type checkers what it offers, and imports a home when its name is first used (tests/test_api.py). Nobody inside may ask it.
FACE = f"{PACKAGE}/__init__.py"
FACE_OFFERS = {f"{PACKAGE}.{name}": f"{PACKAGE}.{home}" for name, home in medvlm_r1._HOMES.items()}
LOOPS = {f"{PACKAGE}/training/grpo/trainer.py", f"{PACKAGE}/training/sft.py"}
MAY_PRINT = f"{PACKAGE}/commands/"
MAY_READ_ENVIRONMENT = {f"{PACKAGE}/config.py", f"{PACKAGE}/training/distributed.py"}

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def modules_of(requirements: list[str]) -> set[str]:
    """What is imported of each library."""
    names = (re.split(r"[^\w-]", requirement)[0].lower().replace("-", "_") for requirement in requirements)
    return {{"pillow": "PIL"}.get(name, name) for name in names}


NEEDED = modules_of(PROJECT["dependencies"])
OPTIONAL = modules_of([text for extra, texts in PROJECT["optional-dependencies"].items() if extra != "dev" for text in texts])
# Of nilearn two files are read; pydicom finds its decoders itself, and uvicorn its parser.
NEVER_IMPORTED = {"nilearn", "pylibjpeg", "pylibjpeg_openjpeg", "pyjpegls", "httptools"}

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
parse = cache(ast.parse)  # every check looks at every file


# ---------------------------------------------------------------- imports


def imported_names(path: str, source: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported, at whatever depth; ``from a import b`` is a.b, a name of the face is its home."""
    package = path.removesuffix(".py").removesuffix("/__init__").split("/")
    package = package if path.endswith("__init__.py") else package[:-1]
    tree = parse(source)
    seen_by_checkers_only = {id(line) for node in tree.body if path == FACE and _is_type_checking(node) for line in node.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and id(node) not in seen_by_checkers_only:
            above = package[: len(package) - node.level + 1] if node.level else []
            base = [*above, *(node.module or "").split(".")] if node.module else above
            names = (".".join([*base, alias.name]) for alias in node.names)
            yield from ((node.lineno, FACE_OFFERS.get(name, name)) for name in names)


def _is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def unit_of(module: str) -> str:
    """The sub-package or module right below the package: "data" of medvlm_r1.data.images, "" of medvlm_r1.__version__."""
    parts = module.split(".")
    names = set().union(*ROWS)
    is_of_package_itself = len(parts) < 2 or (len(parts) == 2 and parts[1] not in names and not _exists(module))
    return "" if is_of_package_itself else parts[1]


def _exists(module: str) -> bool:
    path = ROOT / module.replace(".", "/")
    return path.with_suffix(".py").exists() or path.is_dir()


def row_of(unit: str) -> int | None:
    return next((row for row, units in enumerate(ROWS) if unit in units), None)


def check_layers(path: str, source: str) -> list[str]:
    unit = unit_of(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    row, faults = row_of(unit), []
    if row is None:
        return [f'{path}: "{unit}" stands in no row; add it to ROWS']
    for line, name in imported_names(path, source):
        if name.split(".")[0] != PACKAGE or (target := unit_of(name)) == unit:
            continue
        target_row = row_of(target)
        if target_row is None or target_row > row or (target_row == row and row not in OPEN_ROWS):
            faults.append(f"{path}:{line}: {unit or PACKAGE} (row {row}) imports {name} (row {target_row})")
    return faults


def find_cycle(sources: dict[str, str]) -> list[str]:
    """The modules of one import cycle, or []; imports inside functions count."""
    module_of = {p: p.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for p in sources}
    modules = set(module_of.values())
    graph: dict[str, set[str]] = defaultdict(set)
    for path, source in sources.items():
        for _, name in imported_names(path, source):
            target = name if name in modules else name.rpartition(".")[0]
            if target in modules and target != module_of[path]:
                graph[module_of[path]].add(target)
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return []
        found = next((cycle for target in sorted(graph[module]) if (cycle := visit(target, [*trail, module]))), [])
        done.add(module)
        return found

    return next((cycle for module in sorted(modules) if (cycle := visit(module, []))), [])


def importers(name: str, sources: dict[str, str]) -> list[str]:
    return [path for path, source in sources.items() if any(n.split(".")[0] == name for _, n in imported_names(path, source))]


# ---------------------------------------------------------------- sizes


def check_module_length(path: str, source: str) -> list[str]:
    lines = len(source.splitlines())
    return [f"{path}: {lines} lines, at most {MAX_MODULE_LINES}"] if lines > MAX_MODULE_LINES else []


def check_functions(path: str, source: str) -> list[str]:
    faults, most = [], MAX_LOOP_LINES if path in LOOPS else MAX_FUNCTION_LINES
    for node in ast.walk(parse(source)):
        if not isinstance(node, FUNCTIONS):
            continue
        lines = node.end_lineno - node.lineno + 1
        arguments = node.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        names += [a.arg for a in (arguments.vararg, arguments.kwarg) if a]
        parameters = len([name for name in names if name not in ("self", "cls")])
        if lines > most:
            faults.append(f"{path}:{node.lineno}: {node.name} has {lines} lines, at most {most}")
        if parameters > MAX_PARAMETERS:
            faults.append(f"{path}:{node.lineno}: {node.name} takes {parameters} parameters, at most {MAX_PARAMETERS}")
    return faults


# ---------------------------------------------------------------- habits


def check_exceptions(path: str, source: str) -> list[str]:
    faults = []
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "suppress":
            faults.append(f"{path}:{node.lineno}: suppress() swallows an exception")
        if not isinstance(node, ast.ExceptHandler):
            continue
        kinds = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)} if node.type else {"BaseException"}
        is_broad = bool(kinds & {"Exception", "BaseException"})
        is_empty = all(isinstance(line, ast.Pass | ast.Continue) or _is_constant(line) for line in node.body)
        raises = any(isinstance(inner, ast.Raise) for line in node.body for inner in ast.walk(line))
        if is_empty or (is_broad and not raises):
            faults.append(f"{path}:{node.lineno}: this handler swallows {', '.join(sorted(kinds))}")
    return faults


def check_encoding(path: str, source: str) -> list[str]:
    """The platform's own encoding has no room for a page's signs everywhere."""
    calls = [node for node in ast.walk(parse(source)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    bare = [c for c in calls if c.func.attr == "write_text" and len(c.args) < 2 and all(word.arg != "encoding" for word in c.keywords)]
    return [f"{path}:{call.lineno}: write_text() without encoding" for call in bare]


def _is_constant(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def check_print(path: str, source: str) -> list[str]:
    calls = (n for n in ast.walk(parse(source)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name))
    lines = [call.lineno for call in calls if call.func.id == "print"]
    return [] if path.startswith(MAY_PRINT) else [f"{path}:{line}: print outside the commands" for line in lines]


def check_environment(path: str, source: str) -> list[str]:
    if path in MAY_READ_ENVIRONMENT:
        return []
    names = {"os.environ", "os.environb", "os.getenv", "os.putenv", "os.unsetenv"}
    lines = [line for line, name in imported_names(path, source) if name in names]
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and f"{node.value.id}.{node.attr}" in names:
            lines.append(node.lineno)
    return [f"{path}:{line}: the environment is read outside config, launch and distributed" for line in lines]


def check_docstrings(path: str, source: str) -> list[str]:
    tree = parse(source)
    faults = [f"{path}: no docstring"] if tree.body and not ast.get_docstring(tree) else []
    for node in tree.body:
        is_public = isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_")
        if is_public and not ast.get_docstring(node):
            faults.append(f"{path}:{node.lineno}: {node.name} has no docstring")
    return faults


CHECKS = (
    check_layers,
    check_module_length,
    check_functions,
    check_exceptions,
    check_encoding,
    check_print,
    check_environment,
    check_docstrings,
)


# ---------------------------------------------------------------- the package


def package_sources() -> dict[str, str]:
    return {p.relative_to(ROOT).as_posix(): p.read_text() for p in sorted((ROOT / PACKAGE).rglob("*.py"))}


SOURCES = package_sources()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_package_keeps(check):
    assert not [fault for path, source in SOURCES.items() for fault in check(path, source)]


def test_package_has_no_import_cycle():
    assert find_cycle(SOURCES) == []


@pytest.mark.parametrize("name", sorted(OPTIONAL))
def test_optional_library_is_imported_in_at_most_one_module(name):
    assert len(importers(name, SOURCES)) <= 1


def test_every_library_is_declared_and_every_declared_one_is_used():
    imported = {name.split(".")[0] for path, source in SOURCES.items() for _, name in imported_names(path, source)}
    assert imported - set(sys.stdlib_module_names) - {PACKAGE} == (NEEDED | OPTIONAL) - NEVER_IMPORTED


def test_package_stays_below_its_ceiling():
    assert sum(len(source.splitlines()) for source in SOURCES.values()) <= MAX_TOTAL_LINES


@pytest.mark.parametrize("path", [path for path, source in SOURCES.items() if source.strip()])
def test_doctests(path):
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").split(".")[0] not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed")
    assert doctest.testmod(module).failed == 0


# ---------------------------------------------------------------- the checks themselves

BAD = [
    (check_layers, f"{PACKAGE}/data/x.py", "from medvlm_r1.training.grpo import loss"),  # upwards
    (check_layers, f"{PACKAGE}/data/x.py", "from medvlm_r1.models.encode import encode"),  # sideways
    (check_layers, f"{PACKAGE}/data/phantom/x.py", "def f():\n    import medvlm_r1.rewards.choice"),  # hidden in a function
    (check_layers, f"{PACKAGE}/rollout/x.py", "from ..training import sft"),  # relative
    (check_layers, f"{PACKAGE}/reasoning.py", "from medvlm_r1 import data"),
    (check_layers, f"{PACKAGE}/training/grpo/x.py", "from medvlm_r1.commands import main"),
    (check_layers, f"{PACKAGE}/utils/x.py", ""),  # in no row
    (check_layers, f"{PACKAGE}/data/x.py", "from medvlm_r1 import load"),  # upwards through the face
    (check_layers, f"{PACKAGE}/data/x.py", "if TYPE_CHECKING:\n    from medvlm_r1.launch.asking import load"),  # the face alone may
    (check_layers, FACE, "def f():\n    from medvlm_r1.launch.asking import load"),  # and only to type checkers
    (check_layers, FACE, "if TYPE_CHECKING:\n    pass\nelse:\n    from medvlm_r1.launch.asking import load"),
    (check_module_length, f"{PACKAGE}/x.py", "\n" * 301),
    (check_functions, f"{PACKAGE}/x.py", "def f():\n" + "    a = 1\n" * 60),
    (check_functions, f"{PACKAGE}/training/grpo/trainer.py", "def f():\n" + "    a = 1\n" * 80),
    (check_functions, f"{PACKAGE}/x.py", "class A:\n    async def f(self, a, b, c, *d, e, f, **g): ..."),
    (check_exceptions, f"{PACKAGE}/x.py", "try:\n    f()\nexcept:\n    a = 1"),
    (check_exceptions, f"{PACKAGE}/x.py", "try:\n    f()\nexcept ValueError:\n    pass"),
    (check_exceptions, f"{PACKAGE}/x.py", "try:\n    f()\nexcept (KeyError, Exception) as e:\n    log(e)"),
    (check_exceptions, f"{PACKAGE}/x.py", "for i in x:\n    try:\n        f()\n    except OSError:\n        continue"),
    (check_exceptions, f"{PACKAGE}/x.py", "with contextlib.suppress(OSError):\n    f()"),
    (check_encoding, f"{PACKAGE}/x.py", "path.write_text(page)"),
    (check_print, f"{PACKAGE}/experiments/demo.py", "print('hello')"),
    (check_environment, f"{PACKAGE}/experiments/demo.py", "import os\nos.environ['A'] = 'b'"),
    (check_environment, f"{PACKAGE}/x.py", "from os import environ"),
    (check_environment, f"{PACKAGE}/x.py", "import os\nos.getenv('A')"),
    (check_docstrings, f"{PACKAGE}/x.py", "x = 1"),
    (check_docstrings, f"{PACKAGE}/x.py", '"""A."""\ndef f(): ...'),
    (check_docstrings, f"{PACKAGE}/x.py", '"""A."""\nclass A: ...'),
]

GOOD = [
    (check_layers, f"{PACKAGE}/data/phantom/x.py", "import torch\nfrom medvlm_r1.data import images\nfrom medvlm_r1.errors import DataError"),
    (check_layers, f"{PACKAGE}/serving/x.py", "from medvlm_r1 import INTENDED_USE\nfrom medvlm_r1.rollout.engine import Engine"),
    (check_layers, FACE, "if TYPE_CHECKING:\n    from medvlm_r1.launch.asking import load"),
    (check_layers, f"{PACKAGE}/commands/x.py", "from medvlm_r1 import recipes\nfrom medvlm_r1.experiments import demo"),
    (check_module_length, f"{PACKAGE}/x.py", "\n" * 300),
    (check_functions, f"{PACKAGE}/x.py", "def f(self, a, b, c, *, d, e, f):\n" + "    a = 1\n" * 59),
    (check_functions, f"{PACKAGE}/training/sft.py", "def f():\n" + "    a = 1\n" * 79),
    (check_encoding, f"{PACKAGE}/x.py", "path.write_text(page, encoding='utf-8')\nother.write_text(page, 'utf-8', 'replace')"),
    (check_exceptions, f"{PACKAGE}/x.py", "try:\n    f()\nexcept Exception as e:\n    raise RunError(e) from e"),
    (check_exceptions, f"{PACKAGE}/x.py", "try:\n    f()\nexcept KeyError:\n    a = None"),
    (check_print, f"{PACKAGE}/commands/main.py", "print('hello')"),
    (check_print, f"{PACKAGE}/x.py", "console.print('hello')"),
    (check_environment, f"{PACKAGE}/training/distributed.py", "import os\nos.environ['RANK']"),
    (check_environment, f"{PACKAGE}/x.py", "import os\nos.getpid()"),
    (check_docstrings, f"{PACKAGE}/x.py", '"""A."""\ndef _f(): ...'),
    (check_docstrings, f"{PACKAGE}/__init__.py", ""),
]


@pytest.mark.parametrize(("check", "path", "source"), BAD)
def test_check_finds_the_fault(check, path, source):
    assert len(check(path, source)) == 1


@pytest.mark.parametrize(("check", "path", "source"), GOOD)
def test_check_lets_good_code_pass(check, path, source):
    assert check(path, source) == []


def test_find_cycle_finds_one_through_a_function_and_a_package():
    sources = {
        "medvlm_r1/a.py": "from medvlm_r1 import b",
        "medvlm_r1/b.py": "def f():\n    from medvlm_r1.c import g",
        "medvlm_r1/c/__init__.py": "from ..a import h",
    }
    assert find_cycle(sources) == ["medvlm_r1.a", "medvlm_r1.b", "medvlm_r1.c", "medvlm_r1.a"]
    assert find_cycle({**sources, "medvlm_r1/b.py": ""}) == []


def test_importers_sees_every_form():
    sources = {"a.py": "import vllm.engine", "b.py": "def f():\n    from vllm import LLM", "c.py": "from x import vllm"}
    assert importers("vllm", sources) == ["a.py", "b.py"]


def test_a_requirement_is_known_by_what_is_imported_of_it():
    assert modules_of(["pillow>=11.2", "huggingface_hub>=1.0", "pylibjpeg-openjpeg>=2.3", "Jinja2"]) == {
        "PIL",
        "huggingface_hub",
        "pylibjpeg_openjpeg",
        "jinja2",
    }
