"""Pretrains ALBERT: from raw text, or an encoded corpus, to a trained model.

    python pretrain.py                                       the sample: a small model on the bundled corpus
    python pretrain.py configs/pretrain/base_v2.py           a recipe; any field can be overridden:
        --phases.batch_size 512 --optimizer.peak_learning_rate 6.2e-4
    python pretrain.py CONFIG --dry_run                      parameters, memory, tokens and time; trains nothing
    python pretrain.py CONFIG --scale_to_batch_size 512      the same recipe at another batch, by LAMB's rules

The same command again continues the run from its latest checkpoint. Ctrl-C or SIGTERM saves first.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from albert_jax import distributed
from albert_jax.checkpoint import Checkpoints, newest_intact
from albert_jax.config import (
    Phase,
    PretrainConfig,
    flatten,
    load_config,
    parse_command,
    scale_to_batch_size,
)
from albert_jax.distributed import DistributedOptions
from albert_jax.errors import DiskError, UserError, disk_errors_explained, exit_cleanly
from albert_jax.evaluate import Evaluator
from albert_jax.flops import device_peak_flops, slow_bfloat16, training_flops_per_sequence
from albert_jax.inputs.corpus import Corpus
from albert_jax.memory import give_back_free_memory, keep_freed_memory
from albert_jax.model import initialize
from albert_jax.model.attention_kernels import check_attention
from albert_jax.objectives import summarize
from albert_jax.optim import learning_rate, make_optimizer
from albert_jax.predict import MASK, fill_mask
from albert_jax.pretrained import AlbertForPreTraining
from albert_jax.report import dry_run_report
from albert_jax.run_directory import ADVICE, RunDirectory, versions
from albert_jax.sharding import check_batch, make_mesh, own_mesh
from albert_jax.stopping import StopRequest
from albert_jax.tasks.pretraining import (
    batch_shapes,
    corpus_fingerprint,
    describe_corpora,
    held_out_evaluators,
    open_inputs,
    phase_batches,
    position,
    prediction_places,
    pretraining_objective,
    sequence_places,
    training_batches,
    unigram_entropy,
)
from albert_jax.tokenizer import AlbertTokenizer
from albert_jax.tracking import Clock, Interval, Tracker, Watch, duration
from albert_jax.train import (
    STRAIN_OF_A_SKIP,
    Limits,
    Outcome,
    TrainState,
    compile_train_step,
    create_state,
    random_key,
    zero_sums,
)
from albert_jax.trees import tree_bytes, tree_size

DISK_RETRY_SECONDS = 5.0
MUCH_WAITING = 0.05
"""Share of the time without a batch that is worth a remark."""
SLOW_STEP = 3.0
"""So many times the mean is a step that is worth a remark."""
SAMPLE = Path(__file__).parent / "configs" / "pretrain" / "sample.py"


@dataclass(frozen=True)
class Command:
    """The command line: a configuration, overridden field by field, and what to do with it."""

    config: Annotated[PretrainConfig, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    dry_run: bool = False
    """Print parameters, FLOPs, memory per device, tokens and estimated time, and train nothing."""
    verify: bool = False
    """Read every token of the corpora first and compare every checksum (sets data.verify_checksums)."""
    distributed: DistributedOptions = field(default_factory=DistributedOptions)
    scale_to_batch_size: int | None = None
    """Change the recipe to this global batch by LAMB's rules: learning rate with its square root, warm-up's share of
    the steps in proportion, and as many steps as it takes to see as many rows."""


def main() -> int | None:
    arguments = sys.argv[1:]
    path = Path(arguments.pop(0)) if arguments and not arguments[0].startswith("-") else SAMPLE
    config = load_config(path)
    if not isinstance(config, PretrainConfig):
        raise UserError(f"{path}: get_config() returned a {type(config).__name__}, not a PretrainConfig")
    command = parse_command(Command, config, arguments, f"pretrain.py {path}")
    config = command.config
    if command.scale_to_batch_size is not None:
        config = scale_to_batch_size(config, command.scale_to_batch_size)
    if command.verify:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, verify_checksums=True))
    if command.dry_run:
        print(dry_run_report(config))
        return None
    keep_freed_memory()
    distributed.start(command.distributed)
    with distributed.ending_together():
        return pretrain(config)


def pretrain(config: PretrainConfig) -> int | None:
    """A run from wherever it stands to its end, or to the first request to stop."""
    stop = StopRequest()
    distributed.require_same(flatten(config) | versions()["packages"])
    # ---- where: devices and the folder of the run
    mesh = make_mesh(config.mesh)
    for phase in config.phases.phases:
        check_batch(phase.batch_size, phase.accumulation, mesh)
        check_attention(
            config.compute, config.model, phase.sequence_length, phase.batch_size // phase.accumulation, mesh
        )
    with distributed.failing_together():
        directory = RunDirectory(config.run_dir, config, owns=distributed.is_first())
    try:
        with jax.set_mesh(mesh), disk_errors_explained(f"run_dir = {config.run_dir}", ADVICE):
            run = prepare(config, mesh, directory, stop)
            try:
                return train(run)
            finally:
                run.tracker.close()
    finally:
        directory.release()


class Pending(NamedTuple):
    """What a log line is made of."""

    step: int
    sums: dict[str, jax.Array]
    seconds: float
    phase: Phase
    epochs: dict[str, float]
    interval: Interval


@dataclass
class Run:
    """Everything that the loop needs, made once."""

    config: PretrainConfig
    mesh: Mesh
    directory: RunDirectory
    stop: StopRequest
    tokenizer: AlbertTokenizer
    corpora: tuple[Corpus, ...]
    held_out: tuple[Corpus, ...]
    create: Callable[[], TrainState]
    abstract: TrainState
    state: TrainState
    fresh_sums: Callable[[], dict[str, jax.Array]]
    train_step: Callable[[TrainState, dict[str, jax.Array], int], tuple[TrainState, Outcome]]
    params_shardings: Any
    checkpoints: Checkpoints
    tracker: Tracker
    peak_flops: float
    order: int = 0
    """Which order of the data the run reads: it takes another one each time it goes back."""
    evaluators: dict[Phase, list[Evaluator]] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    watch: Watch = field(default_factory=Watch)
    seconds: float = 0.0
    """Training time of the interval under way, without evaluation and saving."""
    pending: Pending | None = None
    """The interval that has just ended, until a step later its sums have arrived: the loop never waits for them."""


def prepare(config: PretrainConfig, mesh: Mesh, directory: RunDirectory, stop: StopRequest) -> Run:
    # ---- what in: text -> vocabulary -> corpus -> batches
    with distributed.failing_together():
        if config.data.sources and distributed.is_first():
            build_inputs(config)
    with distributed.failing_together():
        tokenizer, corpora, held_out = open_inputs(config)
        first_phase = config.phases.phases[0]
        batches = training_batches(config, tokenizer, corpora, first_phase)
    fingerprints = {"tokenizer": tokenizer.fingerprint, "corpus": corpus_fingerprint(corpora)}
    distributed.require_same(fingerprints)

    # ---- what learns: shapes, then shardings, then arrays
    objective = pretraining_objective(config.model, config.compute)
    optimizer = make_optimizer(config.optimizer, config.phases.total_steps)
    limits = Limits(config.divergence.max_loss_rise, config.divergence.max_gradient_norm_ratio)
    shapes = batch_shapes(batches, first_phase)
    create, abstract, shardings = create_state(
        lambda: initialize(config.model, random_key(config.seed)),
        optimizer,
        lambda params: zero_sums(objective, params, shapes),
        mesh,
        config.model,
    )
    train_step = compile_train_step(objective, optimizer, mesh, shardings, limits)

    # ---- where to start: 1 this run's latest intact checkpoint   2 scratch
    with distributed.failing_together():
        if distributed.is_first():
            directory.require_room(tree_bytes(abstract), checkpoints=2)  # the new one is whole before an old one goes
            directory.save_description(config, config.model, tokenizer, fingerprints)
    checkpoints, latest, passed_over = open_checkpoints(config, directory)
    state = create() if latest is None else checkpoints.load(latest, abstract)
    tracker = open_tracker(config, directory, latest or 0, passed_over)

    peak, source = device_peak_flops(config.compute.dtype)
    tracker.say(
        f"model      {tree_size(abstract.params):,} parameters, {config.compute.dtype} on "
        f"{mesh.size} x {jax.devices()[0].device_kind} (mesh data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']} x "
        f"tensor {mesh.shape['tensor']})"
        + (f" of {jax.process_count()} processes" if jax.process_count() > 1 else "")
        + f"\npeak       {peak / 1e12:.3g} TFLOP/s per device ({source})\n"
        + "".join(f"corpus     {line}\n" for line in describe_corpora(corpora, batches))
        + f"held out   {sum(c.num_documents for c in held_out):,} documents, {sum(c.num_tokens for c in held_out):,} "
        "tokens; unigram entropy "
        f"{unigram_entropy(held_out):.3f} nats\n"
        + ("verified   every checksum and token of the corpora\n" if config.data.verify_checksums else "")
        + f"run        {config.phases.total_steps:,} steps in {directory.path}, "
        + ("from scratch" if latest is None else f"continued from step {latest:,}")
    )
    if note := slow_bfloat16(config.compute.dtype):
        tracker.say(note)
    return Run(
        config=config,
        mesh=mesh,
        directory=directory,
        stop=stop,
        tokenizer=tokenizer,
        corpora=corpora,
        held_out=held_out,
        create=create,
        abstract=abstract,
        state=state,
        fresh_sums=jax.jit(lambda: zero_sums(objective, abstract.params, shapes), out_shardings=shardings.sums),
        train_step=train_step,
        params_shardings=shardings.params,
        checkpoints=checkpoints,
        tracker=tracker,
        peak_flops=peak,
        order=int(state.health.rollbacks),
    )


def open_checkpoints(config: PretrainConfig, directory: RunDirectory) -> tuple[Checkpoints, int | None, list[str]]:
    """The run's checkpoints, the step of the newest intact one, and a line for each that was passed over."""
    folder, found, passed_over = directory.path / "checkpoints", None, []
    with distributed.failing_together():
        if distributed.is_first():
            found, passed_over = newest_intact(folder)
    step = distributed.of_first(-1 if found is None else found)
    return Checkpoints(folder, keep=config.keep_checkpoints), step if step >= 0 else None, passed_over


def open_tracker(config: PretrainConfig, directory: RunDirectory, step: int, passed_over: list[str]) -> Tracker:
    tracker = Tracker(
        directory.path,
        step=step,
        total_steps=config.phases.total_steps,
        title="pretraining",
        writes=distributed.is_first(),
    )
    for line in passed_over:
        tracker.say(f"damaged    {line}")
    return tracker


def build_inputs(config: PretrainConfig) -> None:
    """Trains the vocabulary and encodes the corpus from `config.data.sources`, as far as they do not exist yet."""
    from data.encode_corpus import encode_corpus
    from data.train_vocab import train_vocab

    data = config.data
    if not Path(data.tokenizer).exists():
        train_vocab(
            data.sources,
            Path(data.tokenizer),
            vocab_size=config.model.vocab_size,
            do_lower_case=data.do_lower_case,
        )
    encode_corpus(
        data.sources,
        Path(data.tokenizer),
        Path(data.corpus[0]),
        do_lower_case=data.do_lower_case,
        held_out_fraction=data.held_out_fraction,
    )


def train(run: Run) -> int | None:
    """Trains to the end. A run that diverges goes back to its latest checkpoint, and on in another order."""
    while True:
        try:
            return train_from(run, int(run.state.step))
        except Diverged as divergence:
            go_back(run, divergence)


def train_from(run: Run, step: int) -> int | None:
    """The loop: evaluate, save, step, log, in this order, so that a resumed run is the same run."""
    config = run.config
    run.clock.lap()
    for phase in config.phases.phases:
        if step >= phase.stop:
            continue
        run.watch.start()
        evaluators = evaluators_of(run, phase)
        batches = training_batches(config, run.tokenizer, run.corpora, phase, run.order)
        previous = None
        for batch in run.watch.waiting(phase_batches(config, batches, phase, run.mesh, step)):
            stopping = run.stop.look()
            saving = step % config.checkpoint_every == 0 and step > 0
            # A checkpoint is judged too, else the best of them could not be kept.
            if (saving or step % config.evaluate_every == 0) and not stopping:
                require_progress(run, previous, step)
                evaluate(run, evaluators, step)
            if saving or stopping:
                require_progress(run, previous, step)
                save(run, step)
            if stopping:
                return stopped(run, step)

            run.state, outcome = run.train_step(run.state, batch, config.seed)
            step += 1
            # Waits for the step before: one in flight keeps the device busy, and more would only fill its memory.
            if previous is not None:
                require_progress(run, previous, step - 1)
            previous = outcome
            run.watch.step(step)
            flush_log(run)
            run.tracker.advance(step)

            if step % config.log_every == 0 or step == config.phases.total_steps:
                log(run, step, phase, position(batches, phase, step))

        require_progress(run, previous, step)

    last_phase = config.phases.phases[-1]
    evaluate(run, evaluators_of(run, last_phase), step)
    save(run, step, finished=True)
    run.checkpoints.close()
    run.tracker.say(f"finished   {step:,} steps; checkpoints in {run.checkpoints.directory}")
    run.tracker.say(run.watch.summary(int(run.state.health.skipped), run.order))
    show_completions(run)
    return None


class Diverged(Exception):
    """Too many updates had to be skipped, or the held-out loss is not finite."""


def require_progress(run: Run, outcome: Outcome | None, step: int) -> None:
    """Raises `Diverged` if training has come to nothing by `step`."""
    if outcome is not None and int(outcome.strain) >= run.config.divergence.max_skipped_updates * STRAIN_OF_A_SKIP:
        raise Diverged(
            f"at step {step:,} too many updates had to be skipped (loss {float(outcome.loss):.3f}, running average "
            f"{float(run.state.health.loss):.3f})"
        )


def go_back(run: Run, divergence: Diverged) -> None:
    """To the latest checkpoint, or the beginning, with the next order of the data; raises `UserError` where that was
    done often enough."""
    run.pending = None
    run.checkpoints.close()
    if run.order >= run.config.divergence.max_rollbacks:
        raise UserError(
            f"training has diverged: {divergence}, after going back {run.order} times. The checkpoints in "
            f"{run.checkpoints.directory} are from before. Lower optimizer.peak_learning_rate or lengthen "
            "optimizer.warmup_steps, and give another --run_dir"
        )
    run.order += 1
    run.checkpoints, latest, passed_over = open_checkpoints(run.config, run.directory)
    state = run.create() if latest is None else run.checkpoints.load(latest, run.abstract)
    rollbacks = jax.device_put(np.int32(run.order), run.abstract.health.rollbacks.sharding)
    run.state = dataclasses.replace(state, health=state.health._replace(rollbacks=rollbacks))
    run.tracker.close()
    run.tracker = open_tracker(run.config, run.directory, latest or 0, passed_over)
    run.tracker.say(
        f"diverged   {divergence}; back to step {latest or 0:,} and on with another order of the data "
        f"({run.order} of {run.config.divergence.max_rollbacks})"
    )


def evaluators_of(run: Run, phase: Phase) -> list[Evaluator]:
    """The evaluators of a phase, made and compiled once."""
    if phase not in run.evaluators:
        run.evaluators[phase] = held_out_evaluators(
            run.config, run.tokenizer, run.held_out, phase, run.mesh, run.params_shardings
        )
    return run.evaluators[phase]


def evaluate(run: Run, evaluators: list[Evaluator], step: int) -> None:
    """Measures the held-out documents, unless a record says that this was done before the run was interrupted."""
    flush_log(run)
    if run.tracker.value_at(step, "held_out/loss") is not None:
        return
    run.seconds += run.clock.lap()
    values = {name: value for evaluator in evaluators for name, value in evaluator.run(run.state.params)}
    give_back_free_memory()
    seconds = run.clock.lap()
    run.watch.start()
    shown = ("loss", "mlm_loss", "mlm_accuracy", "sop_loss", "sop_accuracy")
    parts = [f"{name} {values[f'held_out/{name}']:.4f}" for name in shown]
    run.tracker.record(step, values, f"held out   step {step:,}  {'  '.join(parts)}  ({duration(seconds)})")
    if not math.isfinite(values["held_out/loss"]):
        raise Diverged(f"the held-out loss at step {step:,} is not finite")


def save(run: Run, step: int, finished: bool = False) -> None:
    """Starts a checkpoint, once all records up to it are written; waits for it if the run is `finished`. Pauses while
    the disk is full or gone."""
    flush_log(run)
    run.seconds += run.clock.lap()
    missing = distributed.of_first(run.checkpoints.latest_step != step)
    paused = None
    while True:
        try:
            with distributed.failing_together(DiskError):
                run.tracker.flush()
                if distributed.is_first() and missing:
                    run.directory.require_room(tree_bytes(run.state))
            if missing:
                run.checkpoints.save(step, run.state, run.tracker.value_at(step, "held_out/loss"))
            if finished:
                run.checkpoints.wait()
            break
        except DiskError as error:
            paused = paused or time.monotonic()
            wait_for_disk(run, step, error, time.monotonic() - paused)
    if paused:
        run.tracker.say(f"resumed    at step {step:,} after {duration(time.monotonic() - paused)}")
    run.clock.lap()
    run.watch.start()


def wait_for_disk(run: Run, step: int, error: DiskError, waited: float) -> None:
    """A part of a pause; raises `UserError` when it has been long enough, or the run is asked to stop."""
    limit = run.config.disk_pause_minutes * 60
    over = "asked to stop" if run.stop.look() else "this has lasted too long" if waited >= limit else ""
    if distributed.of_first(bool(over)):
        raise UserError(
            f"stopped at step {step:,} without saving: {error}; {over or 'the run'} stops. The same command continues "
            "from the latest checkpoint"
        )
    if waited < DISK_RETRY_SECONDS:
        run.tracker.say(f"paused     at step {step:,}: {error}; waiting up to {duration(limit)} for it to be better")
    time.sleep(min(DISK_RETRY_SECONDS, limit))


def stopped(run: Run, step: int) -> None:
    """Says where the run stands, which is saved, and how to go on."""
    run.checkpoints.close()
    run.tracker.say(f"stopped    on {run.stop.name} at step {step:,}, saved; the same command continues the run")


def log(run: Run, step: int, phase: Phase, epochs: dict[str, float]) -> None:
    """Takes the sums of the interval that ends here; `flush_log` writes them when they have arrived."""
    run.seconds += run.clock.lap()
    run.pending = Pending(step, run.state.sums, run.seconds, phase, epochs, run.watch.interval())
    run.state = dataclasses.replace(run.state, sums=run.fresh_sums())
    run.seconds = 0.0


def flush_log(run: Run) -> None:
    if run.pending is None:
        return
    step, sums, seconds, phase, epochs, interval = run.pending
    run.pending = None
    config = run.config
    sums = {name: float(value) for name, value in jax.device_get(sums).items()}
    steps = sums["steps"]
    rate = float(learning_rate(config.optimizer, config.phases.total_steps)(step - 1))
    predictions = prediction_places(config, phase)
    sequences = sequence_places(config, phase) or 1
    row_flops = training_flops_per_sequence(config.model, phase.sequence_length, predictions, sequences)
    flops = row_flops * phase.batch_size
    mfu = flops * steps / seconds / (run.peak_flops * run.mesh.size)
    tokens_per_second = sums["tokens"] / seconds
    left = (config.phases.total_steps - step) * seconds / steps
    values = {f"train/{name}": value for name, value in summarize(sums).items()}
    values |= epochs | {
        "train/learning_rate": rate,
        "train/gradient_norm": sums["gradient_norm"] / max(steps - sums["skipped"], 1),
        "train/skipped": sums["skipped"],
        "speed/tokens_per_second": tokens_per_second,
        "speed/mfu": mfu,
        "speed/seconds_per_step": seconds / steps,
        "speed/slowest_step": interval.slowest,
        "speed/input_wait": interval.waited / seconds,
        "speed/host_memory": interval.host_memory,
    }
    remarks = ""
    if sums["skipped"]:
        remarks += f"  {sums['skipped']:.0f} updates skipped"
    if interval.waited > MUCH_WAITING * seconds:
        remarks += f"  {interval.waited / seconds:.0%} of the time without a batch"
    if interval.slowest > SLOW_STEP * seconds / steps:
        remarks += f"  slowest step {interval.slowest:.2g}s"
    shown = "  ".join(
        f"{name} {values[f'train/{key}']:.{digits}f}"
        for name, key, digits in (
            ("loss", "loss", 3),
            ("mlm", "mlm_loss", 3),
            ("acc", "mlm_accuracy", 3),
            ("sop", "sop_loss", 3),
            ("acc", "sop_accuracy", 3),
            ("norm", "gradient_norm", 2),
        )
    )
    run.tracker.record(
        step,
        values,
        f"step {step:>7,}/{config.phases.total_steps:,}  {shown}  lr {rate:.2e}  "
        f"epoch {epochs['data/epoch']:.2f}  {tokens_per_second:,.0f} tokens/s  "
        f"padding {values['train/padding']:.1%}  MFU {mfu:.1%}  left {duration(left)}{remarks}",
    )
    if before := run.watch.grown(interval.host_memory):
        run.tracker.say(f"memory     of the host grew from {before / 1e6:,.0f} to {interval.host_memory / 1e6:,.0f} MB")


def show_completions(run: Run) -> None:
    """Fills the masks of `sample_sentences` with the model just trained."""
    sentences = run.config.sample_sentences
    if not sentences:
        return
    whole = jax.jit(lambda params: params, out_shardings=NamedSharding(run.mesh, PartitionSpec()))(run.state.params)
    if not distributed.is_first():
        return
    with jax.set_mesh(own_mesh()):
        model = AlbertForPreTraining(run.config.model, jax.device_get(whole), run.tokenizer)
        completions = fill_mask(model, sentences, top_k=3)
    run.tracker.say("completions of the trained model, likeliest first:")
    for sentence, masks in zip(sentences, completions, strict=True):
        completed = sentence
        for choices in masks:
            pieces = ", ".join(f"{choice.text} {choice.probability:.0%}" for choice in choices)
            completed = completed.replace(MASK, f"[{pieces}]", 1)
        run.tracker.say(f"  {completed}")


if __name__ == "__main__":
    exit_cleanly(main)
