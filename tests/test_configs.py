"""The shipped configurations, and how one is chosen, overridden and compared.

Golden copies in tests/golden/ hold every field of every shipped configuration, so a default that moves is a
visible diff. After an intended change: UPDATE_GOLDEN=1 pytest tests/test_configs.py
"""

import ast
import dataclasses
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from albert_jax.config import (
    AlbertConfig,
    DataConfig,
    OptimizerConfig,
    PhasesConfig,
    PretrainConfig,
    albert_config,
    differences,
    flatten,
    load_config,
    parse_command,
    save_json,
    scale_to_batch_size,
)
from albert_jax.errors import UserError
from albert_jax.model import initialize
from albert_jax.trees import tree_size

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
FILES = sorted((ROOT / "configs" / "pretrain").glob("*.py"))


def commands(path: Path) -> list[list[str]]:
    """The arguments of every `python pretrain.py ...` in a file's docstring."""
    lines = ast.get_docstring(ast.parse(path.read_text()), clean=False).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[2:] for line in lines if line.startswith("    python pretrain.py")]


def parse(default: PretrainConfig, *options: str) -> PretrainConfig:
    from pretrain import Command

    return parse_command(Command, default, options, "pretrain.py").config


def resolve(arguments: list[str]) -> PretrainConfig:
    path, *options = arguments or ["configs/pretrain/sample.py"]
    return parse(load_config(ROOT / path), *options)


def rows() -> dict[str, list[str]]:
    """A name for every shipped configuration: the file's, but for tables, and those of docstring commands."""
    found = {}
    for path in FILES:
        if not path.stem.startswith("table"):
            found[path.stem] = [str(path.relative_to(ROOT))]
        for arguments in commands(path):
            if "--run_dir" in arguments:
                found[arguments[arguments.index("--run_dir") + 1].removeprefix("runs/").replace("/", "_")] = arguments
    return found


ROWS = rows()


@pytest.fixture(autouse=True)
def root_on_path(monkeypatch):
    """As when pretrain.py runs: its folder, which holds configs/, is on the path."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def config() -> PretrainConfig:
    return load_config(ROOT / "configs/pretrain/base_v1.py")


@pytest.mark.parametrize("name", ROWS)
def test_shipped_configuration_is_its_golden_copy(name):
    resolved = flatten(resolve(ROWS[name]))
    golden = GOLDEN / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        golden.write_text(json.dumps(resolved, indent=1) + "\n")
    assert golden.exists(), f"new configuration: UPDATE_GOLDEN=1 pytest {__file__}"
    assert resolved == json.loads(golden.read_text())


def test_every_golden_copy_belongs_to_a_shipped_configuration():
    of_pretraining = (path.stem for path in GOLDEN.glob("*.json") if not path.stem.startswith("finetune_"))
    assert set(of_pretraining) == set(ROWS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_docstring_names_commands_that_work_for_this_file(path):
    found = commands(path)
    assert found
    for arguments in found:
        assert arguments[:1] in ([str(path.relative_to(ROOT))], []), "another file's command"
        assert isinstance(resolve(arguments), PretrainConfig)


def test_release_configurations_have_the_published_recipe():
    for size in ("base", "large", "xlarge", "xxlarge"):
        for version in (1, 2):
            config = load_config(ROOT / f"configs/pretrain/{size}_v{version}.py")
            assert config.model == albert_config(size, version)
            (phase,) = config.phases.phases
            assert (phase.steps, phase.batch_size, phase.sequence_length) == (125_000, 4096, 512)
            assert (config.optimizer.peak_learning_rate, config.optimizer.warmup_steps) == (1.76e-3, 3125)
            assert config.data.max_predictions_per_sequence == 20
            assert config.model.hidden_dropout_prob == (0.1 if version == 1 and size != "xxlarge" else 0.0)


def test_only_reproductions_of_published_numbers_cap_the_predictions():
    assert load_config(ROOT / "configs/pretrain/sample.py").data.max_predictions_per_sequence is None


def test_runs_of_different_configurations_have_different_folders():
    own = {path.stem: load_config(path).run_dir for path in FILES}
    assert len(set(own.values())) == len(own)


@pytest.mark.parametrize(
    ("name", "millions"),
    {
        # Paper, tables 3 and 4, without the pretraining heads; 108 is 109.08, 108.49 without the pooler.
        "table3_shared_64": 10, "table3_shared_128": 12, "table3_shared_256": 16, "table3_shared_768": 31,
        "table3_not_shared_64": 87, "table3_not_shared_128": 89,
        "table3_not_shared_256": 93, "table3_not_shared_768": 108,
        "table4_all_768": 31, "table4_attention_768": 83, "table4_ffn_768": 57, "table4_none_768": 108,
        "table4_all_128": 12, "table4_attention_128": 64, "table4_ffn_128": 38, "table4_none_128": 89,
    }.items(),
)  # fmt: skip
def test_row_of_a_table_has_the_papers_number_of_parameters(name, millions):
    model = resolve(ROWS[name]).model
    params = jax.eval_shape(lambda: initialize(model, jax.random.key(0)))
    assert abs(tree_size(params["albert"]) / 1e6 - millions) < 1.1


def test_table_5_measures_every_model_on_both_objectives():
    trained_on = set()
    for name in ("table5_none", "table5_nsp", "table5_sop"):
        config = resolve(ROWS[name])
        assert set(config.evaluate_objectives) == {"sop", "nsp"}
        trained_on.add(config.data.sentence_objective)
    assert trained_on == {"none", "nsp", "sop"}


def test_configuration_of_another_folder_is_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text((ROOT / "configs/pretrain/sample.py").read_text())
    assert load_config(path) == load_config(ROOT / "configs/pretrain/sample.py")


def test_missing_file_is_refused_with_the_nearest_name(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=r"base_v3\.py: no such .* did you mean configs/pretrain/base_v[12]\.py"):
        load_config("configs/pretrain/base_v3.py")


@pytest.mark.parametrize(
    ("text", "message"), [("def get_config(:", "broken.py, line 1: SyntaxError"), ("x = 1", "get_config")]
)
def test_file_that_is_no_configuration_is_refused(tmp_path, text, message):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(path)


def test_a_field_is_overridden_and_the_others_stay(config):
    changed = parse(config, "--optimizer.peak_learning_rate", "1e-3")
    assert changed.optimizer.peak_learning_rate == 1e-3
    assert [name for name in flatten(config) if flatten(config)[name] != flatten(changed)[name]] == [
        "optimizer.peak_learning_rate"
    ]


def test_unknown_option_exits_with_2_and_the_nearest_name(config, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(config, "--optimizer.peak_learning_rat", "1e-3")
    assert stopped.value.code == 2
    assert "optimizer.peak_learning_rate" in capsys.readouterr().err


def test_value_of_the_wrong_type_exits_with_2(config, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(config, "--phases.steps", "many")
    assert stopped.value.code == 2
    assert "phases.steps" in capsys.readouterr().err


def test_value_that_a_dataclass_refuses_names_the_field(config, capsys):
    with pytest.raises((UserError, SystemExit)) as refused:
        parse(config, "--model.num_attention_heads", "7")
    assert "model.num_attention_heads" in f"{refused.value}{capsys.readouterr().err}"


def test_phases_come_from_the_command_line(config):
    changed = parse(config, "--phases.steps", "90", "10", "--phases.sequence_length", "128", "512",
                    "--optimizer.warmup_steps", "5")  # fmt: skip
    first, second = changed.phases.phases
    assert (first.start, first.stop, first.sequence_length, first.batch_size) == (0, 90, 128, 4096)
    assert (second.start, second.stop, second.sequence_length, second.batch_size) == (90, 100, 512, 4096)
    assert changed.phases.total_steps == 100


def test_cap_on_predictions_is_lifted_from_the_command_line(config):
    lifted = parse(config, "--data.max_predictions_per_sequence", "None")
    assert lifted.data.max_predictions_per_sequence is None


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: PhasesConfig(steps=(1, 2), sequence_length=(8, 8, 8)), "phases.sequence_length"),
        (lambda: PhasesConfig(steps=()), "phases.steps"),
        (lambda: PhasesConfig(steps=(0,)), "phases.steps"),
        (lambda: PhasesConfig(sequence_length=(4,)), "phases.sequence_length"),
        (lambda: PhasesConfig(batch_size=(10,), accumulation=(4,)), "phases.batch_size"),
        (lambda: OptimizerConfig(peak_learning_rate=0), "optimizer.peak_learning_rate"),
        (lambda: OptimizerConfig(beta_1=1.0), "optimizer.beta_1"),
        (lambda: OptimizerConfig(warmup_steps=-1), "optimizer.warmup_steps"),
        (lambda: DataConfig(("c",), "t", masked_lm_probability=0.0), "data.masked_lm_probability"),
        (lambda: DataConfig(("c",), "t", max_predictions_per_sequence=0), "data.max_predictions_per_sequence"),
        (lambda: DataConfig("c", "t"), "data.corpus"),
        (lambda: DataConfig((), "t"), "data.corpus"),
        (lambda: run_with(data=DataConfig(("c", ""), "t")), "data.corpus"),
        (lambda: DataConfig(("c", "d"), "t", corpus_weights=(1.0,)), "data.corpus_weights"),
        (lambda: DataConfig(("c",), "t", corpus_weights=(1.0, 2.0)), "data.corpus_weights"),
        (lambda: DataConfig(("c", "d"), "t", corpus_weights=(1.0, 0.0)), "data.corpus_weights"),
        (lambda: DataConfig(("c", "d"), "t", corpus_weights=(1.0, -2.0)), "data.corpus_weights"),
        (lambda: DataConfig(("c", "d"), "t", corpus_weights=(1.0, float("inf"))), "data.corpus_weights"),
        (lambda: DataConfig(("c", "d"), "t", corpus_weights=(1.0, float("nan"))), "data.corpus_weights"),
        (lambda: DataConfig(("c", "d"), "t", sources=("text",)), "data.sources"),
        (lambda: AlbertConfig(hidden_size=100), "model.hidden_size"),
        (lambda: AlbertConfig(num_hidden_groups=13), "model.num_hidden_groups"),
        (lambda: AlbertConfig(hidden_dropout_prob=1.0), "model.hidden_dropout_prob"),
        (lambda: run_with(phases=PhasesConfig(sequence_length=(1024,))), "phases.sequence_length"),
        (lambda: run_with(phases=PhasesConfig(steps=(10,))), "optimizer.warmup_steps"),
        (lambda: run_with(model=AlbertConfig(vocab_size=70_000)), "model.vocab_size"),
        (lambda: run_with(sample_sentences=("no mask",)), "sample_sentences"),
        (lambda: run_with(seed=-1), "seed"),
    ],
)
def test_value_that_makes_no_sense_is_refused_by_name(make, field):
    with pytest.raises(UserError) as refused:
        make()
    assert str(refused.value).startswith(f"{field} = ")


def run_with(**fields) -> PretrainConfig:
    known = dict(data=DataConfig(("corpus",), "spiece.model"), model=AlbertConfig(), phases=PhasesConfig())
    return PretrainConfig("runs/test", **(known | fields))


def test_smaller_batch_gets_lambs_learning_rate_warmup_and_steps(config):
    scaled = scale_to_batch_size(config, 512)
    assert scaled.optimizer.peak_learning_rate == pytest.approx(6.2e-4, rel=5e-3)
    assert scaled.phases.total_steps == 1_000_000
    assert scaled.optimizer.warmup_steps / scaled.phases.total_steps == 1 / 320


def test_scaling_sees_as_many_sequences(config):
    for batch_size in (256, 512, 1024, 2048, 8192, 32768):
        scaled = scale_to_batch_size(config, batch_size)
        assert scaled.phases.total_steps * batch_size == pytest.approx(125_000 * 4096, rel=1e-4)


def test_scaling_keeps_the_share_of_each_phase(config):
    phases = dataclasses.replace(config.phases, steps=(112_500, 12_500), sequence_length=(128, 512))
    scaled = scale_to_batch_size(dataclasses.replace(config, phases=phases), 1024)
    assert scaled.phases.steps == (450_000, 50_000)
    assert scaled.phases.sequence_length == (128, 512)


def test_scaling_to_its_own_batch_changes_nothing(config):
    assert scale_to_batch_size(config, 4096) == config


def test_scaling_needs_one_batch_size(config):
    phases = dataclasses.replace(config.phases, steps=(10_000, 10_000), batch_size=(1024, 4096))
    with pytest.raises(UserError, match=r"phases\.batch_size"):
        scale_to_batch_size(dataclasses.replace(config, phases=phases), 512)


def test_saved_configuration_has_no_differences_from_itself(config, tmp_path):
    save_json(config, tmp_path / "config.json")
    assert differences(json.loads((tmp_path / "config.json").read_text()), config) == []


def test_differences_list_what_changes_the_run_and_only_that(config):
    other = dataclasses.replace(
        config,
        seed=1,
        log_every=7,  # may change between two starts, like the accumulation
        optimizer=dataclasses.replace(config.optimizer, beta_1=0.8),
        phases=dataclasses.replace(config.phases, accumulation=(4,)),
    )
    assert differences(config, other) == ["optimizer.beta_1: 0.9 -> 0.8", "seed: 0 -> 1"]


def test_differences_name_a_field_that_only_one_of_two_versions_has(config):
    saved = json.loads(json.dumps(dataclasses.asdict(config)))
    saved["model"]["net_structure_type"] = 0
    del saved["seed"]
    assert differences(saved, config) == ["model.net_structure_type: 0 -> (absent)", "seed: (absent) -> 0"]


def test_a_run_from_before_mixing_has_no_differences(config):
    saved = json.loads(json.dumps(dataclasses.asdict(config)))
    saved["data"]["corpus"] = saved["data"]["corpus"][0]
    del saved["data"]["corpus_weights"]
    assert differences(saved, config) == []
    weighted = dataclasses.replace(config.data, corpus=("c", "d"), corpus_weights=(1.0, 2.0))
    assert differences(saved, dataclasses.replace(config, data=weighted)) == ["data.corpus_weights: [] -> [1.0, 2.0]"]


def test_corpora_and_weights_are_given_on_the_command_line(config):
    data = parse(config, "--data.corpus", "a", "b", "--data.corpus_weights", "1", "2.5").data
    assert (data.corpus, data.corpus_weights) == (("a", "b"), (1.0, 2.5))


def test_configuration_loads_without_jax():
    """A configuration is words: choosing one must not start a device."""
    load = "import sys; from albert_jax.config import load_config; load_config('configs/pretrain/base_v1.py')"
    command = [sys.executable, "-c", f"{load}; sys.exit('jax' in sys.modules)"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
