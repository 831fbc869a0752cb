"""Fine-tuned models after their training: which one is kept, what it says about any data of its task, and what stands
beside its result."""

import dataclasses
import os
import shutil
from pathlib import Path

import jax
from jax.sharding import Mesh

from albert_jax.config import ALBERT_SIZES, AlbertConfig, require
from albert_jax.errors import UserError
from albert_jax.interop.saved_model import SavedModel
from albert_jax.pretrained import BEST, CLASSES, PretrainedModel, read_source
from albert_jax.results import Reference, SeedResult, TaskResult, load_result, save_result
from albert_jax.run_directory import RESULT_FILE
from albert_jax.sharding import named, parameter_specs
from albert_jax.tasks.catalog import Task, open_task
from albert_jax.tasks.config import FinetuneConfig, Recipe
from albert_jax.tasks.examples import listing
from albert_jax.tasks.finetuning import compile_reader, first, percentages, predict, thresholds, truncation
from albert_jax.tokenizer import AlbertTokenizer
from albert_jax.tracking import Clock, warn

CHANCE_MARGIN = 1.0
"""Percent above the commonest answer that count as chance still."""
PREDICTIONS, EVALUATION = "predictions", "evaluation"
"""Folders in a task's: the files of predictions, and what `--mode evaluate` found and predicted."""


def read_model(task: Task, saved: SavedModel, tokenizer: AlbertTokenizer | None) -> PretrainedModel:
    """A model that was trained for the task. Raises `UserError` if it was not, or for other labels."""
    cls = CLASSES[task.head.model]
    if task.labels and saved.labels != task.labels and cls.label_head:
        generic = saved.labels == tuple(f"LABEL_{number}" for number in range(len(task.labels)))
        if not generic:
            raise UserError(
                f"{saved.source}: its labels are {listing(saved.labels)}, those of {task.name} {listing(task.labels)}; "
                "give a model that was fine-tuned for this task"
            )
    model = cls.from_saved(saved, tokenizer, labels=task.labels or None, problem_type=task.problem_type)
    model.require_trained_head()
    return model


def right_tokenizer(config: FinetuneConfig, saved: SavedModel, beside: AlbertTokenizer | None) -> AlbertTokenizer:
    """The tokenizer that the model was trained with. Raises `UserError` if there is none, or another is asked for."""
    given = AlbertTokenizer.from_file(config.tokenizer) if config.tokenizer else None
    tokenizer = given or beside
    if tokenizer is None:
        raise UserError(f"{saved.source}: has no tokenizer beside it; give its SentencePiece model by --tokenizer")
    if given and beside and given.fingerprint != beside.fingerprint:
        raise UserError(
            f"tokenizer = {config.tokenizer}: is not the one that {saved.source} was trained with; leave it out"
        )
    if tokenizer.vocab_size > saved.config.vocab_size:
        raise UserError(
            f"{config.tokenizer or 'its tokenizer'}: has {tokenizer.vocab_size:,} pieces, but {saved.source} only "
            f"{saved.config.vocab_size:,} embeddings; give the tokenizer that it was trained with"
        )
    return tokenizer


def right_length(given: Recipe, published: Recipe, saved: SavedModel) -> Recipe:
    """The recipe with a `max_length` that the model has positions for."""
    positions = saved.config.max_position_embeddings
    if given.max_length is None:
        return dataclasses.replace(given, max_length=min(published.max_length, positions))
    require(
        given.max_length <= positions,
        "recipe.max_length",
        given.max_length,
        f"must be at most the {positions} positions that {saved.source} has",
    )
    return given


def use_model(config: FinetuneConfig, mesh: Mesh) -> TaskResult | None:
    """Judges a finished model on all splits with labels, or predicts those without, and writes what it says."""
    folder = Path(config.run_dir) / config.task
    if config.init_from is None and not (folder / BEST).is_dir():
        raise UserError(f"{folder}: no model was trained there yet; train first, or give one by --init_from")
    source = config.init_from or str(folder)
    saved, beside = read_source(source)
    tokenizer = right_tokenizer(config, saved, beside)
    task = open_task(config, config.task, saved.labels)
    try:
        model = read_model(task, saved, tokenizer)
    except UserError as error:
        hint = f"; or leave out --init_from for the best model in {folder}" if (folder / BEST).is_dir() else ""
        raise UserError(f"{error}{hint}") from error
    length = right_length(config.recipe, task.recipe, saved).max_length
    shardings = named(mesh, parameter_specs(model.params, mesh, model.config))
    params = jax.device_put(model.params, shardings)
    reader = compile_reader(task, model.config, config, mesh, shardings)
    threshold = config.squad.null_threshold
    if threshold is None:
        threshold = known_threshold(source)
    place = EVALUATION if config.mode == "evaluate" else PREDICTIONS
    metrics, baseline, clock = {}, 0.0, Clock()
    for name in task.dev_splits if config.mode == "evaluate" else task.test_splits:
        examples = task.read(name)
        if config.mode == "evaluate":
            examples = first(examples, config.dev_examples)
        split = task.encode(name, examples, tokenizer, length)
        print(f"{name:10} {task.describe(examples)}; {truncation(split)}")
        predictions = predict(task, mesh, reader, params, split, tokenizer.pad_id)
        if config.mode == "evaluate":
            metrics[name] = task.score(split, predictions)
            baseline = baseline if len(metrics) > 1 else task.baseline(examples)
            print(f"{'':10} " + "  ".join(f"{metric} {value:.2f}" for metric, value in metrics[name].items()))
            threshold = thresholds(metrics[name]).get("best_f1_thresh", threshold)
        elif task.can_abstain and threshold is None:
            warn("no threshold for leaving questions unanswered is known, all are answered; give squad.null_threshold")
        files = task.write(folder / place, split, predictions, threshold)
        print(f"{'':10} written: {', '.join(map(str, files))}")
    if config.mode == "predict":
        return None
    chosen = metrics[task.dev_splits[0]]
    result = SeedResult(
        seed=0,
        best_step=0,
        steps=0,
        score=chosen[task.metric],
        metrics={name: percentages(found) for name, found in metrics.items()},
        seconds=clock.lap(),
        at_chance=chosen[task.metric] <= baseline + CHANCE_MARGIN,
        stopped="finished",
        curve=[],
    )
    details = {"config": dataclasses.asdict(config), "source": saved.source, "thresholds": thresholds(chosen)}
    whole = TaskResult(
        task.name, task.title, task.metric, [result], baseline, references(config, task, model.config), details=details
    )
    save_result(whole, folder / EVALUATION / RESULT_FILE)
    return whole


def known_threshold(source: str) -> float | None:
    """The threshold for no answer that was best on the development set when the model in `source` was trained."""
    for path in (Path(source) / RESULT_FILE, Path(source).parent / RESULT_FILE):
        if path.is_file():
            return load_result(path).details.get("thresholds", {}).get("best_f1_thresh")
    return None


def keep_best(folder: Path, seed: int) -> None:
    """Makes the best seed's model the task's: `folder/best`, its files shared with that of the seed."""
    source = folder / f"seed_{seed}" / BEST
    if not source.is_dir():
        raise UserError(
            f"{source}: the model of a finished seed is gone; restore it, or remove {source.parent} to train it again"
        )
    temporary = folder / f".{BEST}.new"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary, copy_function=link_or_copy)
    shutil.rmtree(folder / BEST, ignore_errors=True)
    temporary.rename(folder / BEST)


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def references(config: FinetuneConfig, task: Task, model: AlbertConfig) -> list[Reference]:
    """Published results, those of the model to compare with first: `compare_with`, or the one of this size and version,
    or else any that is published."""
    sizes = {name: value for name, value in vars(model).items() if name in ALBERT_SIZES["base"]}
    size = next((name for name, known in ALBERT_SIZES.items() if known == sizes), None)
    wanted = config.compare_with or f"{size}_{config.model_version}"
    return sorted(task.references, key=lambda reference: (reference.model != wanted, reference.model != "base_v2"))


def report_chance(result: TaskResult, task: Task) -> None:
    """Warns of seeds that learnt nothing, and says what has helped others."""
    seeds = [seed.seed for seed in result.seeds if seed.at_chance]
    if not seeds:
        return
    recipe = result.details["config"]["recipe"]
    advice = [f"a lower rate (--recipe.learning_rate {recipe['learning_rate'] / 2:g})"]
    if 0 < 2 * recipe["warmup_steps"] <= recipe["steps"]:
        advice.append(f"a longer warm-up (--recipe.warmup_steps {2 * recipe['warmup_steps']})")
    advice.append("other seeds (--seeds)")
    if task.recipe.steps is None or recipe["steps"] < task.recipe.steps:
        advice.insert(0, "more steps")
    if task.from_mnli:
        advice.append("a start from a model of MNLI (--init_from)")
    warn(
        f"{result.task}: {len(seeds)} of {len(result.seeds)} seeds stayed at chance (seed "
        f"{', '.join(map(str, seeds))}): {result.metric} no more than {CHANCE_MARGIN:g} above "
        f"{result.baseline:.1f}, what always giving the commonest answer has. ALBERT, its second version above all, is "
        "known for this on small data. "
        f"What helps, in another --run_dir: {', '.join(advice)}"
    )


def device_name(mesh: Mesh) -> str:
    return f"{mesh.size} x {jax.devices()[0].device_kind}"
