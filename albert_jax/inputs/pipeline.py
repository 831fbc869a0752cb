"""Batches as a pure function of (seed, step): which examples a batch holds, and the reading ahead of the device.

Nothing here has state that a checkpoint would need, and nothing depends on how many hosts, threads or restarts there
are: a host asks for its rows of a global batch and gets those.
"""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grain
import numpy as np

from albert_jax.config import DataConfig
from albert_jax.errors import UserError
from albert_jax.inputs.corpus import Corpus
from albert_jax.inputs.features import Features, Layout, empty_features, fill_rows, max_predictions
from albert_jax.inputs.masking import MaskRules
from albert_jax.inputs.random import key_of, permutation
from albert_jax.inputs.segments import OBJECTIVES, SPECIAL_TOKENS, Rules, Text, plan
from albert_jax.tokenizer import AlbertTokenizer

ORDER = 2**32
"""What names the stream of an epoch's order beside those of its shards."""


class EpochPlan:
    """Where the examples of one epoch start, and the order in which they are read: 16 bytes for each."""

    def __init__(self, starts: list[tuple[np.ndarray, ...]], keys: list[np.uint64], order_key: np.uint64):
        self.starts, self.keys = starts, keys
        self.first = np.cumsum([0] + [len(tokens) for *_, tokens in starts])
        self.order = permutation(self.size, order_key)

    @property
    def size(self) -> int:
        return int(self.first[-1])


class PretrainingBatches:
    """The examples of a corpus at one sequence length, epoch after epoch, in global batches.

    An epoch reads every document of the split once (see `albert_jax.inputs.segments`) in an order of its own, with its
    own segments and masks. Thread-safe.
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
    ):
        """`objective` stands in for `config.sentence_objective`."""
        objective = objective or config.sentence_objective
        if objective == "nsp" and any(len(shard.documents) < 3 for shard in corpus.shards):
            raise UserError(
                f"{corpus.directory}: next-sentence prediction needs at least two documents in every shard of the "
                f"{corpus.split} split; use data.sentence_objective sop, or encode more documents"
            )
        self.sequence_length, self.batch_size = sequence_length, batch_size
        self.predictions = max_predictions(
            sequence_length, config.masked_lm_probability, config.max_predictions_per_sequence
        )
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
        self._layout = Layout(tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, 0.0 if objective == "none" else 1.0)
        self._key = key_of(seed, sequence_length, OBJECTIVES[objective])
        self._epoch_firsts = [0]
        self._plans: OrderedDict[int, EpochPlan] = OrderedDict()
        self._lock = threading.RLock()
        if self.epoch(0).size == 0:
            raise UserError(f"{corpus.directory}: the {corpus.split} split holds no pair of segments")

    def epoch(self, number: int) -> EpochPlan:
        """The plan of epoch `number`; the last two asked for are kept."""
        with self._lock:
            if number not in self._plans:
                self._plans[number] = self._make_plan(number)
                while len(self._plans) > 2:
                    self._plans.popitem(last=False)
            self._plans.move_to_end(number)
            return self._plans[number]

    def locate(self, example: int) -> tuple[int, int]:
        """(epoch, place in the epoch) of an example counted from the start of training.

        Epochs differ by a few examples, so those before it are counted: 10 nanoseconds for each
        sentence and epoch at 512 tokens, 40 at 128, shared by the cores.
        """
        with self._lock:
            while self._epoch_firsts[-1] <= example:
                number = len(self._epoch_firsts) - 1
                self._epoch_firsts.append(self._epoch_firsts[number] + self._epoch_size(number))
        epoch = bisect_right(self._epoch_firsts, example) - 1
        return epoch, example - self._epoch_firsts[epoch]

    def batch(self, step: int, rows: np.ndarray | None = None) -> Features:
        """Rows `rows` (all if None) of global batch `step`."""
        rows = np.arange(self.batch_size) if rows is None else rows
        return self._examples([self.locate(step * self.batch_size + int(row)) for row in rows])

    def first_epoch(self, step: int, limit: int, rows: np.ndarray | None = None) -> Features:
        """Rows of batch `step` of the first `limit` examples of epoch 0: a fixed set, for evaluation. Rows past its end
        are empty and weigh nothing."""
        rows = np.arange(self.batch_size) if rows is None else rows
        limit = min(limit, self.epoch(0).size)
        places = [step * self.batch_size + int(row) for row in rows]
        return self._examples([(0, place) if place < limit else None for place in places])

    def _examples(self, places: list[tuple[int, int] | None]) -> Features:
        """One row for each (epoch, place); None leaves it empty."""
        features = empty_features(
            len(places),
            self.sequence_length,
            self.predictions,
            self._mask_rules.max_ngram,
            self._layout.pad_id,
        )
        for epoch in sorted({place[0] for place in places if place}):
            plan = self.epoch(epoch)
            rows = np.array([row for row, place in enumerate(places) if place and place[0] == epoch])
            examples = plan.order[[places[row][1] for row in rows]]
            shards = np.searchsorted(plan.first, examples, side="right") - 1
            for shard in np.unique(shards):
                chosen = shards == shard
                local = examples[chosen] - plan.first[shard]
                starts = np.stack([part[local].astype(np.int64) for part in plan.starts[shard]], axis=1)
                fill_rows(
                    features,
                    rows[chosen],
                    starts,
                    shard,
                    self._texts[shard],
                    self._rules,
                    self._mask_rules,
                    self._layout,
                    plan.keys[shard],
                )
        return features

    def _epoch_keys(self, number: int) -> list[np.uint64]:
        return [key_of(number, shard, within=self._key) for shard in range(len(self._texts))]

    def _epoch_size(self, number: int) -> int:
        if number in self._plans:
            return self._plans[number].size
        with ThreadPoolExecutor() as threads:
            return sum(threads.map(self._count, self._texts, self._epoch_keys(number)))

    def _make_plan(self, number: int) -> EpochPlan:
        keys = self._epoch_keys(number)
        with ThreadPoolExecutor() as threads:
            starts = list(threads.map(self._starts, self._texts, keys))
        return EpochPlan(starts, keys, order_key=key_of(number, ORDER, within=self._key))

    def _count(self, text: Text, key: np.uint64) -> int:
        return plan(text, self._rules, key, *(np.empty(0, np.uint32),) * 3)

    def _starts(self, text: Text, key: np.uint64) -> tuple[np.ndarray, ...]:
        starts = tuple(np.empty(self._count(text, key), np.uint32) for _ in range(3))
        plan(text, self._rules, key, *starts)
        return starts


class _Steps:
    """Grain's view of `PretrainingBatches`: record i is the local part of batch i."""

    def __init__(self, batches: PretrainingBatches, rows: np.ndarray | None, steps: int):
        self.batches, self.rows, self.steps = batches, rows, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Features:
        return self.batches.batch(step, self.rows)


def read_ahead(
    batches: PretrainingBatches,
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
