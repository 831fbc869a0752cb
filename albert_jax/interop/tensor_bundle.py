"""TensorFlow's index files, checked before TensorFlow sees them: at an unsound one it takes whatever memory the file
claims, or ends the process, which nobody can catch. The format is LevelDB's table of keys to protocol buffers
(tensor_bundle.proto); no TensorFlow is needed to check it."""

import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from albert_jax.errors import UserError
from albert_jax.files import read_file

MAX_BYTES = 2**26  # of an index; a variable takes about a hundred bytes in it
MAGIC = 0xDB4775248B80FB57
FOOTER = 48
# TensorFlow's numbers of types and the bytes of one value; of a string at least the byte of its length.
SIZES = {1: 4, 2: 8, 3: 4, 4: 1, 5: 2, 6: 1, 7: 1, 8: 8, 9: 8, 10: 1, 14: 2, 17: 2, 19: 2, 22: 4, 23: 8}
STRING = 7
MAX_RANK = 254
KEY_BYTES = 5
"""Protocol buffers take no field whose key or size is written in more."""


def require_sound_index(path: Path, shards: Sequence[Path]) -> None:
    """Raises `UserError` unless every entry is a tensor that lies, with the bytes that its shape needs, within one of
    the data files, and all together take no more than these hold."""
    data = read_file(path, MAX_BYTES)
    rooms = [(shard, shard.stat().st_size) for shard in shards]
    try:
        entries = list(_entries(data))
        if not entries or entries[0][0]:
            raise ValueError("its first entry is no header")
        needed = sum(_require_within(key, value, rooms) for key, value in entries[1:])
    except (ValueError, IndexError, struct.error) as error:
        raise UserError(f"{path}: damaged, or no TensorFlow checkpoint ({error})") from error
    room = sum(size for _, size in rooms)
    if needed > room:
        raise UserError(f"{path}: damaged, claims {needed:,} bytes of parameters where the data has {room:,}")


def _entries(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table. Raises ValueError or IndexError for what is none."""
    footer = data[-FOOTER:]
    if len(footer) < FOOTER or int.from_bytes(footer[-8:], "little") != MAGIC:
        raise ValueError("no table's footer")
    at = 0
    handles = []
    for _ in range(4):  # offset and size of a block that is not used, then of the index block
        number, at = _varint(footer, at)
        handles.append(number)
    for _, handle in _block(data, handles[2], handles[3]):
        offset, at = _varint(handle, 0)
        size, _ = _varint(handle, at)
        yield from _block(data, offset, size)


def _block(data: bytes, offset: int, size: int) -> list[tuple[bytes, bytes]]:
    """A block's keys, each written as what differs from the one before, and their values."""
    if size < 8 or offset + size + 5 > len(data) - FOOTER:
        raise ValueError("a block leads out of the file")
    if data[offset + size] != 0:
        raise ValueError("a block is compressed, which TensorFlow does not do")
    block = data[offset : offset + size]
    (count,) = struct.unpack_from("<I", block, size - 4)
    stop = size - 4 - 4 * count
    if stop < 0:
        raise ValueError("a block has no room for its entries")
    entries, starts, at, key = [], set(), 0, b""
    while at < stop:
        start = at
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + fresh + length > stop:
            raise ValueError("an entry leads out of its block")
        if not shared:
            starts.add(start)
        key = key[:shared] + block[at : at + fresh]
        entries.append((key, block[at + fresh : at + fresh + length]))
        at += fresh + length
    # TensorFlow enters a block here: elsewhere than at an entry it would see what is not checked.
    if not starts.issuperset(struct.unpack_from(f"<{count}I", block, stop)) and entries:
        raise ValueError("a block can be entered between its entries")
    return entries


def _require_within(key: bytes, value: bytes, rooms: Sequence[tuple[Path, int]]) -> int:
    """The bytes of an entry's tensor. Raises ValueError for an unsound entry, UserError for one that ends behind its
    data file."""
    name = repr(key[:100].decode(errors="replace"))
    fields = {1: 0, 3: 0, 4: 0, 5: 0}  # type, number of the data file, offset, size
    shape: list[int] = []
    for number, kind, content in _fields(value):
        if number in fields and kind == 0:
            fields[number] = content
        elif number == 2 and kind == 2:
            shape += _dimensions(content, name)
        elif number == 7:
            raise ValueError(f"{name} is partitioned, which is not read; save it whole")
        elif (number, kind) != (6, 5):  # the checksum
            raise ValueError(f"{name} has field {number}, which no variable has")
    type_number, shard, offset, size = fields.values()
    if type_number not in SIZES:
        raise ValueError(f"{name} is of type {type_number}, which is none of numbers or texts")
    if len(shape) > MAX_RANK or min(shape, default=0) < 0:
        raise ValueError(f"{name} has an impossible shape")
    needed = math.prod(shape) * SIZES[type_number]
    if needed > size or (needed < size and type_number != STRING):
        raise ValueError(f"{name} of shape {shape[:8]} needs {needed:,} bytes and has {size:,}")
    if shard >= len(rooms):
        raise ValueError(f"{name} is in data file {shard} of {len(rooms)}")
    file, room = rooms[shard]
    if offset + size > room:
        raise UserError(
            f"{file}: {name} cannot be read: it ends at byte {offset + size:,} of {room:,}; the file is "
            "truncated, or of another checkpoint"
        )
    return size


def _dimensions(message: bytes, name: str) -> list[int]:
    """The sizes of a TensorShapeProto."""
    sizes = []
    for number, kind, content in _fields(message):
        if (number, kind) != (2, 2):
            raise ValueError(f"{name} has a shape of no known rank")
        size = 0
        for inner, inner_kind, value in _fields(content):
            if (inner, inner_kind) == (1, 0):
                size = value
            elif (inner, inner_kind) == (2, 2):
                value.decode()  # the dimension's name
            else:
                raise ValueError(f"{name} has a shape that is none")
        if size >= 2**63:
            raise ValueError(f"{name} has an impossible shape")
        sizes.append(size)
    return sizes


def _fields(message: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Number, wire type and content of a message's fields: numbers, bytes, or the 4 bytes of a fixed number."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at, KEY_BYTES)
        number, kind = key >> 3, key & 7
        if kind == 0:
            content, at = _varint(message, at)
        elif kind in (2, 5):
            size, at = _varint(message, at, KEY_BYTES) if kind == 2 else (4, at)
            content, at = message[at : at + size], at + size
        else:
            raise ValueError(f"an entry has a field of wire type {kind}")
        if at > len(message) or number == 0:
            raise ValueError("an entry is cut short")
        yield number, kind, content


def _varint(data: bytes, at: int, most_bytes: int = 10) -> tuple[int, int]:
    """A number of at most 64 bits, and where it ends."""
    value = 0
    for shift in range(0, 7 * most_bytes, 7):
        byte = data[at + shift // 7]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 2**64:
                break
            return value, at + shift // 7 + 1
    raise ValueError("a number is too long")
