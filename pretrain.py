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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from jax.sharding import Mesh

from albert_jax.checkpoint import Checkpoints
from albert_jax.config import (
    Phase,
    PretrainConfig,
    load_config,
    parse_command,
    scale_to_batch_size,
)
from albert_jax.errors import UserError, disk_errors_explained, exit_cleanly
from albert_jax.evaluate import Evaluator
from albert_jax.flops import device_peak_flops, slow_bfloat16, training_flops_per_sequence
from albert_jax.inputs.corpus import Corpus
from albert_jax.model import initialize
from albert_jax.model.attention_kernels import check_attention
from albert_jax.objectives import summarize
from albert_jax.optim import learning_rate, make_optimizer
from albert_jax.predict import MASK, fill_mask
from albert_jax.pretrained import AlbertForPreTraining
from albert_jax.report import dry_run_report
from albert_jax.run_directory import ADVICE, RunDirectory
from albert_jax.sharding import check_batch, make_mesh
from albert_jax.stopping import StopRequest
from albert_jax.tasks.pretraining import (
    batch_shapes,
    corpus_fingerprint,
    describe_corpora,
    held_out_evaluators,
    open_inputs,
    phase_batches,
    prediction_places,
    pretraining_objective,
    sequence_places,
    training_batches,
    unigram_entropy,
)
from albert_jax.tokenizer import AlbertTokenizer
from albert_jax.tracking import Clock, Tracker, duration
from albert_jax.train import TrainState, compile_train_step, create_state, random_key, zero_sums
from albert_jax.trees import tree_bytes, tree_size

SAMPLE = Path(__file__).parent / "configs" / "pretrain" / "sample.py"


@dataclass(frozen=True)
class Command:
    """The command line: a configuration, overridden field by field, and what to do with it."""

    config: Annotated[PretrainConfig, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    dry_run: bool = False
    """Print parameters, FLOPs, memory per device, tokens and estimated time, and train nothing."""
    verify: bool = False
    """Read every token of the corpora first and compare every checksum (sets data.verify_checksums)."""
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
    return pretrain(config)


def pretrain(config: PretrainConfig) -> int | None:
    """A run from wherever it stands to its end, or to the first request to stop."""
    # ---- where: devices and the folder of the run
    mesh = make_mesh(config.mesh)
    for phase in config.phases.phases:
        check_batch(phase.batch_size, phase.accumulation, mesh)
        check_attention(
            config.compute, config.model, phase.sequence_length, phase.batch_size // phase.accumulation, mesh
        )
    directory = RunDirectory(config.run_dir, config)
    try:
        with jax.set_mesh(mesh), disk_errors_explained(f"run_dir = {config.run_dir}", ADVICE):
            run = prepare(config, mesh, directory)
            try:
                return train(run)
            finally:
                run.tracker.close()
    finally:
        directory.release()


@dataclass
class Run:
    """Everything that the loop needs, made once."""

    config: PretrainConfig
    mesh: Mesh
    directory: RunDirectory
    tokenizer: AlbertTokenizer
    corpora: tuple[Corpus, ...]
    held_out: tuple[Corpus, ...]
    state: TrainState
    fresh_sums: Callable[[], dict[str, jax.Array]]
    train_step: Callable[[TrainState, dict[str, jax.Array], int], tuple[TrainState, jax.Array]]
    params_shardings: Any
    checkpoints: Checkpoints
    tracker: Tracker
    peak_flops: float
    evaluators: dict[Phase, list[Evaluator]] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    seconds: float = 0.0
    """Training time of the interval under way, without evaluation and saving."""
    pending: tuple[int, dict[str, jax.Array], float, Phase] | None = None
    """Step, sums and seconds of an interval that has just ended, until a step later its sums have arrived: the loop
    never waits for them."""


def prepare(config: PretrainConfig, mesh: Mesh, directory: RunDirectory) -> Run:
    # ---- what in: text -> vocabulary -> corpus -> batches
    if config.data.sources:
        build_inputs(config)
    tokenizer, corpora, held_out = open_inputs(config)
    first_phase = config.phases.phases[0]
    batches = training_batches(config, tokenizer, corpora, first_phase)

    # ---- what learns: shapes, then shardings, then arrays
    objective = pretraining_objective(config.model, config.compute)
    optimizer = make_optimizer(config.optimizer, config.phases.total_steps)
    shapes = batch_shapes(batches, first_phase)
    create, abstract, shardings = create_state(
        lambda: initialize(config.model, random_key(config.seed)),
        optimizer,
        lambda params: zero_sums(objective, params, shapes),
        mesh,
        config.model,
    )
    train_step = compile_train_step(objective, optimizer, mesh, shardings)

    # ---- where to start: 1 this run's latest checkpoint   2 scratch
    directory.require_room(tree_bytes(abstract), checkpoints=2)  # the new one is whole before an old one goes
    directory.save_description(
        config, config.model, tokenizer, {"tokenizer": tokenizer.fingerprint, "corpus": corpus_fingerprint(corpora)}
    )
    checkpoints = Checkpoints(directory.path / "checkpoints", keep=config.keep_checkpoints)
    latest = checkpoints.latest_step
    state = create() if latest is None else checkpoints.load(latest, abstract)
    tracker = Tracker(directory.path, step=latest or 0, total_steps=config.phases.total_steps, title="pretraining")

    peak, source = device_peak_flops(config.compute.dtype)
    tracker.say(
        f"model      {tree_size(abstract.params):,} parameters, {config.compute.dtype} on "
        f"{mesh.size} x {jax.devices()[0].device_kind} (mesh data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']} x "
        f"tensor {mesh.shape['tensor']})\n"
        f"peak       {peak / 1e12:.3g} TFLOP/s per device ({source})\n"
        + "".join(f"corpus     {line}\n" for line in describe_corpora(corpora, batches))
        + f"held out   {sum(c.num_documents for c in held_out):,} documents, {sum(c.num_tokens for c in held_out):,} "
        "tokens; unigram entropy "
        f"{unigram_entropy(held_out):.3f} nats\n"
        f"run        {config.phases.total_steps:,} steps in {directory.path}, "
        + ("from scratch" if latest is None else f"continued from step {latest:,}")
    )
    if note := slow_bfloat16(config.compute.dtype):
        tracker.say(note)
    return Run(
        config=config,
        mesh=mesh,
        directory=directory,
        tokenizer=tokenizer,
        corpora=corpora,
        held_out=held_out,
        state=state,
        fresh_sums=jax.jit(lambda: zero_sums(objective, abstract.params, shapes), out_shardings=shardings.sums),
        train_step=train_step,
        params_shardings=shardings.params,
        checkpoints=checkpoints,
        tracker=tracker,
        peak_flops=peak,
    )


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
    """The loop: evaluate, save, step, log, in this order, so that a resumed run is the same run."""
    config, step = run.config, int(run.state.step)
    stop = StopRequest()
    run.clock.lap()
    for phase in config.phases.phases:
        if step >= phase.stop:
            continue
        evaluators = evaluators_of(run, phase)
        batches = training_batches(config, run.tokenizer, run.corpora, phase)
        previous = None
        for batch in phase_batches(config, batches, phase, run.mesh, step):
            saving = step % config.checkpoint_every == 0 and step > 0
            # A checkpoint is judged too, else the best of them could not be kept.
            if (saving or step % config.evaluate_every == 0) and not stop.requested:
                evaluate(run, evaluators, step)
            if saving or stop.requested:
                require_finite(run, previous, step)
                save(run, step)
            if stop.requested:
                return stopped(run, step, stop)

            run.state, loss = run.train_step(run.state, batch, config.seed)
            step += 1
            # Waits for the step before: one in flight keeps the device busy, and more would only fill its memory.
            if previous is not None:
                require_finite(run, previous, step - 1)
            previous = loss
            flush_log(run)
            run.tracker.advance(step)

            if step % config.log_every == 0 or step == config.phases.total_steps:
                log(run, step, phase)

        require_finite(run, previous, step)

    last_phase = config.phases.phases[-1]
    evaluate(run, evaluators_of(run, last_phase), step)
    save(run, step)
    run.checkpoints.close()
    run.tracker.say(f"finished   {step:,} steps; checkpoints in {run.checkpoints.directory}")
    show_completions(run)
    return None


def require_finite(run: Run, loss: jax.Array | float | None, step: int) -> None:
    """Raises `UserError` if the loss at `step` is not a number, before a useless state replaces good ones."""
    if loss is not None and not math.isfinite(float(loss)):
        raise UserError(
            f"the loss at step {step:,} is not finite: training has diverged. The checkpoints in "
            f"{run.checkpoints.directory} are from before. Lower optimizer.peak_learning_rate or lengthen "
            "optimizer.warmup_steps, and give another --run_dir"
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
    seconds = run.clock.lap()
    shown = ("loss", "mlm_loss", "mlm_accuracy", "sop_loss", "sop_accuracy")
    parts = [f"{name} {values[f'held_out/{name}']:.4f}" for name in shown]
    run.tracker.record(step, values, f"held out   step {step:,}  {'  '.join(parts)}  ({duration(seconds)})")
    require_finite(run, values["held_out/loss"], step)


def save(run: Run, step: int) -> None:
    """Starts a checkpoint, once all records up to it are written."""
    flush_log(run)
    run.seconds += run.clock.lap()
    if run.checkpoints.latest_step != step:
        run.directory.require_room(tree_bytes(run.state))
        run.checkpoints.save(step, run.state, run.tracker.value_at(step, "held_out/loss"))
    run.clock.lap()


def stopped(run: Run, step: int, stop: StopRequest) -> None:
    """Says where the run stands, which is saved, and how to go on."""
    run.checkpoints.close()
    run.tracker.say(f"stopped    on {stop.name} at step {step:,}, saved; the same command continues the run")


def log(run: Run, step: int, phase: Phase) -> None:
    """Takes the sums of the interval that ends here; `flush_log` writes them when they have arrived."""
    run.seconds += run.clock.lap()
    run.pending = (step, run.state.sums, run.seconds, phase)
    run.state = dataclasses.replace(run.state, sums=run.fresh_sums())
    run.seconds = 0.0


def flush_log(run: Run) -> None:
    if run.pending is None:
        return
    step, sums, seconds, phase = run.pending
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
    values |= {
        "train/learning_rate": rate,
        "train/gradient_norm": sums["gradient_norm"] / steps,
        "speed/tokens_per_second": tokens_per_second,
        "speed/mfu": mfu,
        "speed/seconds_per_step": seconds / steps,
    }
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
        f"{tokens_per_second:,.0f} tokens/s  padding {values['train/padding']:.1%}  MFU {mfu:.1%}  "
        f"left {duration(left)}",
    )


def show_completions(run: Run) -> None:
    """Fills the masks of `sample_sentences` with the model just trained."""
    sentences = run.config.sample_sentences
    if not sentences:
        return
    with jax.default_device(jax.local_devices()[0]):
        model = AlbertForPreTraining(run.config.model, jax.device_get(run.state.params), run.tokenizer)
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
