"""The house stands as it is drawn: which rooms exist, which may import which, and how large anything may grow."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import diffusers
import pytest
import transformers

from tests.house.rules import (
    ASKING_PER_THOUSAND_LINES,
    BROAD_EXCEPT_ALLOWED,
    HEAVY,
    JUNK_DRAWERS,
    KNOW_MODEL_NAMES,
    MAY_IMPORT,
    MAY_NAME_CLASSES,
    MAY_TOUCH,
    NOT_ROOMS,
    OF_EXTRAS,
    STANDARD,
    broad_excepts,
    classes_named,
    imports,
    long_functions,
    model_names,
    own_names,
    private_names,
    questions,
    room,
    wrong_imports,
)

ROOT = Path(__file__).parents[2]
HOUSE = ROOT / "src" / "ditmesh"
SOURCES = {path.relative_to(HOUSE).as_posix(): path.read_text("utf-8") for path in sorted(HOUSE.rglob("*.py"))}
SCRIPTS = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in sorted(chain((ROOT / "demo").rglob("*.py"), (ROOT / "tests").rglob("*.py")))
}


def collect(check, sources=SOURCES):
    return [wrong for file, source in sources.items() for wrong in check(file, source)]


def test_only_the_drawn_rooms_exist():
    entries = {path.name.removesuffix(".py") for path in HOUSE.iterdir()} - NOT_ROOMS
    assert entries <= set(MAY_IMPORT) | {"__init__"}


def test_every_import_is_in_the_table():
    assert collect(wrong_imports) == []


def test_nothing_outgrows_its_budget():
    lines = {file: len(source.splitlines()) for file, source in (SOURCES | SCRIPTS).items()}
    demo = {file: source for file, source in SCRIPTS.items() if file.startswith("demo/")}
    assert {file: count for file, count in lines.items() if count > 300} == {}
    assert {file: count for file, count in lines.items() if file.startswith("models/") and count > 80} == {}
    assert collect(long_functions, SOURCES | demo) == []


def test_code_knows_what_it_holds():
    outside = {file: source for file, source in SOURCES.items() if room(file) != "upstream"}
    lines = sum(len(source.splitlines()) for source in outside.values())
    assert len(collect(questions, outside)) <= ASKING_PER_THOUSAND_LINES * lines / 1000, collect(questions, outside)
    assert [wrong for wrong in collect(broad_excepts) if wrong.split(":")[0] not in BROAD_EXCEPT_ALLOWED] == []
    assert [file for file in SOURCES if Path(file).stem in JUNK_DRAWERS] == []


def test_only_the_sheets_know_a_models_name():
    others = {file: source for file, source in SOURCES.items() if room(file) not in KNOW_MODEL_NAMES}
    assert collect(model_names, others) == []


def test_only_the_seam_touches_private_names():
    outside = {file: source for file, source in SOURCES.items() if room(file) not in MAY_TOUCH}
    own = own_names(SOURCES.values())
    assert [name for file, source in outside.items() for name in private_names(file, source, own)] == []


def test_only_the_seam_and_tables_of_facts_name_classes_of_other_packages():
    classes = {
        name for package in (diffusers, transformers) for name in dir(package) if sum(map(str.isupper, name)) > 1
    }
    outside = {file: source for file, source in SOURCES.items() if not file.startswith(tuple(MAY_NAME_CLASSES))}
    assert [name for file, source in outside.items() for name in classes_named(file, source, classes)] == []


def test_every_package_imported_is_declared_and_every_declared_one_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    name = re.compile(r"[A-Za-z0-9._-]+")
    declared = {name.match(line).group().lower() for line in project["dependencies"]}
    optional = project["optional-dependencies"]
    declared |= {name.match(line).group().lower() for line in optional["bench"]}
    extras = chain.from_iterable(optional[extra] for extra in ("dev", "docs"))
    development = {name.match(line).group().lower() for line in extras}
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()}
    used = {found.target.split(".")[0] for file in SOURCES for found in imports(file, SOURCES[file])}
    homes = packages_distributions()

    wanted = chain.from_iterable(project["optional-dependencies"].values())
    optional = {name.match(line).group().lower() for line in wanted}
    known = declared | optional
    undeclared = {top for top in used - STANDARD - {"ditmesh"} if not {home.lower() for home in homes[top]} & known}
    assert undeclared == set()
    assert declared | development <= pinned
    # Nobody but who asks for it needs an extra: its imports wait, but for those of files that wait themselves.
    at_once = {found.target.split(".")[0] for file in SOURCES for found in imports(file, SOURCES[file])
               if found.when_imported and not file.startswith(OF_EXTRAS)}  # fmt: skip
    needed = {name.match(line).group().lower() for line in project["dependencies"]}
    assert {
        top for top in at_once - STANDARD - {"ditmesh"} if not {home.lower() for home in homes[top]} & needed
    } == set()


def test_the_demo_model_is_small_enough_to_ship():
    assert sum(file.stat().st_size for file in (HOUSE / "demo_model").rglob("*")) <= 15e6


@pytest.mark.parametrize("module", ["ditmesh", "ditmesh.cli"])
def test_torch_waits_until_a_pipeline_is_touched(module):
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("spec.py", "import re"),
        ("models/flux.py", "import torch"),
        ("models/flux.py", "from ditmesh.parallel import tensor"),
        ("models/flux.py", "from ..upstream.modules import expand"),
        ("runtime/mesh.py", "from ditmesh.pipeline import unpack"),
        ("upstream/lora.py", "from ditmesh.parallel.tensor import linears"),
        ("parallel/context/apply.py", "def f():\n    from ..tensor.apply import apply_tensor_parallel"),
        ("parallel/vae/apply.py", "import ditmesh.parallel.context.sequence"),
        ("parallel/guidance.py", "from ditmesh.parallel.pipefusion.overlap import Overlap"),
        ("parallel/pipefusion/overlap.py", "from ditmesh.parallel.guidance import Guidance"),
        ("parallel/text_encoder.py", "from ditmesh.parallel.tensor.apply import apply_tensor_parallel"),
        ("cache/dbcache.py", "import ditmesh.parallel.context"),
        ("checks.py", "def f():\n    from torch import distributed"),
        ("checks.py", "from ditmesh.parallel.tensor import x"),
        ("api.py", "from ditmesh import cli"),
        ("__init__.py", "import torch"),
        ("__init__.py", "from ditmesh.api import enable_cache"),
        ("runtime/launch.py", "import torch"),
        ("runtime/launch.py", "from ditmesh import enable_cache"),
        ("parallel/tensor/apply.py", "from importlib import import_module"),
    ],
)
def test_a_wrong_import_is_found(file, source):
    assert wrong_imports(file, source)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("upstream/dispatcher.py", "from diffusers.models.attention_dispatch import dispatch_attention_fn"),
        ("parallel/text_encoder.py", "from ditmesh.parallel.tensor.linears import shard_rows"),
        ("parallel/pipefusion/stages.py", "from ditmesh.parallel.pipefusion.schedule import schedule"),
        ("parallel/pipefusion/patches.py", "from ditmesh.parallel.context.sequence import ShardedSequence"),
        ("cli/plan.py", "from ditmesh import ParallelismConfig\ndef f():\n    import torch"),
        ("__init__.py", "if TYPE_CHECKING:\n    from ditmesh.api import enable_cache"),
        ("generate.py", "from ditmesh.cli import main"),
    ],
)
def test_a_right_import_is_let_through(file, source):
    assert wrong_imports(file, source) == []


def test_the_other_checks_can_fail():
    body = "    pass\n" * 49
    assert long_functions("a.py", f"def f():\n{body}") == []
    assert long_functions("a.py", f"def f():\n{body}    pass\n")
    assert broad_excepts("a.py", "try:\n    f()\nexcept (ValueError, Exception):\n    pass")
    assert broad_excepts("a.py", "try:\n    f()\nexcept:\n    pass")
    assert broad_excepts("a.py", "try:\n    f()\nexcept ValueError:\n    pass") == []
    assert questions("a.py", "getattr(x, 'y')")
    assert questions("a.py", "vars(x)")
    own = own_names(["class A:\n    def _mine(self):\n        self._held = 1"])
    assert private_names("a.py", "x._mine(y._held, '_mine', self.__class__, '__init__')", own) == []
    for code in ("x._modules", "f('_call_impl')", "from torch._C import x", "import torch.utils._pytree", "x._y()"):
        assert private_names("a.py", code, own), code
    assert classes_named("a.py", "f('FluxPipeline', 'Flux')", {"FluxPipeline"}) == ["a.py:1: 'FluxPipeline'"]
    assert model_names("a.py", "def f():\n    '''Flux.'''\n    return 'wand'") != []
    assert model_names("a.py", "class A:\n    '''FLUX and Wan.'''\n\n    swan = 'of swans'") == []
    assert model_names("a.py", "is_flux = True")
