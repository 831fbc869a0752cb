"""The shipped fine-tuning configurations: their golden copies, and the commands in their docstrings.

Golden copies in tests/golden/ hold every field of every shipped configuration, so a default that moves is a
visible diff. After an intended change: UPDATE_GOLDEN=1 pytest tests/test_finetune_configs.py
"""

import ast
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from albert_jax.config import flatten, load_config, parse_command
from albert_jax.tasks.config import FinetuneConfig

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
FILES = sorted((ROOT / "configs" / "finetune").glob("*.py"))
by_name = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def commands(text: str) -> list[list[str]]:
    """The arguments of every `python finetune.py ...` in a docstring; what stands far behind is a remark, and what is
    in brackets may be left out."""
    lines = text.replace("\\\n", " ").splitlines()
    found = (line.strip().split("      ")[0] for line in lines if line.startswith("    python finetune.py"))
    return [shlex.split(command.replace("[", "").replace("]", ""))[2:] for command in found]


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text()), clean=False)


def resolve(arguments: list[str]) -> FinetuneConfig:
    from finetune import Command

    path, *options = arguments
    return parse_command(Command, load_config(ROOT / path), options, "finetune.py").config


@pytest.fixture(autouse=True)
def root_on_path(monkeypatch):
    """As when finetune.py runs: its folder, which holds configs/, is on the path."""
    monkeypatch.syspath_prepend(str(ROOT))


@by_name
def test_shipped_configuration_is_its_golden_copy(path):
    config = load_config(path)
    assert isinstance(config, FinetuneConfig)
    golden = GOLDEN / f"finetune_{path.stem}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(json.dumps(flatten(config), indent=1) + "\n")
    assert golden.exists(), f"new configuration: UPDATE_GOLDEN=1 pytest {__file__}"
    assert flatten(config) == json.loads(golden.read_text())


def test_every_golden_copy_belongs_to_a_shipped_configuration():
    assert {path.stem for path in GOLDEN.glob("finetune_*.json")} == {f"finetune_{path.stem}" for path in FILES}


@by_name
def test_docstring_names_commands_that_work_for_this_file(path):
    found = commands(docstring(path))
    assert found
    for arguments in found:
        assert arguments[0] == str(path.relative_to(ROOT)), "another file's command"
        config = resolve(arguments)
        assert isinstance(config, FinetuneConfig)
        assert config.init_from is not None, "a command that a user can run as it stands"


@by_name
def test_docstring_names_options_that_there_are(path):
    """Those in its sentences too; each begins with "--" and is a field of the configuration."""
    fields = set(flatten(load_config(path)))
    text = docstring(path)
    named = {word.strip("`.,;:()").removeprefix("--") for word in text.split() if word.strip("`(").startswith("--")}
    assert named <= fields


def test_the_scripts_own_docstring_names_commands_that_work():
    found = commands(docstring(ROOT / "finetune.py"))
    assert len(found) == 4
    for path, *options in found:
        chosen = "configs/finetune/glue.py" if path == "CONFIG" else path
        known = ["rte" if option == "TASK" else option for option in options]
        assert isinstance(resolve([chosen, *known]), FinetuneConfig)


def test_glue_has_five_seeds_as_in_the_paper():
    assert load_config(ROOT / "configs/finetune/glue.py").seeds == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("path", [path for path in FILES if path.stem != "sample"], ids=lambda path: path.stem)
def test_what_is_not_said_stays_the_published_recipe(path):
    """But for the sample, whose model is smaller than any published one."""
    recipe = flatten(load_config(path).recipe)
    assert {name: value for name, value in recipe.items() if value is not None} == {
        "weight_decay": 0.01,
        "max_gradient_norm": 1.0,
    }


def test_runs_of_different_configurations_have_different_folders():
    own = {path.stem: load_config(path).run_dir for path in FILES}
    assert len(set(own.values())) == len(own)


def test_configuration_loads_without_jax():
    """A configuration is words: choosing one must not start a device."""
    load = "import sys; from albert_jax.config import load_config; load_config('configs/finetune/glue.py')"
    command = [sys.executable, "-c", f"{load}; sys.exit('jax' in sys.modules)"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
