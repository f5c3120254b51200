"""What is public: one list in the code, one in docs/api.md, the same to type checkers, each name found once."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import bathyscope

API = (Path(__file__).parents[1] / "docs/api.md").read_text("utf-8")
SECTIONS = {
    title: re.findall(r"^- `([\w.]+)`: \S", body, re.MULTILINE)
    for title, body in re.findall(r"^## `([\w.]+)`.*?\n(.*?)(?=^## |\Z)", API, re.DOTALL | re.MULTILINE)
}
"""The names that docs/api.md lists, by module."""
EXPORTED = sorted(name for name in bathyscope.__all__ if isinstance(getattr(bathyscope, name), ModuleType))


def public(module: ModuleType) -> set[str]:
    """What a module lists as public, or the classes and functions that it defines."""
    if hasattr(module, "__all__"):
        return set(module.__all__)
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    }


def test_the_docs_list_every_public_name_and_no_other():
    assert SECTIONS["bathyscope"] == sorted(SECTIONS["bathyscope"], key=str.lower)
    assert sorted(SECTIONS["bathyscope"]) == sorted(bathyscope.__all__)


@pytest.mark.parametrize("module", EXPORTED)
def test_the_docs_list_what_a_public_module_holds(module: str):
    assert sorted(SECTIONS[f"bathyscope.{module}"]) == sorted(public(getattr(bathyscope, module)))


def test_the_docs_have_no_other_section():
    assert set(SECTIONS) == {"bathyscope", "bathyscope.errors", *(f"bathyscope.{name}" for name in EXPORTED)}


def test_the_docs_list_every_kind_of_error():
    from bathyscope import errors

    assert sorted(SECTIONS["bathyscope.errors"]) == sorted(public(errors))


def test_names_are_sorted_and_each_resolves():
    assert list(bathyscope.__all__) == sorted(bathyscope.__all__)
    assert len(set(bathyscope.__all__)) == len(bathyscope.__all__)
    for name in bathyscope.__all__:
        assert getattr(bathyscope, name) is not None


def test_dir_is_what_is_public():
    assert set(dir(bathyscope)) == {*bathyscope.__all__, "__version__"}


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'bathyscope' has no attribute 'patch_scope'"):
        _ = bathyscope.patch_scope
    with pytest.raises(ImportError):
        exec("from bathyscope import patch_scope")


def test_a_name_means_the_same_before_and_after_its_modules_are_imported():
    """A function that is called like a module becomes that module once the module has been imported."""
    before = {name: getattr(bathyscope, name) for name in bathyscope.__all__}
    for found in pkgutil.walk_packages(bathyscope.__path__, "bathyscope."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    assert {name: getattr(bathyscope, name) for name in bathyscope.__all__} == before


def packages() -> list[str]:
    found = pkgutil.walk_packages(bathyscope.__path__, "bathyscope.")
    return ["bathyscope", *(one.name for one in found if one.ispkg)]


CLASHES = {"bathyscope.engine": "plan, execute and collect", "bathyscope.store": "canonical"}


@pytest.mark.parametrize(
    "package",
    [
        pytest.param(name, marks=[pytest.mark.xfail(reason=f"{CLASHES[name]} are both")] if name in CLASHES else [])
        for name in packages()
    ],
)
def test_no_public_name_is_also_the_name_of_a_module(package: str):
    module = importlib.import_module(package)
    files = {found.name for found in pkgutil.iter_modules(module.__path__)}
    both = files & set(getattr(module, "__all__", ()))
    assert {name for name in both if not isinstance(getattr(module, name), ModuleType)} == set()


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(bathyscope.__file__).read_text("utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {
        alias.name: node.module for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert set(seen) == set(bathyscope.__all__)
    for name, module in seen.items():
        value = getattr(bathyscope, name)
        if isinstance(value, ModuleType):
            assert (module, value.__name__) == ("bathyscope", f"bathyscope.{name}")
        else:
            assert value is getattr(importlib.import_module(module), name)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.xfail(reason="it has none")] if name == "wrap" else [])
        for name in bathyscope.__all__
        if inspect.isfunction(getattr(bathyscope, name))
    ],
)
def test_a_public_function_has_an_example(name: str):
    assert ">>>" in (inspect.getdoc(getattr(bathyscope, name)) or "")


def test_a_star_gives_every_name_and_a_first_use_is_enough():
    code = "from bathyscope import *; print(sorted(n for n in dir() if not n.startswith('__')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == sorted(bathyscope.__all__)


def test_the_version_is_the_packages():
    assert re.fullmatch(r"\d+\.\d+\.\d+", bathyscope.__version__)
    changelog = (Path(__file__).parents[1] / "CHANGELOG.md").read_text("utf-8")
    assert f"## [{bathyscope.__version__}]" in changelog or "## [Unreleased]" in changelog
