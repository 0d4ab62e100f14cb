"""The rules of the house as data, and the checks that read a source text against them."""

import ast
import re
import sys
from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple

# The import table. A room may import itself and what stands here, nothing else of ditmesh. "face" is ditmesh/__init__.
FLOOR = {"spec", "models", "config", "sheets"}
GROUND = FLOOR | {"runtime", "upstream", "pipeline", "checks"}
MAY_IMPORT: dict[str, set[str]] = {
    "spec": set(),
    "config": set(),
    "models": {"spec"},
    "runtime": {"spec", "config", "upstream"},  # how torch makes process groups
    "sheets": {"spec", "models"},
    "upstream": {"spec", "config", "runtime"},
    "pipeline": FLOOR | {"upstream"},
    "checks": FLOOR,
    "parallel": GROUND,
    "cache": GROUND,
    "loading": GROUND,
    "flow": GROUND | {"parallel", "cache"},
    "api": GROUND | {"flow", "cache", "loading"},
    "face": {"api", "cache", "config", "spec"},
    "job": GROUND | {"api", "loading", "face"},
    "planner": GROUND | {"job", "api", "loading", "face"},
    "replicas": {"job", "api", "face", "config", "runtime", "upstream", "pipeline"},
    "batch": {"replicas", "job", "api", "face", "runtime", "upstream"},
    "serve": {"replicas", "job", "face", "runtime"},
    "cli": GROUND | {"batch", "serve", "replicas", "planner", "job", "api", "face"},
    "generate": {"cli"},
    "__main__": {"cli"},
}
OF_EXTRAS = ("cli/bench/frontier.py", "cli/plan/plot.py", "replicas/ray", "serve/")  # need an extra to be imported
NOT_ROOMS = {"py.typed", "demo_model", "__pycache__"}

# The strategies do not know each other, but for these ways: patches are sequences cut in time, and a text encoder's
# linears are sharded as a transformer's, its vocabulary by a file of its own. The halves of guidance are the other half
# of that strategy.
ACROSS_FILES = {
    ("parallel/text_encoder.py", "ditmesh.parallel.tensor.linears"),
    ("parallel/text_encoder.py", "ditmesh.parallel.vocabulary"),
    ("parallel/vocabulary.py", "ditmesh.parallel.tensor.linears"),
    ("parallel/pipefusion/patches.py", "ditmesh.parallel.context.sequence"),
    ("parallel/guidance.py", "ditmesh.parallel.halves"),
}

# An arrow that goes up: a name that users expect on a class of the floor, imported where it is called.
UPWARD = {("config/parallelism.py", "ditmesh.planner.auto")}

# What the rooms may import from outside. A room that is not named here is free to choose.
STANDARD = set(sys.stdlib_module_names)
OUTSIDE: dict[str, set[str]] = {
    "spec": {"__future__", "collections", "dataclasses", "typing"},
    "models": STANDARD,
    "sheets": STANDARD,
    "checks": STANDARD,
    "face": STANDARD,
    "config": STANDARD | {"yaml"},
    "runtime": STANDARD | {"torch", "numpy", "PIL"},
}
HEAVY = {"torch", "diffusers", "transformers", "numpy", "PIL", "skimage", "imageio", "accelerate", "huggingface_hub"}
HEAVY |= {"matplotlib", "fastapi", "uvicorn", "prometheus_client"}
# What `ditmesh --help` may load; cli defers its heavy files itself, which a test sees by running it.
LIGHT_ROOMS = {"face", "config", "spec", "models", "sheets", "checks", "generate", "__main__"}
LIGHT_FILES = {"runtime/launch.py", "runtime/machines.py", "runtime/world.py"}
LIGHT_JOB = (
    "caching",
    "call",
    "checks",
    "description",
    "example",
    "facts",
    "images",
    "numbers",
    "quantization",
    "weights",
)
LIGHT_FILES |= {f"cache/calibrators/{name}.py" for name in ("__init__", "taylorseer", "foca", "dmd")}
LIGHT_FILES |= {f"planner/{name}.py" for name in ("hardware", "workload")}
LIGHT_FILES |= {f"job/{name}.py" for name in LIGHT_JOB}
OF_SUPERVISOR = (
    "__init__",
    "requests",
    "engine",
    "supervisor",
    "books",
    "seat",
    "line",
    "messages",
    "local",
    "process",
    "rank",
)
LIGHT_FILES |= {f"replicas/{name}.py" for name in OF_SUPERVISOR}

LIGHT_FILES |= {"serve/settings.py"}

LISTS_FILES = {"cache/calibrators/__init__.py"}  # every file of the folder, as models does

# Names with an underscore that no package keeps to itself: of files that save_pretrained writes, and of os and sys.
NOT_PRIVATE = {"_class_name", "_exit", "_diffusers_version"}
MAY_TOUCH = {"upstream", "models"}  # the seam; and the sheets, whose facts names of upstream are
MAY_NAME_CLASSES = MAY_TOUCH | {"cli/examples"}
ASKING = {"hasattr", "getattr", "setattr", "delattr", "vars", "dir"}
ASKING_PER_THOUSAND_LINES = 1
BROAD_EXCEPT_ALLOWED = {
    "replicas/drawing.py",  # the same
    "replicas/rank.py",  # whatever keeps a rank from loading, the supervisor has to know
    "batch/drawing.py",  # whatever a prompt makes the pipeline raise costs that prompt alone, or ends the job
}
JUNK_DRAWERS = {"utils", "util", "helpers", "common", "misc"}
MODEL_NAMES = re.compile(r"flux|qwen|\bwan(?!t)|Transformer[23]DModel", re.IGNORECASE)
KNOW_MODEL_NAMES = {"models", "cli"}  # cli has the table of examples


class Import(NamedTuple):
    target: str
    line: int
    when_imported: bool  # false inside a function, and under TYPE_CHECKING


def room(file: str) -> str:
    first = file.split("/")[0].removesuffix(".py")
    return "face" if first == "__init__" else first


def room_imported(target: str) -> str | None:
    """The room an import reaches: `ditmesh.models.flux` -> models, `ditmesh.ParallelismConfig` -> face."""
    package, _, rest = target.partition(".")
    if package != "ditmesh":
        return None
    first = rest.split(".")[0]
    return first if first in MAY_IMPORT else "face"


def imports(file: str, source: str) -> Iterator[Import]:
    here = ["ditmesh", *file.removesuffix(".py").split("/")]

    def visit(node: ast.AST, when_imported: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, when_imported) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = [*here[: -child.level], child.module or ""] if child.level else [child.module or ""]
                for alias in child.names:
                    target = ".".join(part for part in [*base, alias.name] if part)
                    yield Import(target, child.lineno, when_imported)
            else:
                later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                typing = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
                yield from visit(child, when_imported and not later and not typing)

    yield from visit(ast.parse(source), True)


def within(target: str, package: str) -> bool:
    return target == package or target.startswith(f"{package}.")


def strategy(path: str) -> str:
    """parallel/context/ring.py -> context, ditmesh.parallel.guidance -> guidance"""
    return path.removesuffix(".py").replace("/", ".").removeprefix("ditmesh.").split(".")[1]


def is_across(file: str, target: str) -> bool:
    """Whether one strategy reaches into another, and not by one of the drawn ways."""
    drawn = any(file == who and within(target, what) for who, what in ACROSS_FILES)
    return strategy(file) != strategy(target) and not drawn


def wrong_imports(file: str, source: str) -> list[str]:
    """Every import of `file` that the table does not allow, with the reason."""
    mine, wrong = room(file), []
    for target, line, when_imported in imports(file, source):
        where, reached, top = f"{file}:{line}", room_imported(target), target.split(".")[0]
        upward = not when_imported and any(file == who and within(target, what) for who, what in UPWARD)
        if reached and reached not in MAY_IMPORT[mine] | {mine} and not upward:
            wrong.append(f"{where}: {mine} may not import {reached} ({target})")
        elif reached == mine == "parallel" and is_across(file, target):
            wrong.append(f"{where}: strategies do not import each other ({target})")
        if not reached and top not in OUTSIDE.get(mine, {top}):
            wrong.append(f"{where}: {mine} may not import {top}")
        is_light = mine in LIGHT_ROOMS or file in LIGHT_FILES
        if is_light and when_imported and (top in HEAVY or reached == "api"):
            wrong.append(f"{where}: {target} would make `ditmesh --help` slow; import it where it is used")
        if (
            within(target, "importlib.import_module")
            and mine not in ("face", "models")
            and file != "cache/calibrators/__init__.py"
        ):
            wrong.append(f"{where}: an import the table cannot see ({target})")
    return wrong


def long_functions(file: str, source: str, limit: int = 50) -> list[str]:
    return [
        f"{file}:{node.lineno}: {node.name} has {node.end_lineno - node.lineno + 1} lines, the limit is {limit}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.end_lineno is not None and node.end_lineno - node.lineno >= limit
    ]


def broad_excepts(file: str, source: str) -> list[str]:
    return [
        f"{file}:{node.lineno}: name the error that is expected"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ExceptHandler)
        if node.type is None or {"Exception", "BaseException"} & set(re.findall(r"\w+", ast.unparse(node.type)))
    ]


def questions(file: str, source: str) -> list[str]:
    return [
        f"{file}:{node.lineno}: {node.func.id}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ASKING
    ]


def is_private(name: str) -> bool:
    ours = name.startswith("_ditmesh") or name in NOT_PRIVATE or len(name) == 1
    return name.startswith("_") and not name.endswith("__") and not ours


def own_names(sources: Iterable[str]) -> set[str]:
    """Every name that the house itself defines: functions, classes, attributes and variables."""
    found: set[str] = set()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            found.add(node.attr)
    return found


def private_names(file: str, source: str, own: set[str]) -> list[str]:
    """Private names of other packages in `file`: attributes, imports, and texts that are nothing but such a name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"_[a-z]\w*", node.value):
            names = [node.value]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            targets = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                targets = [f"{node.module}.{target}" for target in targets]
            names = [part for target in targets if not within(target, "ditmesh") for part in target.split(".")]
        found += [f"{file}:{node.lineno}: {name}" for name in names if is_private(name) and name not in own]
    return found


def classes_named(file: str, source: str, classes: Container[str]) -> list[str]:
    """Texts of `file` that are the name of a class of another package."""
    return [
        f"{file}:{node.lineno}: {node.value!r}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in classes
    ]


def model_names(file: str, source: str) -> list[str]:
    """Names of models among the identifiers and texts of `file`; docstrings and comments may speak of them."""
    found = []
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and is_documented(node)
    }
    for node in ast.walk(tree):
        words = [word for _, word in ast.iter_fields(node) if isinstance(word, str) and id(node) not in docstrings]
        found += [f"{file}:{node.lineno}: {word!r}" for word in words if MODEL_NAMES.search(word)]
    return found


def is_documented(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None
