"""Which examples of an epoch share a row, so that hardly a place of a batch is padding.

What fits together is decided on the numbers of examples of each length alone (histogram packing; Krell et al. 2021,
"Efficient sequence packing without cross-contamination"): milliseconds, however many examples there are, and the
number of rows is known without a list of the examples. Which examples of a length go where, and the order of the rows,
is up to chance.
"""

import numpy as np

from albert_jax.inputs.kernels import kernel
from albert_jax.inputs.random import permutation

TOKENS_PER_SEQUENCE = 32
"""A row has places for one sequence in so many tokens."""
LEAST_SEQUENCES = 4
"""Places of a short row: few tokens hold few sequences, but short ones."""


def max_sequences(sequence_length: int) -> int:
    """Places for sequences in a packed row, S: 16 for 512 tokens."""
    return max(LEAST_SEQUENCES, sequence_length // TOKENS_PER_SEQUENCE)


@kernel
def row_patterns(counts: np.ndarray, sequences: int) -> tuple[np.ndarray, np.ndarray]:
    """How rows are filled with `counts[n]` examples of n tokens, n up to a row's length: the lengths in each kind of
    row [kinds, sequences], 0 for an unused place, and how many rows of the kind there are.

    Best fit, longest first: an example goes where it leaves the least room. All rows of a kind are filled at once.
    """
    longest = len(counts) - 1
    # A length ends with a new kind for the rows that it fills as far as it can, and one for what is left over.
    most = 2 * longest + 2
    lengths = np.zeros((most, sequences), np.int64)
    rows, rooms, used = np.zeros(most, np.int64), np.zeros(most, np.int64), np.zeros(most, np.int64)
    kinds = 0
    for length in range(longest, 0, -1):
        left = counts[length]
        while left > 0:
            best = -1
            for kind in range(kinds):
                if used[kind] < sequences and rooms[kind] >= length and (best < 0 or rooms[kind] < rooms[best]):
                    best = kind
            room = longest if best < 0 else rooms[best]
            each = min(room // length, sequences if best < 0 else sequences - used[best])
            whole = left // each if best < 0 else min(left // each, rows[best])
            # One more row takes fewer, unless every row of the kind is full already.
            rest = left - whole * each if best < 0 or whole < rows[best] else 0
            left -= whole * each + rest
            for number, more in ((whole, each), (np.int64(1), rest)):
                if number == 0 or more == 0:
                    continue
                if best >= 0 and number == rows[best]:
                    kind = best
                else:
                    kind, kinds = kinds, kinds + 1
                    rooms[kind] = room
                    if best >= 0:
                        lengths[kind], used[kind] = lengths[best], used[best]
                        rows[best] -= number
                rows[kind] = number
                lengths[kind, used[kind] : used[kind] + more] = length
                used[kind] += more
                rooms[kind] -= more * length
    return lengths[:kinds], rows[:kinds]


@kernel
def arrange(
    order: np.ndarray, example_lengths: np.ndarray, row_length: int, sequences: int, key: np.uint64
) -> np.ndarray:
    """Rearranges the examples in `order` row by row, and returns where each row begins, uint32 [rows + 1].

    `order` is random, and `example_lengths` uint32 [examples] says how many tokens each example has. Rows are in random
    order; within a row the examples ascend. Beside its result it takes 4 bytes for each example and for each row.
    """
    counts = np.zeros(row_length + 1, np.int64)
    for example in order:
        counts[example_lengths[example]] += 1
    lengths, rows = row_patterns(counts, sequences)
    first = np.cumsum(counts) - counts
    by_length, following = np.empty(len(order), np.uint32), first.copy()
    for example in order:
        length = example_lengths[example]
        by_length[following[length]] = example
        following[length] += 1

    places = permutation(rows.sum(), key)
    starts = np.zeros(len(places) + 1, np.uint32)
    row = 0
    for kind in range(len(rows)):
        held = np.count_nonzero(lengths[kind])
        for _ in range(rows[kind]):
            starts[places[row] + 1] = held
            row += 1
    for row in range(len(places)):
        starts[row + 1] += starts[row]

    row = 0
    for kind in range(len(rows)):
        held = np.count_nonzero(lengths[kind])
        for _ in range(rows[kind]):
            begin = np.int64(starts[places[row]])
            for slot in range(held):
                length = lengths[kind, slot]
                example = by_length[first[length]]
                first[length] += 1
                place = begin + slot
                while place > begin and order[place - 1] > example:
                    order[place] = order[place - 1]
                    place -= 1
                order[place] = example
            row += 1
    return starts
