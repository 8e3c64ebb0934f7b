"""The floors of the house, the sizes of its rooms and its words, read from the files themselves."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import vla

ROOT = Path(vla.__file__).parent
FLOORS = [
    {"common"},
    {"config", "types"},
    {"data", "tokenizers"},
    {"models"},
    {"control", "export", "training"},
    {"serving", "sim_eval"},
    {"recipes"},
    {"cli"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
SUB_FLOORS = {
    "data": [{"storage"}, {"formats"}, {"loading"}, {"replay", "tools"}, {"validation", "view"}],
    "models": [{"layers"}, {"heads"}, {"transfer"}, {"policies"}, {"rewards"}],
    "training": [
        {"hardware"},
        {"distributed", "offline_rl", "online_rl", "run_data"},
        {"objectives", "finetuning", "alignment"},
        {"offline_evaluation"},
        {"reward_learning"},
    ],
    "sim_eval": [
        {"statistics"},
        {"mujoco", "workers"},
        {"gates", "perturbations"},
        {"envs", "rollouts"},
        {"collection", "comparison", "identification"},
        {"report"},
        {"realtime", "robustness"},
    ],
}
PRIVATE_WORDS = ("told", "anew", "owes", "heard", "besides")
PRIVATE_NAMES = {
    *("Pilot", "Crew", "Duty", "Moment", "Speaker", "SpokenActions", "Transplant", "Climb"),
    *("save_besides", "asked_besides", "policy_rests", "held_up_by", "refuse_unused", "spec_"),
}
ALIASES = {"vla.sim_eval.env": {"spec_"}}  # modules in which a former name is an alias


def _files() -> list[Path]:
    return [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"]


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(["vla", *parts]).removesuffix(".__init__")


MODULES = {_module(path): path for path in _files()}


@functools.cache
def _tree(path: Path) -> ast.Module:
    """Parsed once for all tests; nobody changes it."""
    return ast.parse(path.read_text())


def _imported_names(node: ast.stmt) -> set[str]:
    """Dotted names that an import statement may load; empty for other statements."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative import"
        module = node.module or ""
        return {module} | {f"{module}.{alias.name}" for alias in node.names}
    return set()


@functools.cache
def _imports(path: Path) -> frozenset[str]:
    """Modules of vla that a file imports, at its top or inside a function."""
    statements = [n for n in ast.walk(_tree(path)) if isinstance(n, ast.stmt)]
    names = {name for statement in statements for name in _imported_names(statement)}
    return frozenset(name for name in names if name.startswith("vla."))


def _room(module: str) -> str:
    return module.split(".")[1]


def _sub_room(module: str) -> str:
    """`storage` of `vla.data.storage.video`; empty for a module that lies in the room itself."""
    path = MODULES.get(module)
    folders = path.relative_to(ROOT).parts[:-1] if path is not None else ()
    return folders[1] if len(folders) > 1 else ""


def test_every_room_has_a_floor() -> None:
    assert {_room(module) for module in MODULES} <= set(FLOOR_OF)


def test_rooms_import_only_from_lower_floors() -> None:
    wrong = []
    for module, path in MODULES.items():
        room = _room(module)
        for imported in {_room(name) for name in _imports(path)} - {room}:
            if imported in FLOOR_OF and FLOOR_OF[imported] >= FLOOR_OF[room]:
                wrong.append(f"{module} imports {imported}")
    assert wrong == []


@pytest.mark.parametrize("room", SUB_FLOORS)
def test_rooms_inside_a_room_import_only_from_lower_floors(room: str) -> None:
    floor_of = {sub: floor for floor, subs in enumerate(SUB_FLOORS[room]) for sub in subs}
    folders = {p.parent.name for p in (ROOT / room).glob("*/*.py")}
    assert folders == set(floor_of), "every folder of the room has a floor"
    wrong = []
    for module, path in MODULES.items():
        here = _sub_room(module)
        if _room(module) != room or not here:
            continue
        for name in _imports(path):
            there = _sub_room(name) if _room(name) == room else ""
            if there not in ("", here) and floor_of[there] >= floor_of[here]:
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def _graph(inside_functions: bool) -> dict[str, set[str]]:
    """module -> modules that it imports; by default at its top alone, where a circle would fail."""
    graph = {}
    for module, path in MODULES.items():
        if inside_functions:
            names = _imports(path)
        else:
            body = _tree(path).body
            blocks = [node for node in body if isinstance(node, ast.If)]  # TYPE_CHECKING counts
            statements = body + [statement for block in blocks for statement in block.body]
            names = {name for statement in statements for name in _imported_names(statement)}
        graph[module] = {name for name in names & MODULES.keys() if name != module}
    return graph


def _circle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of a circle, in order; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name not in done:
            for target in sorted(graph.get(name, ())):
                if found := visit(target, (*trail, name)):
                    return found
            done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, ()))), [])


def test_modules_import_in_no_circle() -> None:
    graph = _graph(inside_functions=False)
    for module, targets in graph.items():  # a package's face imports its own files
        targets -= {target for target in targets if module.startswith(target + ".")}
    assert _circle(graph) == []


def test_folders_and_files_of_a_room_import_in_no_circle() -> None:
    """A folder inside a room counts as one node, a file of the room itself as another."""
    collapsed: dict[str, set[str]] = {}
    faces = {module for module, path in MODULES.items() if path.name == "__init__.py"}
    for module, targets in _graph(inside_functions=True).items():
        if module in faces:
            continue
        here = (
            ".".join(filter(None, (_room(module), _sub_room(module))))
            if _sub_room(module)
            else module
        )
        for target in targets - faces:
            there = f"{_room(target)}.{_sub_room(target)}" if _sub_room(target) else target
            if there != here:
                collapsed.setdefault(here, set()).add(there)
    assert _circle(collapsed) == []


PRETRAINED = "vla.common.foreign.pretrained"
LOADERS = {
    "from_pretrained",
    "from_config",
    "for_model",
    "_from_config",
    "get_kernel",
    "create_model",
}
"""Members by which transformers, timm and peft read what others made."""
HUB = {"snapshot_download", "hf_hub_download", "cached_download", "load_state_dict_from_url"}
OWN_LOADERS = {
    # `Policy.from_pretrained`, which reads checkpoints of this package alone
    ("vla.models.policy", "from_pretrained"),
    # a policy of this package is downloaded as a folder, and then read as any other
    ("vla.models.checkpoint_files", "snapshot_download"),
    # what this process, or a worker that it started, has packed itself
    ("vla.sim_eval.envs.metaworld", "pickle"),
    ("vla.sim_eval.workers.ray_actors", "pickle"),
    # an empty model of a class that is there already
    ("vla.models.policies.vlm", "_from_config"),
}


def _foreign_loads(tree: ast.AST) -> set[str]:
    """Names by which a file loads configs, models, tokenizers, processors or pickles of others."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in LOADERS | HUB:
            found.add(node.attr)
        elif isinstance(node, ast.FunctionDef) and node.name in LOADERS:
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = {alias.name.split(".")[-1] for alias in node.names}
            found |= names & (HUB | {"pickle", "hub"})
            module = getattr(node, "module", None) or ""
            if module.split(".")[0] == "transformers":
                found |= {name for name in names if name.startswith("Auto")}
        elif isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "weights_only"):
            found.add(node.arg)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load"):
            allows = [ast.unparse(k.value) for k in node.keywords if k.arg == "allow_pickle"]
            if ast.unparse(node.func) == "torch.load" or allows == ["True"]:
                found.add(ast.unparse(node.func))
    return found


def test_what_others_made_is_loaded_in_one_place() -> None:
    wrong = []
    for module, path in MODULES.items():
        loads = _foreign_loads(_tree(path))
        if module != PRETRAINED:
            wrong += [f"{module}: {name}" for name in loads if (module, name) not in OWN_LOADERS]
    assert wrong == [], "use vla.common.foreign.pretrained, which runs no code of others"


def test_no_call_there_runs_code_or_reads_pickles() -> None:
    calls = {}
    for node in ast.walk(ast.parse(MODULES[PRETRAINED].read_text())):
        if isinstance(node, ast.Call):
            calls.setdefault(ast.unparse(node.func).split(".")[-1], []).append(ast.unparse(node))
    assert len(calls["from_pretrained"]) == 5
    assert all("**_local()" in call for call in calls["from_pretrained"])
    assert all("trust_remote_code=False" in call for call in calls["from_config"])
    assert all("pretrained=False" in call for call in calls["create_model"])
    model = next(call for call in calls["from_pretrained"] if call.startswith("found."))
    assert "use_safetensors=True" in model
    # GGUF holds tensors and texts alone; its files come out of packages whose checksums are known
    others = [call for call in calls["from_pretrained"] if "AutoModel" in call]
    assert all("gguf_file=" in call for call in others)


@pytest.mark.parametrize(
    "code",
    [
        "from transformers import AutoModel",
        "import transformers\ntransformers.BertModel.from_pretrained('x')",
        "from huggingface_hub import hf_hub_download",
        "import torch\ntorch.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "timm.create_model('x', pretrained=True)",
        "import pickle",
        "load(trust_remote_code=True)",
    ],
)
def test_other_ways_of_loading_are_seen(code: str) -> None:
    assert _foreign_loads(ast.parse(code))


CONSOLE = "vla.common.terminal.visible_console"


def _makes_a_console(tree: ast.AST) -> bool:
    """Whether a file makes a console of rich, or prints by one that rich makes."""
    of_rich = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rich":
            made = [
                alias for alias in node.names if alias.name in ("Console", "print", "get_console")
            ]
            of_rich |= {alias.asname or alias.name for alias in made}
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return bool(called & (of_rich | {"rich.print", "rich.get_console", "rich.console.Console"}))


def test_there_is_one_console() -> None:
    """All that is printed goes through the one that shows control characters."""
    made = [m for m, path in MODULES.items() if _makes_a_console(_tree(path))]
    assert made == [], f"use {CONSOLE}"
    assert _makes_a_console(ast.parse("from rich.console import Console as C\nC()"))
    assert _makes_a_console(ast.parse("import rich\nrich.print('x')"))


def _measures() -> ModuleType:
    path = ROOT.parent / "scripts" / "measure_code.py"
    spec = importlib.util.spec_from_file_location("measure_code", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["measure_code"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_sizes_and_density() -> None:
    found = _measures().report(ROOT)
    assert found["largest_folder"]["files"] <= 18, found["largest_folder"]
    assert found["longest_file"] <= 500
    assert found["median_file"] <= 150
    assert found["longest_line"] <= 100
    assert found["tokens_per_code_line"] <= 8.5
    assert found["comments_per_100_code_lines"] >= 5


def test_the_words_are_those_of_the_field() -> None:
    word = re.compile(rf"(?<![a-z])({'|'.join(PRIVATE_WORDS)})(?![a-z])", re.IGNORECASE)
    wrong = []
    for path in _files():
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if re.search(r"(?<![a-zA-Z])[Ff]ormer", line):  # here an old spelling is accepted
                continue
            names = set(re.findall(r"\w+", line)) - ALIASES.get(_module(path), set())
            if word.search(line) or names & PRIVATE_NAMES:
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert wrong == []


def test_every_folder_says_what_lives_there() -> None:
    faces = sorted(ROOT.rglob("__init__.py"))
    silent = [str(p.parent) for p in faces if not ast.get_docstring(ast.parse(p.read_text()))]
    assert silent == []
    folders = {p.parent for p in _files()}
    assert {p.parent for p in faces} >= folders


def test_importing_the_package_is_quick() -> None:
    """`import vla` must not load torch: the command line's help and completions depend on it."""
    code = "import sys, vla, vla.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_policy_without_pictures_waits_for_no_library_of_pictures() -> None:
    """timm brings torchvision and torch._dynamo along, flex_attention sympy: seconds per process."""
    code = """if True:
        import sys
        import vla.models, vla.recipes.online, vla.serving, vla.training
        from vla.models.policies.mlp import MLPConfig
        from vla.types import Spec

        spec = Spec({}, ("x",), ("dx",), (-1.0,), (1.0,), 10)
        policy = MLPConfig(hidden=4, language=None).build(spec).eval()
        policy.act(spec.fake_observation(1))
        heavy = ("timm", "torchvision", "torch._dynamo", "sympy", "transformers", "matplotlib")
        sys.exit(", ".join(name for name in heavy if name in sys.modules) or 0)
    """
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_files_that_are_not_python_are_packaged() -> None:
    """What an installed package needs beside its code is named in pyproject.toml."""
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["vla"]
    packaged = {path for pattern in patterns for path in ROOT.glob(pattern)}
    others = {p for p in ROOT.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert others <= packaged
