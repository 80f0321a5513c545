"""Judgements from a file: BEIR's columns by the names in its header, TREC's four columns, or BEIR's three by position.

Files are read as trec_eval 10 (`get_qrels.c`) and BEIR's `GenericDataLoader` read them. Where both would guess, a line
is refused with its number and the probable cause, because a guess that is wrong changes every measure.
"""

import csv
import itertools
import re
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.benchmarks.base import BenchmarkError, count_warning
from harness.benchmarks.lines import Line, beginning, columns, is_comment, read_lines

# Names of columns without case, hyphens and underscores, the surest first: a file with `qid` and `query` has the text
# of the query in the second. They are those of BEIR, mteb, ir_datasets, PyTerrier, ranx, Pyserini and TREC.
NAMES = {
    "query-id": ("queryid", "qid", "topicid", "questionid", "topic", "query"),
    "corpus-id": ("corpusid", "docid", "docno", "documentid", "did", "cid", "passageid", "pid", "doc", "document"),
    "score": ("score", "grade", "relevance", "label", "rel", "judgment", "judgement"),
}
GRADE = "score"
EXPECTED = "query-id, corpus-id and score separated by tabs, or TREC's four columns"
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?")
# pytrec_eval wraps grades at 2**32, and allocates memory for every grade up to the highest: 8 GB for 999,999,999.
MOST_GRADE = 999_999


class Judgements(NamedTuple):
    """The judgements of a file."""

    path: Path
    grades: dict[str, dict[str, int]]  # query_id -> doc_id -> grade, in the order of the file
    first_lines: dict[str, int]  # query_id -> number of the first line that judges it
    spaced: dict[str, int]  # ids that hold white space -> number of their first line
    warnings: tuple[str, ...]

    def refuse_spaced(self, known: Sequence[Container[str]], reason: str) -> None:
        """Raise BenchmarkError for an id with white space that none of the `known` collections of ids holds."""
        for identifier, line in self.spaced.items():
            if not any(identifier in ids for ids in known):
                raise BenchmarkError(
                    f"{self.path}:{line}: id {beginning(identifier)} holds white space, and {reason}; "
                    "separate the columns by one tab each, and write ids without white space"
                )


class Layout(NamedTuple):
    """The position of the three columns in a line."""

    query: int
    document: int
    grade: int
    width: int  # columns of a line
    header: bool  # whether a first line names the columns
    first: int  # number of the line that shows the layout


class Judgement(NamedTuple):
    """A line of the file."""

    line: int
    query_id: str
    doc_id: str
    grade: int


def read_qrels(path: Path) -> Judgements:
    """The judgements of a file, plain or gzip. Raises BenchmarkError with the line and the probable cause.

    A line that begins with `#` is a comment, as in trec_eval 10; below a header it is one only if it does not judge.
    A line that repeats a judgement counts once and is counted in `warnings`; one that contradicts it is refused.
    """
    grades: dict[str, dict[str, int]] = {}
    first_lines: dict[str, int] = {}
    spaced: dict[str, int] = {}
    repeated: list[str] = []
    comments: list[str] = []
    lines: dict[tuple[str, str], int] = {}
    for line, query_id, doc_id, grade in _judgements(path, comments):
        first = lines.setdefault((query_id, doc_id), line)
        if first != line:
            repeated.append(f"line {line}")
        if grades.setdefault(query_id, {}).setdefault(doc_id, grade) != grade:
            raise BenchmarkError(
                f"{path}:{line}: query {beginning(query_id)}, document {beginning(doc_id)} has grade {grade}, "
                f"but {grades[query_id][doc_id]} in line {first}; keep one of them"
            )
        first_lines.setdefault(query_id, line)
        for identifier in (query_id, doc_id):
            if identifier.split() != [identifier]:
                spaced.setdefault(identifier, line)
    if not grades:
        raise BenchmarkError(
            f"{path}: the file has no judgement, only a header, comments or blank lines; expected {EXPECTED}"
        )
    if not any(grade > 0 for judged in grades.values() for grade in judged.values()):
        raise BenchmarkError(
            f"{path}: no grade above 0 in {len(lines)} judgements; nothing can be measured; check that this is the "
            "right file, or `split`"
        )
    warnings = (
        *count_warning(repeated, f"{path.name}: judgements that repeat an earlier line and count once"),
        *count_warning(comments, f"{path.name}: lines that look like judgements but are comments, because of their #"),
    )
    return Judgements(path, grades, first_lines, spaced, warnings)


def grade_of(text: str) -> int | None:
    """The whole number that a text such as `2` or `2.0` means; None for another text or a million and more."""
    if not NUMBER.fullmatch(text):
        return None
    number = float(text)
    return int(number) if number.is_integer() and abs(number) <= MOST_GRADE else None


def _judgements(path: Path, comments: list[str]) -> Iterator[Judgement]:
    """Every judgement of the file. Comments that look like one are added to `comments`."""
    lines = read_lines(path)
    above = []
    first = next(lines, None)
    while first is not None and is_comment(first.text):
        above.append(first)
        first = next(lines, None)
    if first is None:
        return
    named = _by_names(first, path)
    layout = named or _by_position(first, path)
    comments += [f"line {line.number}" for line in above if _judges(line.text, layout)]
    for line in lines if named else itertools.chain([first], lines):
        if not is_comment(line.text) or (named and _judges(line.text, layout)):
            yield _judgement(line, layout, path)
        elif _judges(line.text, layout):
            comments.append(f"line {line.number}")


def _judges(text: str, layout: Layout) -> bool:
    cells = _cells(text, layout)
    return len(cells) == layout.width and grade_of(cells[layout.grade]) is not None


def _by_names(line: Line, path: Path) -> Layout | None:
    """The layout that a header states; None if the line is no header."""
    for cells in (_between_tabs(line.text), list(map(_unquoted, columns(line.text)))):
        places = _places(cells)
        if len(places) == len(NAMES) and len(places[GRADE]) > 1:
            raise BenchmarkError(
                f"{path}:{line.number}: the header {beginning(line.text)} has {len(places[GRADE])} columns that could "
                f"hold the grade; keep one of them, named {GRADE}"
            )
        if len(places) == len(NAMES):
            query, document, grade = (places[role][0] for role in NAMES)
            return Layout(query, document, grade, len(cells), header=True, first=line.number)
    return None


def _places(cells: Sequence[str]) -> dict[str, list[int]]:
    """The positions of the columns that may have a role, the surest first; only roles that a name states."""
    names = [re.sub("[-_ ]", "", cell).lower() for cell in cells]
    found = {role: [names.index(name) for name in known if name in names] for role, known in NAMES.items()}
    return {role: positions for role, positions in found.items() if positions}


def _by_position(line: Line, path: Path) -> Layout:
    """The layout of a file without a header, from its first line."""
    cells = columns(line.text)
    if len(cells) in (3, 4) and NUMBER.fullmatch(_unquoted(cells[-1])):
        return Layout(0, len(cells) - 2, len(cells) - 1, len(cells), header=False, first=line.number)
    raise BenchmarkError(f"{path}:{line.number}: {beginning(line.text)} is not a judgement; {_first_cause(line.text)}")


def _first_cause(text: str) -> str:
    """The probable reason why the first line shows no layout, and the next step."""
    cells = columns(text)
    if "\r" in text:
        return f"its lines seem to end with a carriage return alone, convert them to line feeds; expected {EXPECTED}"
    if text.lstrip().startswith(("{", "[")):
        return f"it looks like JSON; expected {EXPECTED}"
    if len(cells) < 3 and text.count(",") >= 2:
        return f"its columns seem to be separated by commas; expected {EXPECTED}"
    if len(cells) >= 6 and NUMBER.match(cells[4]):
        return f"it looks like a line of a run file, were the two files exchanged? Expected {EXPECTED}"
    if len(cells) >= 3 and not any(map(NUMBER.fullmatch, cells)):
        missing = [role for role in NAMES if role not in _places(cells)]
        return (
            f"the first line looks like a header, but no column of it is {' or '.join(missing)}; "
            f"name its columns {', '.join(NAMES)}"
        )
    return f"it has {len(cells)} columns; expected {EXPECTED}"


def _judgement(line: Line, layout: Layout, path: Path) -> Judgement:
    cells = _cells(line.text, layout)
    if len(cells) != layout.width:
        raise BenchmarkError(
            f"{path}:{line.number}: {beginning(line.text)} is not a judgement: it has {len(cells)} columns, and "
            f"{layout.width} are expected as in line {layout.first}; is white space inside an id, or a column missing?"
        )
    query_id, doc_id, grade_text = (cells[place] for place in (layout.query, layout.document, layout.grade))
    if not (query_id and doc_id and grade_text):
        raise BenchmarkError(f"{path}:{line.number}: {beginning(line.text)} is not a judgement; expected {EXPECTED}")
    grade = grade_of(grade_text)
    if grade is None:
        raise BenchmarkError(
            f"{path}:{line.number}: grade {beginning(grade_text)} is not a whole number below a million; "
            "repair the line, or scale all grades to whole numbers"
        )
    return Judgement(line.number, query_id, doc_id, grade)


def _cells(text: str, layout: Layout) -> list[str]:
    """The columns of a line. A header decides: tabs if they give its number of columns, else any white space."""
    if not layout.header:
        cells = columns(text)
        return cells if layout.width == 4 else list(map(_unquoted, cells))  # trec_eval does not know quotes
    cells = _between_tabs(text)
    return cells if len(cells) == layout.width else list(map(_unquoted, columns(text)))


def _between_tabs(text: str) -> list[str]:
    """The fields as BEIR's loader reads them, by `csv` with tabs and double quotes, without empty ones at the end."""
    try:
        cells = next(csv.reader([text], delimiter="\t", strict=True), []) if '"' in text else text.split("\t")
    except csv.Error:  # a quote that nothing closes is a letter of the id
        cells = text.split("\t")
    cells = [cell.strip() for cell in cells]
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _unquoted(cell: str) -> str:
    quoted = len(cell) > 1 and cell.startswith('"') and cell.endswith('"')
    return cell[1:-1].replace('""', '"') if quoted else cell
