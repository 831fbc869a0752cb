"""Batches as a pure function of (seed, step): which examples a batch holds, and the reading ahead of the device.

Nothing here has state that a checkpoint would need, and nothing depends on how many hosts, threads or restarts there
are: a host asks for its rows of a global batch and gets those.
"""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grain
import numpy as np

from albert_jax.config import DataConfig
from albert_jax.errors import UserError
from albert_jax.inputs.corpus import Corpus
from albert_jax.inputs.features import Features, Layout, empty_features, fill_rows, max_predictions, with_slots
from albert_jax.inputs.masking import MaskRules
from albert_jax.inputs.mixing import Mix
from albert_jax.inputs.random import key_of, permutation
from albert_jax.inputs.rows import arrange, max_sequences, row_patterns
from albert_jax.inputs.segments import OBJECTIVES, SPECIAL_TOKENS, BrokenOffsets, Rules, Text, plan
from albert_jax.tokenizer import AlbertTokenizer

ORDER, ROWS = 2**32, 2**32 + 1
"""What names the streams of an epoch's orders of examples and of rows beside those of its shards."""
MIX, CORPORA = 2**33, 2**34
"""What names the stream of a mix beside those of row lengths, and those of its corpora but the first beside epochs."""


class EpochPlan(NamedTuple):
    """Where the examples of one epoch start, and the order in which they are read: 16 bytes for each, and 4 for each
    packed row."""

    keys: list[np.uint64]
    """The stream of each shard."""
    starts: list[tuple[np.ndarray, ...]]
    """Of each shard document, sentence and token at which each example starts, uint32."""
    first: np.ndarray
    """int64 [shards + 1]: the number of each shard's first example."""
    order: np.ndarray
    """uint32 [examples]: the numbers of the examples, row by row."""
    row_starts: np.ndarray | None
    """uint32 [rows + 1]: where each row begins in `order`; None where a row is one example."""

    @property
    def examples(self) -> int:
        return len(self.order)

    @property
    def size(self) -> int:
        """Rows of the epoch."""
        return len(self.order) if self.row_starts is None else len(self.row_starts) - 1

    def examples_of(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The examples of the rows at `places`, row by row: which of the places each belongs to, and its number."""
        if self.row_starts is None:
            return np.arange(len(places)), self.order[places]
        begins = self.row_starts[places].astype(np.int64)
        counts = self.row_starts[places + 1] - begins
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(np.arange(len(places)), counts), self.order[np.repeat(begins, counts) + within]


class Reading(NamedTuple):
    """What the first rows of a corpus, in the order of training, hold."""

    epoch: int
    """The epoch that the last row belongs to."""
    epoch_rows: int
    """Rows of that epoch."""
    read_rows: int
    """Those of them that are among the first rows: at least 1, unless there are no rows at all."""
    rows: int
    sequences: int
    tokens: int
    """With [CLS] and [SEP], without padding."""
    begun_documents: int
    """Documents of which this epoch has read something."""

    @property
    def epochs(self) -> float:
        return self.epoch + self.read_rows / self.epoch_rows


class PretrainingBatches:
    """The examples of a corpus in rows of one length, epoch after epoch, in global batches of `batch_size` rows.

    An epoch reads every document of the split once (see `albert_jax.inputs.segments`) in an order of its own, with its
    own segments and masks. With `config.pack_sequences` a row holds as many examples as fit (see
    `albert_jax.inputs.rows`), each with the segments and masks that it has in a row of its own. Thread-safe.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: AlbertTokenizer,
        config: DataConfig,
        *,
        sequence_length: int,
        batch_size: int,
        seed: int,
        objective: str | None = None,
        mixed_after: Sequence[Corpus] = (),
    ):
        """`objective` stands in for `config.sentence_objective`. `mixed_after` are the corpora before this one in a
        mix: it has random streams of its own, and the shards in `Features.origin` are counted from theirs on."""
        objective = objective or config.sentence_objective
        if objective == "nsp" and any(len(shard.documents) < 3 for shard in corpus.shards):
            raise UserError(
                f"{corpus.directory}: next-sentence prediction needs at least two documents in every shard of the "
                f"{corpus.split} split; use data.sentence_objective sop, or encode more documents"
            )
        self.corpus, self.sequence_length, self.batch_size = corpus, sequence_length, batch_size
        self._vocab_size = tokenizer.vocab_size
        self._first_shard = sum(len(other.shards) for other in mixed_after)
        self.sequences = max_sequences(sequence_length) if config.pack_sequences else None
        masks = sequence_length, config.masked_lm_probability, config.max_predictions_per_sequence
        self.predictions = max_predictions(*masks, self.sequences)
        # As long as any uint16 can reach: the compiled kernels check no bounds.
        rank = np.full(2**16, -1, np.int32)
        word_starts = np.zeros(2**16, np.bool_)
        word_starts[: tokenizer.vocab_size] = tokenizer.word_starts
        rank[tokenizer.ordinary_ids] = np.arange(len(tokenizer.ordinary_ids))
        self._texts = [
            Text(*(np.asarray(part) for part in (shard.tokens, shard.sentences, shard.documents)))
            for shard in corpus.shards
        ]
        self._rules = Rules(
            capacity=sequence_length - SPECIAL_TOKENS,
            short_probability=config.short_sequence_probability,
            objective=OBJECTIVES[objective],
            word_starts=word_starts,
        )
        self._mask_rules = MaskRules(
            probability=config.masked_lm_probability,
            cap=config.max_predictions_per_sequence or 0,
            max_ngram=config.max_ngram,
            mask_id=tokenizer.mask_id,
            ordinary_ids=tokenizer.ordinary_ids,
            rank=rank,
            word_starts=word_starts,
        )
        self._layout = Layout(
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
            pad_id=tokenizer.pad_id,
            predictions=max_predictions(*masks),
            sentence_weight=0.0 if objective == "none" else 1.0,
        )
        self._key = key_of(seed, sequence_length, OBJECTIVES[objective])
        if mixed_after:
            self._key = key_of(CORPORA + len(mixed_after), within=self._key)
        self._epoch_firsts = [0]
        self._plans: OrderedDict[tuple[int, int | None], EpochPlan] = OrderedDict()
        self._lock = threading.RLock()
        if self.epoch(0).size == 0:
            raise UserError(f"{corpus.directory}: the {corpus.split} split holds no pair of segments")

    def epoch(self, number: int, limit: int | None = None) -> EpochPlan:
        """The plan of epoch `number`, or of the first `limit` examples of its order; the last two asked for are
        kept."""
        with self._lock:
            if (number, limit) not in self._plans:
                self._plans[number, limit] = self._make_plan(number, limit)
                while len(self._plans) > 2:
                    self._plans.popitem(last=False)
            self._plans.move_to_end((number, limit))
            return self._plans[number, limit]

    def locate(self, row: int) -> tuple[int, int]:
        """(epoch, place in the epoch) of a row counted from the start of training.

        Epochs differ by a few rows, so those before it are counted: 10 nanoseconds for each
        sentence and epoch at 512 tokens, 40 at 128, shared by the cores.
        """
        with self._lock:
            while self._epoch_firsts[-1] <= row:
                number = len(self._epoch_firsts) - 1
                self._epoch_firsts.append(self._epoch_firsts[number] + self._epoch_size(number))
        epoch = bisect_right(self._epoch_firsts, row) - 1
        return epoch, row - self._epoch_firsts[epoch]

    def batch(self, step: int, rows: np.ndarray | None = None) -> Features:
        """Rows `rows` (all if None) of global batch `step`."""
        rows = np.arange(self.batch_size) if rows is None else rows
        features = self.empty(len(rows))
        self.fill(features, np.arange(len(rows)), step * self.batch_size + rows)
        return features

    def fill(self, features: Features, rows: np.ndarray, numbers: np.ndarray) -> None:
        """Writes rows `numbers`, counted from the start of training, to the empty `rows` of the features."""
        places = [self.locate(int(number)) for number in numbers]
        for epoch in sorted({number for number, _ in places}):
            chosen = np.array([index for index, (number, _) in enumerate(places) if number == epoch])
            self._fill(features, rows[chosen], self.epoch(epoch), np.array([places[index][1] for index in chosen]))

    def position(self, rows: int) -> tuple[int, int, int]:
        """(epoch, rows of it that are read, rows that it has) once the first `rows` rows are read. Cheap: plans nothing
        that reading them did not need."""
        if rows == 0:
            return 0, 0, self.epoch(0).size
        epoch, place = self.locate(rows - 1)
        return epoch, place + 1, self._epoch_firsts[epoch + 1] - self._epoch_firsts[epoch]

    def reading(self, rows: int) -> Reading:
        """What the first `rows` rows hold, counted: see `locate` for the cost of the epochs before the last, which is
        planned."""
        epoch, place, size = self.position(rows)
        sequences = tokens = 0
        for number in range(epoch):
            counts = self._epoch_counts(number)
            sequences += int(counts.sum())
            tokens += int(counts @ np.arange(len(counts)))
        plan, keys = self.epoch(epoch), self._epoch_keys(epoch)
        read = plan.order[: place if plan.row_starts is None else plan.row_starts[place]]
        documents = 0
        for number, (text, key) in enumerate(zip(self._texts, keys, strict=True)):
            first, end = plan.first[number : number + 2]
            local = read[(read >= first) & (read < end)] - first
            document, _, _, lengths = self._starts(number, text, key)
            tokens += int(lengths[local].sum(dtype=np.int64))
            documents += len(np.unique(document[local]))
        return Reading(epoch, size, place, rows, sequences + len(read), tokens, documents)

    def first_examples(self, step: int, limit: int, rows: np.ndarray | None = None) -> Features:
        """Rows of batch `step` of the first `limit` examples of epoch 0: a fixed set, for evaluation, the same whether
        or not it is packed. Rows past its end are empty and weigh nothing."""
        rows = np.arange(self.batch_size) if rows is None else rows
        plan = self.epoch(0, limit)
        places = step * self.batch_size + rows
        features = self.empty(len(rows))
        self._fill(features, np.flatnonzero(places < plan.size), plan, places[places < plan.size])
        return features

    def steps_of_first(self, limit: int) -> int:
        """Batches that hold the first `limit` examples of epoch 0."""
        return -(-self.epoch(0, limit).size // self.batch_size)

    def empty(self, rows: int) -> Features:
        """Rows of padding."""
        return empty_features(
            rows,
            self.sequence_length,
            self.predictions,
            self._mask_rules.max_ngram,
            self._layout.pad_id,
            self.sequences,
        )

    def _fill(self, features: Features, rows: np.ndarray, plan: EpochPlan, places: np.ndarray) -> None:
        """Writes the rows at `places` of an epoch to `rows` of the features."""
        features, filled = with_slots(features), np.zeros((len(features.input_ids), 3), np.int64)
        within, examples = plan.examples_of(places)
        shards = np.searchsorted(plan.first, examples, side="right") - 1
        # Ascending, as the examples of a row are: so each comes to lie behind those before it.
        for shard in np.unique(shards):
            chosen = shards == shard
            local = examples[chosen] - plan.first[shard]
            starts = np.stack([part[local].astype(np.int64) for part in plan.starts[shard]], axis=1)
            try:
                fill_rows(
                    features,
                    filled,
                    rows[within[chosen]],
                    starts,
                    self._first_shard + shard,
                    self._texts[shard],
                    self._rules,
                    self._mask_rules,
                    self._layout,
                    plan.keys[shard],
                )
            except BrokenOffsets:
                raise self._damaged(shard, "offsets lead out of it") from None
        largest = features.input_ids.max(initial=0)
        if largest >= self._vocab_size:
            row, place = np.argwhere(features.input_ids == largest)[0]
            slot = int(features.attention_mask[row, place]) - 1
            shard = features.origin[row, slot, 0] - self._first_shard
            raise self._damaged(shard, f"id {largest:,} is outside the vocabulary of {self._vocab_size:,}")

    def _damaged(self, shard: int, found: str) -> UserError:
        return UserError(
            f"{self.corpus.directory}: altered, in shard {self.corpus.shards[shard].name} {found}; `pretrain.py "
            "--verify` finds the damaged files; restore them, or build the corpus again with data/encode_corpus.py"
        )

    def _epoch_keys(self, number: int) -> list[np.uint64]:
        return [key_of(number, shard, within=self._key) for shard in range(len(self._texts))]

    def _epoch_size(self, number: int) -> int:
        """Rows of an epoch, from the number of its examples of each length."""
        if (number, None) in self._plans:
            return self._plans[number, None].size
        counts = self._epoch_counts(number)
        return int(counts.sum() if self.sequences is None else row_patterns(counts, self.sequences)[1].sum())

    def _epoch_counts(self, number: int) -> np.ndarray:
        """How many examples of each length an epoch has, int64 [sequence length + 1]."""
        with ThreadPoolExecutor() as threads:
            return sum(threads.map(self._count, range(len(self._texts)), self._texts, self._epoch_keys(number)))

    def _make_plan(self, number: int, limit: int | None) -> EpochPlan:
        keys = self._epoch_keys(number)
        with ThreadPoolExecutor() as threads:
            starts = list(threads.map(self._starts, range(len(self._texts)), self._texts, keys))
        first = np.cumsum([0] + [len(lengths) for *_, lengths in starts])
        order = permutation(first[-1], key_of(number, ORDER, within=self._key))[:limit]
        row_starts = None
        if self.sequences is not None:
            lengths = np.concatenate([lengths for *_, lengths in starts])
            row_key = key_of(number, ROWS, within=self._key)
            row_starts = arrange(order, lengths, self.sequence_length, self.sequences, row_key)
        return EpochPlan(keys, [parts for *parts, _ in starts], first, order, row_starts)

    def _count(self, shard: int, text: Text, key: np.uint64, into: tuple[np.ndarray, ...] | None = None) -> np.ndarray:
        try:
            return plan(text, self._rules, key, *into or (np.empty(0, np.uint32),) * 4)
        except BrokenOffsets:
            raise self._damaged(shard, "offsets lead out of it") from None

    def _starts(self, shard: int, text: Text, key: np.uint64) -> tuple[np.ndarray, ...]:
        """Document, sentence, token and length of each example of a shard."""
        starts = tuple(np.empty(self._count(shard, text, key).sum(), np.uint32) for _ in range(4))
        self._count(shard, text, key, starts)
        return starts


class MixedBatches:
    """Global batches of `batch_size` rows from several corpora, or from one, which are then those of its own.

    Each corpus runs through epochs of its own, row by row in the order of its `PretrainingBatches`; `Mix` says which
    row of a batch is whose. Thread-safe.
    """

    def __init__(self, parts: Sequence[PretrainingBatches], weights: Sequence[float], *, seed: int):
        """`weights` as in `DataConfig.corpus_weights`."""
        self.parts, self.batch_size = tuple(parts), parts[0].batch_size
        names = [str(part.corpus.directory) for part in parts]
        self.mix = Mix(weights or [part.epoch(0).size for part in parts], names, key_of(seed, MIX))

    def batch(self, step: int, rows: np.ndarray | None = None) -> Features:
        """Rows `rows` (all if None) of global batch `step`."""
        rows = np.arange(self.batch_size) if rows is None else rows
        features = self.empty(len(rows))
        corpora, numbers = self.mix.locate(step * self.batch_size + rows)
        for index, part in enumerate(self.parts):
            chosen = np.flatnonzero(corpora == index)
            part.fill(features, chosen, numbers[chosen])
        return features

    def empty(self, rows: int) -> Features:
        """Rows of padding."""
        return self.parts[0].empty(rows)


class _Steps:
    """Grain's view of the batches: record i is the local part of batch i."""

    def __init__(self, batches: PretrainingBatches | MixedBatches, rows: np.ndarray | None, steps: int):
        self.batches, self.rows, self.steps = batches, rows, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Features:
        return self.batches.batch(step, self.rows)


def read_ahead(
    batches: PretrainingBatches | MixedBatches,
    *,
    start: int,
    stop: int,
    rows: np.ndarray | None,
    threads: int,
    prefetch: int,
) -> Iterator[Features]:
    """Batches `start` to `stop`, prepared by `threads` threads up to `prefetch` batches ahead."""
    records = grain.MapDataset.source(_Steps(batches, rows, stop)).slice(slice(start, stop))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    return iter(records.to_iter_dataset(options))
