"""A store whose pages refer to one page many times: a small file that seems to hold more rows than anyone can read.

The format is https://www.sqlite.org/fileformat2.html, sections 1.3 (header) and 1.6 (pages of b-trees).
"""

import sqlite3
import struct
from contextlib import closing
from pathlib import Path

LEAF, INTERIOR = 0x0A, 0x02  # pages of an index, as tables WITHOUT ROWID have them
CELLS = 30  # pointers in a page


def repeat_a_page(store: Path, *, table: str, levels: int) -> None:
    """Put `levels` pages above a table's only page; each refers to the page below it 31 times."""
    with closing(sqlite3.connect(store)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    data = bytearray(store.read_bytes())
    leaf = bytes(data[(root - 1) * size : root * size])
    assert leaf[0] == LEAF, f"{table} has more than one page"
    cell = _first_cell(leaf)
    data += leaf  # the page moves behind all others
    for _ in range(levels - 1):
        data += _page_of_pointers(len(data) // size, cell, size)
    data[(root - 1) * size : root * size] = _page_of_pointers(len(data) // size, cell, size)
    data[28:32] = struct.pack(">I", len(data) // size)
    store.write_bytes(data)


def _first_cell(leaf: bytes) -> bytes:
    """A cell of a leaf with its size, which has one byte in a short cell."""
    (place,) = struct.unpack_from(">H", leaf, 8)
    assert leaf[place] < 0x80
    return leaf[place : place + 1 + leaf[place]]


def _page_of_pointers(child: int, cell: bytes, size: int) -> bytes:
    """An interior page whose cells all refer to one child."""
    page = bytearray(size)
    whole = struct.pack(">I", child) + cell
    places = [size - (number + 1) * len(whole) for number in range(CELLS)]
    struct.pack_into(">BHHHBI", page, 0, INTERIOR, 0, CELLS, places[-1], 0, child)
    for number, place in enumerate(places):
        struct.pack_into(">H", page, 12 + 2 * number, place)
        page[place : place + len(whole)] = whole
    return bytes(page)
