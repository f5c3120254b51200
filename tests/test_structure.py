"""The shape of the source tree, read from its syntax: rooms, seams, sizes, and what an import costs.

The rooms and their order are the table of docs/design.md; the files are those of the README's tree.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "bathyscope"
MOST_LINES, MOST_IN_FUNCTION = 400, 60
TOP = "bathyscope"
"""The package itself, which resolves public names; only the faces may ask it for them."""


@dataclass(frozen=True)
class Module:
    """One source file, by its name below the package: "hooks", "cli.demo", "cli" for a folder's own file."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def folder(self) -> str:
        return self.name.rpartition(".")[0] if self.path.stem != "__init__" else self.name

    def __str__(self) -> str:
        return self.name


@cache
def modules() -> dict[str, Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or TOP
        found[name] = Module(name, path, ast.parse(path.read_text("utf-8")))
    return found


def each_module() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("module", modules().values(), ids=str)


def rooms() -> dict[str, tuple[int, int]]:
    """Room and place within it of every module or folder ("cli/") that docs/design.md lists."""
    listed = re.search(r"```text\n(0 .+?)```", (ROOT / "docs/design.md").read_text("utf-8"), re.DOTALL)
    assert listed, "docs/design.md has no table of rooms"
    places = {}
    for line in listed[1].splitlines():
        number, names = re.fullmatch(r"(\d)  \S.*?\s{2,}(\S.*)", line).groups()
        for index, name in enumerate(names.split()):
            assert name not in places, f"docs/design.md lists {name} twice"
            places[name] = (int(number), index)
    return places


def place_of(name: str) -> tuple[int, int] | None:
    listed = rooms()
    return listed.get(name) or listed.get(f"{name.partition('.')[0]}/")


def imports(tree: ast.AST) -> Iterator[str]:
    """Our own modules that a file imports, wherever it does: at its head, in a function, for types only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix(f"{TOP}.") for alias in node.names if alias.name.split(".")[0] == TOP)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == TOP:
            parent = node.module.removeprefix(TOP).removeprefix(".")
            for alias in node.names:
                child = f"{parent}.{alias.name}".removeprefix(".")
                yield child if child in modules() else parent or TOP


def outsiders(tree: ast.AST) -> set[str]:
    """Other packages that a file imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names - {TOP}


def without_type_checking(tree: ast.Module) -> ast.Module:
    kept = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
    ]
    return ast.Module(kept, [])


def registers_hooks(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and bool(re.fullmatch(r"register_\w*hook", node.attr))


def replaces_forward(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
        return any(isinstance(argument, ast.Constant) and argument.value == "forward" for argument in node.args)
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
        return isinstance(node.slice, ast.Constant) and node.slice.value == "forward"
    return isinstance(node, ast.Attribute) and node.attr == "forward" and isinstance(node.ctx, ast.Store)


def runs_what_it_reads(node: ast.AST) -> bool:
    """Python code made from text or from a file."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return bool(outsiders(node) & {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"})
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in ("eval", "exec", "compile", "__import__")
    if isinstance(node, ast.Call) and any(ast.unparse(word) == "weights_only=True" for word in node.keywords):
        node.func.reads_tensors_only = True  # the walk comes to a call before it comes to what is called
    by_torch = isinstance(node, ast.Attribute) and node.attr == "load" and ast.unparse(node.value) == "torch"
    return by_torch and not getattr(node, "reads_tensors_only", False)


def trusts_a_checkpoints_code(node: ast.AST) -> bool:
    if isinstance(node, ast.keyword):
        pairs = [(node.arg, node.value)]
    elif isinstance(node, ast.Dict):
        pairs = [(getattr(key, "value", None), value) for key, value in zip(node.keys, node.values, strict=True)]
    else:
        return False
    return any(name == "trust_remote_code" and getattr(value, "value", None) is not False for name, value in pairs)


def found(tree: ast.AST, is_meant: Callable[[ast.AST], bool]) -> list[str]:
    return [f"line {getattr(node, 'lineno', '?')}: {ast.unparse(node)}" for node in ast.walk(tree) if is_meant(node)]


def definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Functions and classes, methods too, by their dotted names; not those inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node, f"{prefix}{node.name}.")


def length(function: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = function.body[0]
    described = ast.get_docstring(function) is not None
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if described else 0)


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """Names from which one comes back to the same name."""

    def reach(name: str) -> set[str]:
        seen, waiting = set(), [*graph.get(name, ())]
        while waiting:
            if (one := waiting.pop()) not in seen:
                seen.add(one)
                waiting += graph.get(one, ())
        return seen

    return [name for name in graph if name in reach(name)]


def test_every_module_has_a_room_and_every_room_its_modules():
    names = set(modules()) - {TOP, "__main__"}
    assert [name for name in names if place_of(name) is None] == [], "add it to the table of docs/design.md"
    there = names | {f"{name.partition('.')[0]}/" for name in names}
    assert [name for name in rooms() if name not in there] == [], "docs/design.md lists what is not there"


@each_module()
def test_a_module_imports_only_from_below(module: Module):
    if module.name in (TOP, "__main__"):
        return
    own = place_of(module.name)
    for name in imports(module.tree):
        if name == TOP:
            assert own[0] == max(room for room, _ in rooms().values()), "only the faces use public names"
        elif name.partition(".")[0] != module.folder.partition(".")[0] or not module.folder:
            assert place_of(name) < own, f"{module} imports {name}, which is not below it"


def test_no_module_comes_back_to_itself():
    graph = {name: set(imports(module.tree)) - {TOP} for name, module in modules().items() if name != TOP}
    assert cycles(graph) == []
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


SEAMS = {
    "transformers": {"loading", "embedded", "kv", "attention", "model", "sentences"},
    "accelerate": set(),
    "typer": {"cli"},
    "rich": {"cli", "embedded"},
    "pandas": {"results"},
    "safetensors": {"results", "store", "engine", "loading", "mappings", "soft_prompts", "fitting", "sae", "circuits"},
    "matplotlib": {"figures", "plots"},
    "datasets": {"texts"},
    "platformdirs": {"embedded", "store"},
    "sqlite3": {"store"},
    "fastapi": {"web"},
    "starlette": {"web"},
    "uvicorn": {"web"},
    "pydantic": {"web"},
    "anywidget": {"web"},
}
"""Which modules, or folders, may know which package."""


@pytest.mark.parametrize("package", SEAMS)
def test_a_package_is_known_only_at_its_seam(package: str):
    knowing = {name for name, module in modules().items() if package in outsiders(module.tree)}
    assert {name.partition(".")[0] for name in knowing} <= SEAMS[package]


def test_the_model_knows_transformers_as_a_type_only():
    model = modules()["model"].tree
    assert "transformers" in outsiders(model)
    assert "transformers" not in outsiders(without_type_checking(model))


REPLACING = {"bypass", "float32_stream"}

RULES = {
    # `relevance` changes no output, only its gradient, and at modules that are no sites.
    "hooks are registered only in hooks": (registers_hooks, {"hooks", "relevance"}, "m.register_forward_pre_hook(f)"),
    "a forward is replaced only to bypass or to widen": (replaces_forward, REPLACING, "block.forward = f"),
    "no forward is set by name": (replaces_forward, REPLACING, "setattr(block, 'forward', f)"),
    "nor as an entry of a module": (replaces_forward, REPLACING, "block.__dict__['forward'] = f"),
    "nothing is unpickled": (runs_what_it_reads, set(), "import pickle"),
    "torch loads tensors only": (runs_what_it_reads, set(), "torch.load(path)"),
    "and is told so": (runs_what_it_reads, set(), "torch.load(path, weights_only=False)"),
    "wherever it is called": (runs_what_it_reads, set(), "load = torch.load; load(path, weights_only=True)"),
    "no text is evaluated": (runs_what_it_reads, set(), "eval(text)"),
    "no checkpoint runs code": (trusts_a_checkpoints_code, set(), "load(name, trust_remote_code=True)"),
    "no checkpoint may choose to": (trusts_a_checkpoints_code, set(), "{'trust_remote_code': trusted}"),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_holds_in_every_module_and_can_be_broken(rule: str):
    is_meant, allowed, broken = RULES[rule]
    assert found(ast.parse(broken), is_meant)
    for name, module in modules().items():
        assert name in allowed or not found(module.tree, is_meant), name


def test_the_files_that_may_have_what_is_met_nowhere_else():
    assert found(modules()["hooks"].tree, registers_hooks)
    assert all(found(modules()[name].tree, replaces_forward) for name in REPLACING)


@each_module()
def test_a_module_says_what_it_is(module: Module):
    said = ast.get_docstring(module.tree)
    assert said
    assert said.splitlines()[0][-1] in ".:"


@each_module()
def test_every_public_name_is_described(module: Module):
    silent = []
    for name, node in definitions(module.tree):
        overrides = any("override" in ast.unparse(one) for one in getattr(node, "decorator_list", ()))
        private = any(part.startswith("_") for part in name.split("."))
        if not private and not overrides and not ast.get_docstring(node):
            silent.append(name)
    assert silent == []


@each_module()
def test_files_and_functions_fit_on_a_few_pages(module: Module):
    lines = len(module.path.read_text("utf-8").splitlines())
    assert lines <= MOST_LINES, f"{module.path.name} has {lines} lines"
    long = {
        node.name: length(node)
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and length(node) > MOST_IN_FUNCTION
    }
    assert long == {}


def test_a_docstring_does_not_make_a_function_long():
    function = ast.parse('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n').body[0]
    assert length(function) == 2


@pytest.mark.parametrize("name", ["bathyscope", "bathyscope.cli", "bathyscope.sites", "bathyscope.results"])
def test_an_import_is_quick_and_silent(name: str):
    heavy = "torch", "transformers", "numpy", "pandas", "accelerate", "pydantic"
    code = f"import sys, {name}; print([one for one in {heavy} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def tree_of_readme() -> set[str]:
    """The paths in the README's tree; a folder's line, and those indented below it, may name its Python files."""
    block = re.search(r"```text\n(src/bathyscope/\n.+?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert block, "README.md has no tree"
    paths, folder, within = set(), "", ""
    for line in block[1].splitlines():
        words = line.split()
        if line.startswith(" " * 20):
            words = [within.removeprefix(folder), *words]
        if not line.startswith(" "):
            folder = words[0]
            paths.add(folder)
        elif words[0].endswith("/"):
            within = folder + words[0]
            paths.add(within)
            names = {path.stem for path in (ROOT / within).glob("*.py")} & {word.strip(",;:.") for word in words[1:]}
            paths |= {f"{within}{name}.py" for name in names}
        else:
            paths.add(folder + words[0])
    return paths


def test_the_readmes_tree_is_the_tree():
    listed = tree_of_readme()
    missing = {path for path in listed if not (ROOT / path).exists()}
    assert missing == set(), "the README's tree lists what is not there"
    there = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*.py")
        if not (path.name == "__init__.py" and path.parent != PACKAGE)
    }
    assert there - listed == set(), "the README's tree leaves files out"


def texts_of_the_project() -> Iterator[Path]:
    for pattern in (
        "*.md",
        "*.toml",
        "*.txt",
        "Makefile",
        ".ci/*",
        "docs/*",
        "bench/*",
        "src/**/*.py",
        "tests/**/*.py",
    ):
        yield from (path for path in ROOT.glob(pattern) if path.is_file() and path.suffix not in (".png",))


def test_no_file_names_a_place_on_somebodys_machine():
    places = re.compile(r"(?<![\w.\-/])/(?:work|root|tmp)\b")
    assert places.search("see /" + "work/main")
    named = {
        f"{path.relative_to(ROOT)}:{number}"
        for path in texts_of_the_project()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if places.search(line)
    }
    assert named == set()
