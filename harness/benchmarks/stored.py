"""Documents that stay on disk: ids are in memory, and a text is read from a memory-mapped Arrow table when it is used.

The table is a `datasets.Dataset`; this module never imports that library.
"""

from collections.abc import Collection, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from typing import Any, Protocol

BATCH = 1000  # rows per read of a whole table: 1 us per row, where single rows take 25 us


class StoredTable(Protocol):
    """The part of a `datasets.Dataset` that is used here."""

    @property
    def column_names(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any) -> Any: ...

    def select_columns(self, names: list[str]) -> "StoredTable": ...


class StoredDocuments(Mapping[str, str]):
    """doc_id -> `(title + " " + text).strip()` over the columns id, text and, if there is one, title.

    The first of several rows with one id counts; `repeated` lists the others.
    """

    def __init__(self, table: StoredTable) -> None:
        self._table = table.select_columns([name for name in ("title", "text") if name in table.column_names])
        self._rows: dict[str, int] = {}
        self.repeated: list[tuple[str, int]] = []  # doc_id and row number of every later copy
        for row, doc_id in enumerate(_column(table, "id")):
            if self._rows.setdefault(str(doc_id), row) != row:
                self.repeated.append((str(doc_id), row))

    def __getitem__(self, doc_id: str) -> str:
        return self.text(self._rows[doc_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, doc_id: object) -> bool:
        return doc_id in self._rows

    def items(self) -> ItemsView[str, str]:
        return _Items(self)

    def values(self) -> ValuesView[str]:
        return _Values(self)

    def text(self, row: int) -> str:
        """The text of a row number."""
        fields: Mapping[str, str | None] = self._table[row]
        return join(fields.get("title"), fields["text"])

    def stream(self) -> Iterator[tuple[str, str]]:
        """Every id and text in the order of the table, with one batch of rows in memory at a time."""
        rows = iter(self._rows.items())
        wanted = next(rows, None)
        for start in range(0, len(self._table), BATCH):
            batch: Mapping[str, Sequence[str | None]] = self._table[start : start + BATCH]
            while wanted is not None and wanted[1] < start + BATCH:
                doc_id, offset = wanted[0], wanted[1] - start
                yield doc_id, join(batch["title"][offset] if "title" in batch else None, batch["text"][offset])
                wanted = next(rows, None)


class Picked(Collection[str]):
    """The texts of some documents, which are read one by one during the iteration."""

    def __init__(self, documents: Mapping[str, str], doc_ids: Collection[str]) -> None:
        self._documents, self._doc_ids = documents, doc_ids

    def __iter__(self) -> Iterator[str]:
        return (self._documents[doc_id] for doc_id in self._doc_ids)

    def __len__(self) -> int:
        return len(self._doc_ids)

    def __contains__(self, text: object) -> bool:
        return any(text == document for document in self)


class _Items(ItemsView[str, str]):
    _mapping: StoredDocuments

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return self._mapping.stream()


class _Values(ValuesView[str]):
    _mapping: StoredDocuments

    def __iter__(self) -> Iterator[str]:
        return (text for _, text in self._mapping.stream())


def join(title: str | None, text: str | None) -> str:
    """Title and text as BEIR and mteb join them; null is the same as empty."""
    return f"{title or ''} {text or ''}".strip()


def _column(table: StoredTable, name: str) -> Iterable[object]:
    for start in range(0, len(table), BATCH):
        yield from table[start : start + BATCH][name]
