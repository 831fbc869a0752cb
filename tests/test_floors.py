"""Imports go strictly down: words, arithmetic, parts, purposes, faces; and what never meets stays apart."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "albert_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOORS = {
    # words, without JAX; how they say that something is wrong comes before them
    "errors": -2, "files": -1, "memory": -1, "alignment": -1, "sequences": -1, "config": 0, "tokenizer": 0,
    # arithmetic: arrays and trees, no model
    "trees": 1, "packed": 1, "results": 1, "sharding": 1, "metrics": 1, "flops": 1,
    "compiler_options": 1,
    # parts
    "model": 2, "inputs": 2, "optim": 2, "objectives": 2,
    # machinery: knows steps and files, nothing of ALBERT
    "train": 2, "checkpoint": 2, "tracking": 2, "evaluate": 2, "run_directory": 2, "stopping": 2, "distributed": 2,
    # purposes
    "tasks": 3, "interop": 3,
    # faces
    "pretrained": 4, "report": 4, "predict": 5, "convert": 5, "finetuned": 5, "__init__": 5, "__main__": 6,
}  # fmt: skip


def part(path: Path) -> str:
    """The module or folder directly below albert_jax that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, by its full name; of `from x import y` also x.y."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def parts_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in imports(path))
    return {name[1] for name in names if name[0] == "albert_jax" and len(name) > 1} - {part(path)}


def reached(path: Path) -> set[Path]:
    """The files of the package that importing one of them brings in, itself included."""
    found, waiting = set(), [path]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found.add(current)
        for name in imports(current):
            folders = name.split(".")
            if folders[0] == "albert_jax":
                below = PACKAGE.joinpath(*folders[1:])
                waiting += [file for file in (below.with_suffix(".py"), below / "__init__.py") if file.exists()]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_strictly_down(path):
    assert part(path) in FLOORS, "a new module: give it a floor"
    too_high = {name for name in parts_imported(path) if FLOORS[name] >= FLOORS[part(path)]}
    assert not too_high


@pytest.mark.parametrize("name", [name for name in FLOORS if FLOORS[name] <= 0] + ["inputs"])
def test_words_and_inputs_never_meet_jax(name):
    for path in (path for path in MODULES if part(path) == name):
        for file in reached(path):
            assert not {"jax", "flax", "optax", "orbax"} & {module.split(".")[0] for module in imports(file)}, file


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_package_imports_nothing_beside_it(path):
    beside = {"data", "configs", "benchmarks", "tests", "pretrain", "finetune"}
    assert not beside & {module.split(".")[0] for module in imports(path)}
