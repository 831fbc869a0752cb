"""Fine-tunes ALBERT and judges it: GLUE, SQuAD, RACE and other choices, tagging, and your own data.

    python finetune.py configs/finetune/glue.py --task rte --init_from SOURCE [--data_dir DIR]
    python finetune.py configs/finetune/glue.py --task all --init_from SOURCE        all of GLUE, and the paper's table
    python finetune.py CONFIG --task TASK --mode predict                 files for the leaderboards, from the best model
    python finetune.py CONFIG --task TASK --mode evaluate --init_from MODEL

SOURCE is what `from_pretrained` takes. The same command again continues, and repeats nothing that is finished. Ctrl-C
or SIGTERM saves first.
"""

import dataclasses
import math
import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh

from albert_jax.checkpoint import Checkpoints, newest_intact
from albert_jax.config import AlbertConfig, load_config, parse_command, require
from albert_jax.errors import UserError, disk_errors_explained, exit_cleanly
from albert_jax.finetuned import (
    CHANCE_MARGIN,
    EVALUATION,
    PREDICTIONS,
    device_name,
    keep_best,
    read_model,
    references,
    report_chance,
    right_length,
    right_tokenizer,
    use_model,
)
from albert_jax.flops import slow_bfloat16
from albert_jax.inputs.batches import Shape
from albert_jax.interop.huggingface import read_json
from albert_jax.memory import give_back_free_memory, keep_freed_memory
from albert_jax.optim import learning_rate, make_optimizer
from albert_jax.pretrained import BEST, CLASSES, PretrainedModel, read_source
from albert_jax.results import SeedResult, TaskResult, load_result, save_result, text_table, write_report
from albert_jax.run_directory import ADVICE, CONFIG_FILE, RESULT_FILE, RunDirectory, versions
from albert_jax.sharding import BATCH, check_batch, make_mesh, place
from albert_jax.stopping import StopRequest
from albert_jax.tasks.catalog import Task, open_task
from albert_jax.tasks.config import ALL, FinetuneConfig, completed, optimizer_config
from albert_jax.tasks.finetuning import (
    Reader,
    ahead,
    batch_arrays,
    compile_reader,
    fingerprint,
    first,
    percentages,
    predict,
    shapes_for,
    thresholds,
    training_batches,
    truncation,
    weights_fingerprint,
)
from albert_jax.tasks.glue import GLUE_TASKS
from albert_jax.tasks.heads import Split, objective
from albert_jax.tokenizer import AlbertTokenizer
from albert_jax.tracking import Clock, Tracker, duration, read_metrics, warn
from albert_jax.train import TrainState, compile_train_step, create_state, initial_state, zero_sums
from albert_jax.trees import tree_bytes, tree_size

CONFIGS = Path(__file__).parent / "configs" / "finetune"
ALL_OF_GLUE = ("mnli", "cola", "sst2", "mrpc", "stsb", "qqp", "qnli", "rte", "wnli", "ax")
"""In this order: MNLI's model is where others start, and what the diagnostic set asks."""


@dataclass(frozen=True)
class Command:
    """Fine-tunes a model on a task and judges it. Any field of the configuration can be given anew."""

    config: Annotated[FinetuneConfig, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]


def main() -> int | None:
    arguments = sys.argv[1:]
    if arguments in (["-h"], ["--help"]):
        shipped = "".join(f"    {path.relative_to(CONFIGS.parents[1])}\n" for path in sorted(CONFIGS.glob("*.py")))
        print(f"{__doc__}\nCONFIG is a Python file, such as\n\n{shipped}\nfinetune.py CONFIG --help lists its options.")
        return None
    if not arguments or arguments[0].startswith("-"):
        raise UserError("give a configuration first: python finetune.py configs/finetune/glue.py --task rte ...")
    path = Path(arguments.pop(0))
    config = load_config(path)
    if not isinstance(config, FinetuneConfig):
        raise UserError(f"{path}: get_config() returned a {type(config).__name__}, not a FinetuneConfig")
    config = parse_command(Command, config, arguments, f"finetune.py {path}").config
    options = {word.partition("=")[0].replace("-", "_") for word in arguments}
    if config.mode != "train" and "__init_from" not in options:
        # What a configuration names is where training starts, and not what it has led to.
        config = dataclasses.replace(config, init_from=None)
    keep_freed_memory()
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh), disk_errors_explained(f"run_dir = {config.run_dir}", ADVICE):
        if config.task == ALL:
            return run_all(config, mesh)
        result = run_task(config, mesh)
    if result is not None:
        print(f"\n{text_table([result])}")
    return None


# ---- all of GLUE


def run_all(config: FinetuneConfig, mesh: Mesh) -> int:
    """Every task of GLUE in turn, whatever becomes of the others; then one table. Exit code 1 if any failed."""
    results, failed = [], False
    folder = Path(config.run_dir) / EVALUATION if config.mode == "evaluate" else Path(config.run_dir)
    for name in ALL_OF_GLUE:
        try:
            of_task = of_all(config, name)
            result = run_task(of_task, mesh)
            if result is None and of_task.mode == "train":
                return 0  # asked to stop
        except Exception as error:
            if not isinstance(error, UserError):
                traceback.print_exc()
            warn(f"{name} failed, the other tasks go on: {error}")
            result = TaskResult(name, GLUE_TASKS[name].folder, "", [], None, [], error=str(error))
        if result is not None and config.mode != "predict":
            results.append(result)
            write_report(results, folder)
        failed |= result is not None and result.error is not None
    if results:
        print(f"\n{text_table(results)}\n\nwritten to {folder}/report.md, report.json and report.html")
    return int(failed)


def of_all(config: FinetuneConfig, name: str) -> FinetuneConfig:
    """The run of one task among all: the diagnostic set asks MNLI's model, and others may start from it."""
    mnli = Path(config.run_dir) / "mnli"
    config = dataclasses.replace(config, task=name)
    if name == "ax":
        mode = "evaluate" if config.mode == "train" else config.mode
        return dataclasses.replace(config, mode=mode, init_from=str(mnli))
    if GLUE_TASKS[name].from_mnli and config.mnli_first and config.mode == "train":
        begun = sorted((mnli.parent / name).glob(f"seed_*/{CONFIG_FILE}"))
        if begun:
            start = str(read_json(begun[0]).get("init_from"))
            return dataclasses.replace(config, init_from=start) if Path(start).parent == mnli else config
        if (mnli / RESULT_FILE).exists():
            # Not from mnli/best, which another seed may become.
            best = load_result(mnli / RESULT_FILE).best.seed
            return dataclasses.replace(config, init_from=str(mnli / f"seed_{best}"))
        warn(f"{name} starts from {config.init_from}, as there is no model of MNLI; the paper starts from that")
    return config


# ---- one task


def run_task(config: FinetuneConfig, mesh: Mesh) -> TaskResult | None:
    """Trains, evaluates or predicts, as `config.mode` says. None for predictions, and if asked to stop."""
    return train_task(config, mesh) if config.mode == "train" else use_model(config, mesh)


@dataclass
class Setting:
    """What all seeds of a task share, made once; compiled functions among it."""

    config: FinetuneConfig
    """With a recipe that leaves nothing open."""
    mesh: Mesh
    task: Task
    tokenizer: AlbertTokenizer
    model: AlbertConfig
    """The network, with the recipe's dropout."""
    folder: Path
    train: Split
    dev: Split
    dev_names: tuple[str, ...]
    """All development splits; the first is `dev`."""
    shapes: list[Shape]
    """of the rows that a batch is packed into"""
    baseline: float
    state: tuple[Callable[..., TrainState], TrainState, TrainState]
    """(state from parameters, abstract state, shardings)"""
    train_step: Callable[[TrainState, dict[str, jax.Array], int], tuple[TrainState, jax.Array]]
    reader: Reader
    learnt: dict[str, str]
    """Fingerprints of what the run depends on beside its configuration."""

    def place_params(self, model: PretrainedModel) -> Any:
        return jax.device_put(model.params, self.state[2].params)

    def split(self, name: str) -> Split:
        """A development split; others than the first are read when they are needed."""
        if name == self.dev.name:
            return self.dev
        examples = first(self.task.read(name), self.config.dev_examples)
        return self.task.encode(name, examples, self.tokenizer, self.config.recipe.max_length)


def train_task(config: FinetuneConfig, mesh: Mesh) -> TaskResult | None:
    """Every seed that is not finished yet; then the task's result, the best model, and its predictions."""
    setting = prepare(config, mesh)
    task, folder = setting.task, setting.folder
    found = []
    for seed in setting.config.seeds:
        with StopRequest() as stop:
            result = train_seed(setting, seed, stop)
        if result is None:
            return None
        found.append(result)
    known = nothing_new(folder, found)
    details = {"config": dataclasses.asdict(setting.config), "versions": versions(), "device": device_name(mesh)}
    result = TaskResult(
        task.name,
        task.title,
        task.metric,
        found,
        setting.baseline,
        references(setting.config, task, setting.model),
        details=details,
    )
    best = load_result(folder / f"seed_{result.best.seed}" / RESULT_FILE)
    details["thresholds"] = best.details["thresholds"]
    keep_best(folder, result.best.seed)
    save_result(result, folder / RESULT_FILE)
    write_report([result], folder)
    model = read_model(task, *read_source(folder / BEST))
    for name in () if known else setting.dev_names:
        split = setting.split(name)
        predictions = predict(task, mesh, setting.reader, setting.place_params(model), split, setting.tokenizer.pad_id)
        task.write(folder / PREDICTIONS, split, predictions, details["thresholds"].get("best_f1_thresh"))
    report_chance(result, task)
    print(
        f"best       {folder / BEST} (seed {result.best.seed}); {folder / RESULT_FILE}, report.html and {PREDICTIONS}/"
    )
    return result


def nothing_new(folder: Path, seeds: list[SeedResult]) -> bool:
    """Whether a call before has written the result of exactly these seeds, and predictions."""
    try:
        return load_result(folder / RESULT_FILE).seeds == seeds and (folder / PREDICTIONS).is_dir()
    except UserError:
        return False


def prepare(config: FinetuneConfig, mesh: Mesh) -> Setting:
    # ---- what is learnt from, and where it starts
    require(config.init_from is not None, "init_from", None, "give the model to start from; --help says what it may be")
    task = open_task(config, config.task)
    require("train" in task.splits, "task", task.name, "has no training data; use --mode evaluate with a model of MNLI")
    saved, tokenizer = read_source(config.init_from)
    tokenizer = right_tokenizer(config, saved, tokenizer)
    config = dataclasses.replace(config, recipe=right_length(config.recipe, task.recipe, saved))
    examples = first(task.read("train"), config.train_examples)
    train = task.encode("train", examples, tokenizer, config.recipe.max_length)
    units = train.units(of_examples=task.head.draws_examples)
    config = dataclasses.replace(config, recipe=completed(config.recipe, task.recipe, len(units)))
    check_batch(config.recipe.batch_size, config.accumulation, mesh, "recipe.batch_size")
    folder = Path(config.run_dir) / task.name

    # ---- how judged
    dev_names = task.dev_splits
    dev_examples = first(task.read(dev_names[0]), config.dev_examples)
    dev = task.encode(dev_names[0], dev_examples, tokenizer, config.recipe.max_length)

    # ---- what learns: shapes, then shardings, then arrays
    recipe = config.recipe
    cls = CLASSES[task.head.model]
    dropout = {name: recipe.encoder_dropout for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")}
    start = partial(
        cls.for_finetuning,
        saved,
        tokenizer,
        task.labels,
        task.problem_type,
        **dropout,
        classifier_dropout_prob=recipe.classifier_dropout,
    )
    model = start(seed=config.seeds[0])
    aim = objective(task.head, model.config, config.compute)
    optimizer = make_optimizer(optimizer_config(recipe), recipe.steps)
    shapes = shapes_for(units, recipe.batch_size, recipe.steps, model.config, mesh, config.accumulation)
    batches = training_batches(config, mesh, task, train, tokenizer, shapes, config.seeds[0])
    abstract_batch = jax.eval_shape(lambda: batch_arrays(task, train, batches, 0))
    _, abstract, shardings = create_state(
        lambda: model.params, optimizer, lambda params: zero_sums(aim, params, abstract_batch), mesh, model.config
    )
    fresh = jax.jit(
        lambda params: initial_state(params, optimizer, zero_sums(aim, params, abstract_batch)),
        in_shardings=(shardings.params,),
        out_shardings=shardings,
    )
    setting = Setting(
        config=config,
        mesh=mesh,
        task=task,
        tokenizer=tokenizer,
        model=model.config,
        folder=folder,
        train=train,
        dev=dev,
        dev_names=dev_names,
        shapes=shapes,
        baseline=task.baseline(dev.examples),
        state=(lambda seed: fresh(jax.device_put(start(seed=seed).params, shardings.params)), abstract, shardings),
        train_step=compile_train_step(aim, optimizer, mesh, shardings),
        reader=compile_reader(task, model.config, config, mesh, shardings.params),
        learnt={
            "tokenizer": tokenizer.fingerprint,
            "training data": fingerprint(train),
            "model to start from": weights_fingerprint(saved.parameters),
        },
    )
    print(description(setting, model))
    if note := slow_bfloat16(config.compute.dtype):
        print(note)
    return setting


# ---- one seed


@dataclass
class Training:
    """One seed's run, and where it stands."""

    setting: Setting
    seed: int
    directory: RunDirectory
    checkpoints: Checkpoints
    tracker: Tracker
    state: TrainState
    step: int
    seconds: float
    """Of all starts of this run, evaluation and saving included."""
    scores: dict[int, float]
    """Main metric by the step of its evaluation."""
    total: Clock = field(default_factory=Clock)
    clock: Clock = field(default_factory=Clock)
    interval: float = 0.0
    """Training time of the interval under way, without evaluation and saving."""
    pending: tuple[int, dict[str, jax.Array], float] | None = None
    """Step, sums and seconds of an interval that has just ended, until a step later its sums have arrived."""

    @property
    def best_step(self) -> int:
        return max(self.scores, key=lambda step: (self.scores[step], -step))

    @property
    def gives_up(self) -> bool:
        """Whether early stopping was asked for, and it is time."""
        patience = self.setting.config.early_stopping
        return patience is not None and sum(step > self.best_step for step in self.scores) >= patience


def train_seed(setting: Setting, seed: int, stop: StopRequest) -> SeedResult | None:
    """A seed from wherever it stands to its end; None if asked to stop, once that is saved."""
    config = dataclasses.replace(setting.config, seeds=(seed,))
    directory = RunDirectory(setting.folder / f"seed_{seed}", config)
    try:
        directory.save_description(config, None, setting.tokenizer, setting.learnt)
        if (directory.path / RESULT_FILE).exists():
            print(f"seed {seed}     finished before: {directory.path}")
            shutil.rmtree(directory.path / "checkpoints", ignore_errors=True)
            return only_seed(directory.path / RESULT_FILE)
        training = begin(setting, seed, directory, config)
        try:
            if not train(training, stop):
                return None
            return finish(training, config)
        finally:
            training.tracker.close()
    finally:
        directory.release()


def only_seed(path: Path) -> SeedResult:
    seeds = load_result(path).seeds
    if len(seeds) != 1:
        raise UserError(f"{path}: holds {len(seeds)} seeds, expected one; remove {path.parent} to train it again")
    return seeds[0]


def begin(setting: Setting, seed: int, directory: RunDirectory, config: FinetuneConfig) -> Training:
    create, abstract, _ = setting.state
    directory.require_room(tree_bytes(abstract), checkpoints=2)
    latest, passed_over = newest_intact(directory.path / "checkpoints")
    checkpoints = Checkpoints(directory.path / "checkpoints")
    state = create(seed) if latest is None else checkpoints.load(latest, abstract)
    tracker = Tracker(
        directory.path, step=latest or 0, total_steps=config.recipe.steps, title=f"{setting.task.name}, seed {seed}"
    )
    for line in passed_over:
        tracker.say(f"damaged    {line}")
    records = [record for record in read_metrics(directory.path) if record["step"] > 0 and "dev/score" in record]
    tracker.say(f"seed {seed}     {directory.path}" + (f", continued from step {latest:,}" if latest else ""))
    return Training(
        setting=setting,
        seed=seed,
        directory=directory,
        checkpoints=checkpoints,
        tracker=tracker,
        state=state,
        step=latest or 0,
        seconds=records[-1]["time/seconds"] if records else 0.0,
        scores={record["step"]: record["dev/score"] for record in records},
    )


def train(run: Training, stop: StopRequest) -> bool:
    """The loop: evaluate, save, step, log, in this order. False if asked to stop."""
    setting, config = run.setting, run.setting.config
    recipe = config.recipe
    batches = training_batches(
        config, setting.mesh, setting.task, setting.train, setting.tokenizer, setting.shapes, run.seed
    )
    previous = None
    run.clock.lap()
    for batch in ahead(partial(batch_arrays, setting.task, setting.train, batches), run.step, recipe.steps):
        judged = run.step > 0 and run.step % recipe.evaluate_every == 0
        if judged and not stop.requested:
            require_finite(run, previous)
            evaluate(run)
        if judged or stop.requested:
            require_finite(run, previous)
            save(run)
        if stop.requested:
            run.checkpoints.close()
            run.tracker.say(f"stopped    on {stop.name} at step {run.step:,}, saved; the same command continues")
            return False
        if judged and run.gives_up:
            return True
        run.state, outcome = setting.train_step(run.state, place(batch, setting.mesh, BATCH), run.seed)
        run.step += 1
        # Waits for the step before: one in flight keeps the device busy, and more would only fill its memory.
        require_finite(run, previous)
        previous = outcome.loss
        flush_log(run)
        run.tracker.advance(run.step)
        if run.step % config.log_every == 0 or run.step == recipe.steps:
            log(run)
    require_finite(run, previous)
    evaluate(run)
    return True


def require_finite(run: Training, loss: jax.Array | None) -> None:
    """Raises `UserError` if a loss is not a number, before useless parameters replace good ones."""
    if loss is not None and not math.isfinite(float(loss)):
        raise UserError(
            f"{run.setting.task.name}, seed {run.seed}: the loss is not finite at step {run.step:,}, training has "
            "diverged. Lower recipe.learning_rate or lengthen recipe.warmup_steps, and give another --run_dir"
        )


def evaluate(run: Training) -> None:
    """Judges the parameters on the first development split, and keeps them if they are the best so far; unless a record
    says that this was done before the run was interrupted."""
    flush_log(run)
    if run.step in run.scores:
        return
    setting, task = run.setting, run.setting.task
    run.interval += run.clock.lap()
    predictions = predict(task, setting.mesh, setting.reader, run.state.params, setting.dev, setting.tokenizer.pad_id)
    metrics = task.score(setting.dev, predictions)
    score = metrics[task.metric]
    best = not run.scores or score > max(run.scores.values())
    if best:
        export(run)
    give_back_free_memory()
    run.scores[run.step] = score
    run.seconds += run.total.lap()
    values = {f"dev/{name}": value for name, value in metrics.items()}
    values |= {"dev/score": score, "time/seconds": run.seconds}
    shown = "  ".join(f"{name} {value:.2f}" for name, value in list(metrics.items())[:4])
    run.tracker.record(
        run.step,
        values,
        f"dev        step {run.step:,}  {shown}  ({duration(run.clock.lap())}){'  best so far' if best else ''}",
    )


def export(run: Training) -> None:
    """Writes the parameters as a model of Hugging Face's layout, in place of the best before."""
    setting = run.setting
    params = jax.device_get(run.state.params)
    task = setting.task
    model = CLASSES[task.head.model](
        setting.model, params, setting.tokenizer, labels=task.labels, problem_type=task.problem_type
    )
    model.save_pretrained(run.directory.path / BEST)


def save(run: Training) -> None:
    """Starts a checkpoint, once all records up to it are written."""
    flush_log(run)
    run.interval += run.clock.lap()
    if run.checkpoints.latest_step != run.step:
        run.directory.require_room(tree_bytes(run.state))
        run.checkpoints.save(run.step, run.state, None)
    run.clock.lap()


def log(run: Training) -> None:
    """Takes the sums of the interval that ends here; `flush_log` writes them when they have arrived."""
    run.interval += run.clock.lap()
    run.pending = (run.step, run.state.sums, run.interval)
    run.state = dataclasses.replace(run.state, sums=jax.tree.map(jnp.zeros_like, run.state.sums))
    run.interval = 0.0


def flush_log(run: Training) -> None:
    if run.pending is None:
        return
    step, sums, seconds = run.pending
    run.pending = None
    config = run.setting.config
    sums = {name: float(value) for name, value in jax.device_get(sums).items()}
    steps = sums["steps"]
    rate = float(learning_rate(optimizer_config(config.recipe), config.recipe.steps)(step - 1))
    values = {
        "train/loss": sums["loss"] / max(sums["weight"], 1.0),
        "train/gradient_norm": sums["gradient_norm"] / steps,
        "train/learning_rate": rate,
        "train/padding": 1.0 - sums["tokens"] / sums["places"],
        "speed/examples_per_second": steps * config.recipe.batch_size / seconds,
        "speed/tokens_per_second": sums["tokens"] / seconds,
        "speed/seconds_per_step": seconds / steps,
    }
    if "hits" in sums:
        values["train/accuracy"] = sums["hits"] / max(sums["weight"], 1.0)
    accuracy = f"  acc {values['train/accuracy']:.3f}" if "hits" in sums else ""
    left = (config.recipe.steps - step) * seconds / steps
    run.tracker.record(
        step,
        values,
        f"step {step:>7,}/{config.recipe.steps:,}  loss {values['train/loss']:.4f}{accuracy}  "
        f"norm {values['train/gradient_norm']:.2f}  lr {rate:.2e}  "
        f"{values['speed/examples_per_second']:,.1f} examples/s  {values['speed/tokens_per_second']:,.0f} tokens/s  "
        f"left {duration(left)}",
    )


def finish(run: Training, config: FinetuneConfig) -> SeedResult:
    """The seed's result, from its best parameters as they were written; its checkpoints go."""
    setting, task, folder = run.setting, run.setting.task, run.directory.path
    run.checkpoints.close()
    model = read_model(task, *read_source(folder / BEST))
    metrics = {}
    for name in setting.dev_names:
        split = setting.split(name)
        predictions = predict(
            task, setting.mesh, setting.reader, setting.place_params(model), split, setting.tokenizer.pad_id
        )
        metrics[name] = task.score(split, predictions)
    run.seconds += run.total.lap()
    curve, losses = [], []
    for record in read_metrics(folder):
        losses += [record["train/loss"]] if "train/loss" in record else []
        if "dev/score" in record:
            loss = float(np.mean(losses)) if losses else math.nan
            curve.append({"step": record["step"], "loss": loss, "score": record["dev/score"]})
            losses = []
    result = SeedResult(
        seed=run.seed,
        best_step=run.best_step,
        steps=run.step,
        score=metrics[setting.dev_names[0]][task.metric],
        metrics={name: percentages(found) for name, found in metrics.items()},
        seconds=run.seconds,
        at_chance=max(run.scores.values()) <= setting.baseline + CHANCE_MARGIN,
        stopped="finished" if run.step == config.recipe.steps else "early",
        curve=curve,
    )
    details = {"config": dataclasses.asdict(config), "thresholds": thresholds(metrics[setting.dev_names[0]])}
    whole = TaskResult(task.name, task.title, task.metric, [result], setting.baseline, [], details=details)
    save_result(whole, folder / RESULT_FILE)
    shutil.rmtree(folder / "checkpoints")
    run.tracker.say(
        f"finished   seed {run.seed}: {task.metric} {result.score:.2f}, best of step {result.best_step:,}  "
        f"({duration(result.seconds)})"
    )
    return result


# ---- what is said


def description(setting: Setting, model: PretrainedModel) -> str:
    """What is about to be trained, on what."""
    config, task, recipe = setting.config, setting.task, setting.config.recipe
    units = setting.train.units(of_examples=task.head.draws_examples)
    epochs = recipe.steps * recipe.batch_size / len(units)
    shapes = ", ".join(f"{shape.rows} x {shape.length}" for shape in setting.shapes)
    unit = "examples" if task.head.draws_examples else "sequences"
    published = dataclasses.asdict(task.recipe)
    others = [name for name, value in published.items() if value not in (None, getattr(recipe, name))]
    changed = f", but {', '.join(name for name in others if name != 'epochs')}" if set(others) - {"epochs"} else ""
    return "\n".join(
        [
            f"task       {task.title}, judged by {task.metric}; recipe: {task.recipe_source}{changed}",
            f"model      {model.report}",
            f"           {tree_size(model.params):,} parameters, {config.compute.dtype} on {device_name(setting.mesh)}",
            f"train      {task.describe(setting.train.examples)}; {truncation(setting.train)}",
            f"dev        {task.describe(setting.dev.examples)}; {truncation(setting.dev)}",
            f"baseline   {task.metric} {setting.baseline:.1f}, by always giving the commonest answer",
            f"steps      {recipe.steps:,} of {recipe.batch_size} {unit} ({epochs:.1f} epochs), learning rate "
            f"{recipe.learning_rate:g}, warm-up {recipe.warmup_steps:,}, dropout {recipe.encoder_dropout:g} in the "
            f"encoder and {recipe.classifier_dropout:g} below the head, evaluated every {recipe.evaluate_every:,}",
            f"length     at most {recipe.max_length} pieces; batches packed into rows ({shapes}, or as one needs)",
        ]
    )


if __name__ == "__main__":
    exit_cleanly(main)
