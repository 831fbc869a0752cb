"""The ids of words already seen, in a compiled hash table: SentencePiece needs to see each word once.

Where no piece crosses a space, the best segmentation of a line is those of its words, one behind the other.
Most of a text are a few thousand words, and looking one up costs a tenth of segmenting it. SentencePiece still
does all the segmenting, of each word alone, so that ids never depend on what the table holds.

All kernels that call each other are in this file: numba's cache does not notice changes in others.
"""

from collections.abc import Callable, Sequence

import numba
import numpy as np

# At the start of a batch a table with more words is emptied: about 85 MB. The words of English come back at
# once, and the rare ones, which fill it, were hardly worth keeping.
MAX_WORDS = 1 << 20
_CHUNK_BYTES = 8  # words are read and compared so many bytes at a time
_ONES = np.uint64(0x0101010101010101)
_SPACES = np.uint64(0x2020202020202020)


class WordTable:
    """Words by number, and their ids. Not for several threads at once.

    Attributes:
        count: how many words it holds.
    """

    def __init__(self, encode: Callable[[Sequence[bytes]], tuple[np.ndarray, np.ndarray]], max_words: int = MAX_WORDS):
        """`encode` gives the ids of words, uint16, end to end, and how many each has; see
        `AlbertTokenizer.encode_words`."""
        self._encode, self._max_words = encode, max_words
        # A slot is 0 or holds the upper half of a hash and, in the lower half, the word's number + 1.
        self._slots = np.zeros(1 << 10, np.uint64)
        # Word n has the key keys[key_starts[n] : key_starts[n + 1]], and its ids likewise.
        self._keys = np.empty(0, np.uint64)
        self._ids = np.empty(0, np.uint16)
        self._key_starts, self._id_starts = np.zeros((2, 1), np.int64)
        self.count = 0

    def look_up(self, text: bytes, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """The numbers, int32, of all words of the lines text[starts[n] : ends[n]], valid until the next call.

        Behind a line there must be a space, unless the text ends there.
        """
        if self.count > self._max_words:
            self._clear()
        most = text.count(b" ") + len(starts)
        self._reserve(most, most + len(text) // _CHUNK_BYTES)
        numbers, (new_starts, new_ends) = np.empty(most, np.int32), np.empty((2, most), np.int64)
        raw = np.frombuffer(text + b" " * (3 * _CHUNK_BYTES - len(text) % _CHUNK_BYTES), "<u8")
        arrays = (self._slots, self._keys, self._key_starts, numbers, new_starts, new_ends)
        try:
            found, count = _find_words(raw, starts, ends, self.count, *arrays)
            if count > self.count:
                new = count - self.count
                places = zip(new_starts[:new].tolist(), new_ends[:new].tolist(), strict=True)
                ids, lengths = self._encode([text[start:end] for start, end in places])
                first = self._id_starts[self.count]
                self._ids = _grown(self._ids, first + len(ids))
                self._ids[first : first + len(ids)] = ids
                self._id_starts[self.count + 1 : count + 1] = first + np.cumsum(lengths)
                self.count = count
        except BaseException:
            self._clear()  # the new words have no ids
            raise
        return numbers[:found]

    def join(
        self, numbers: np.ndarray, words: np.ndarray, *, apart: np.ndarray, tokens: np.ndarray, lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ids of sentences, uint16, end to end, and how many each has.

        Args:
            numbers: what `look_up` gave for the sentences that are not `apart`.
            words: int64 [sentences].
            apart: bool [sentences], those of which the ids are given already.
            tokens, lengths: the ids of those, end to end, and their numbers.
        """
        if words[~apart].sum() != len(numbers):
            raise AssertionError("sentences and lines have different numbers of words")
        joined = np.empty(len(tokens) + _count_ids(numbers, self._id_starts), np.uint16)
        joined_lengths = np.empty(len(words), np.int64)
        _join(numbers, words, apart, tokens, lengths, self._ids, self._id_starts, joined, joined_lengths)
        return joined, joined_lengths

    def _clear(self) -> None:
        self._slots.fill(0)
        self.count = 0

    def _reserve(self, words: int, chunks: int) -> None:
        """Makes room for so many more words, with so many more chunks in their keys."""
        words += self.count
        self._key_starts = _grown(self._key_starts, words + 1)
        self._id_starts = _grown(self._id_starts, words + 1)
        # And for the key of one word more: each is written behind the others before it is looked for.
        self._keys = _grown(self._keys, int(self._key_starts[self.count]) + chunks + 1)
        if 2 * words > len(self._slots):
            self._slots = np.zeros(1 << (2 * words).bit_length(), np.uint64)
            _place_words(self._slots, self._keys, self._key_starts, self.count)


def _grown(array: np.ndarray, size: int) -> np.ndarray:
    """The array, if need be copied into one of at least `size`."""
    if size <= len(array):
        return array
    larger = np.empty(max(size, len(array) * 3 // 2), array.dtype)
    larger[: len(array)] = array
    return larger


@numba.njit(cache=True, nogil=True)
def _mix(value: np.uint64, chunk: np.uint64) -> np.uint64:
    """The hash of what was before and of one chunk more."""
    value = (value ^ chunk) * np.uint64(0x9E3779B97F4A7C15)
    return value ^ (value >> np.uint64(29))


@numba.njit(cache=True, nogil=True)
def _place_words(slots, keys, key_starts, count):
    """Fills empty slots with the first `count` words."""
    mask = np.uint64(len(slots) - 1)
    for number in range(count):
        value = np.uint64(0)
        for i in range(key_starts[number], key_starts[number + 1]):
            value = _mix(value, keys[i])
        place = value & mask
        while slots[place] != 0:
            place = (place + np.uint64(1)) & mask
        slots[place] = (value >> np.uint64(32)) << np.uint64(32) | np.uint64(number + 1)


@numba.njit(cache=True, nogil=True)
def _find_words(text, starts, ends, count, slots, keys, key_starts, numbers, new_starts, new_ends):
    """Numbers the words of the lines and adds those not there; returns how many were read, and how many
    there are.

    text: uint64 [at least one more than the lines need], eight bytes each, a space behind every line.
    new_starts, new_ends: where the words that were added stand in it, in bytes.
    """
    before, found = count, 0
    mask, low_half = np.uint64(len(slots) - 1), np.uint64(0xFFFFFFFF)
    one, three, seven = np.uint64(1), np.uint64(3), np.uint64(7)
    for line in range(len(starts)):
        i, end = np.uint64(starts[line]), np.uint64(ends[line])
        while i < end:
            start = i
            key_start = key_end = key_starts[count]
            value = np.uint64(0)
            while True:
                # Eight bytes from any place on: the shift by 64 - 0, which is none, is made of two.
                shift = (i & seven) << three
                chunk = text[i >> three] >> shift | text[(i >> three) + one] << one << (np.uint64(63) - shift)
                # The highest bit of each byte that is a space; above the first one it may err.
                marked = chunk ^ _SPACES
                marked = (marked - _ONES) & ~marked & (_ONES << seven)
                if marked:
                    break
                value = _mix(value, chunk)
                keys[key_end] = chunk
                key_end += 1
                i += np.uint64(8)
            first = (marked & (~marked + one)) >> seven  # 1 in the byte of the space
            rest = first * np.uint64(0x0001020304050607) >> np.uint64(56)  # how many bytes are before it
            if rest:
                # Marked with its length by a byte that UTF-8 has not, so that different words differ.
                chunk = chunk & (first - one) | (np.uint64(0xF8) + rest) << np.uint64(56)
                value = _mix(value, chunk)
                keys[key_end] = chunk
                key_end += 1
                i += rest
            if i == start:
                i += one
                continue
            tag = value >> np.uint64(32)
            place = value & mask
            number = -1
            while slots[place] != 0:
                if slots[place] >> np.uint64(32) == tag:
                    number = np.int64(slots[place] & low_half) - 1
                    other = key_starts[number]
                    same = key_starts[number + 1] - other == key_end - key_start
                    j = 0
                    while same and j < key_end - key_start:
                        same = keys[other + j] == keys[key_start + j]
                        j += 1
                    if same:
                        break
                    number = -1
                place = (place + np.uint64(1)) & mask
            if number < 0:
                number = count
                slots[place] = tag << np.uint64(32) | np.uint64(number + 1)
                new_starts[count - before], new_ends[count - before] = np.int64(start), np.int64(i)
                count += 1
                key_starts[count] = key_end
            numbers[found] = number
            found += 1
            i += one
    return found, count


@numba.njit(cache=True, nogil=True)
def _count_ids(numbers, id_starts):
    total = 0
    for number in numbers:
        total += id_starts[number + 1] - id_starts[number]
    return total


@numba.njit(cache=True, nogil=True)
def _join(numbers, words, apart, tokens, lengths, ids, id_starts, joined, joined_lengths):
    """Fills the last two arrays; see `WordTable.join`."""
    word = given = given_token = size = 0
    for sentence in range(len(words)):
        start = size
        if apart[sentence]:
            for _ in range(lengths[given]):
                joined[size] = tokens[given_token]
                given_token += 1
                size += 1
            given += 1
        else:
            for _ in range(words[sentence]):
                number = numbers[word]
                word += 1
                for i in range(id_starts[number], id_starts[number + 1]):
                    joined[size] = ids[i]
                    size += 1
        joined_lengths[sentence] = size - start
