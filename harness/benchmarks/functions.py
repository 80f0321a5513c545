"""Documented functions of Python source trees: the docstring is a query, and the body is its answer.

Sources are parsed and never imported, so any tree works: the standard library is a benchmark, and installed packages
are training data.
"""

import ast
import os
import re
import textwrap
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Third-party packages, and tests, whose docstrings describe a case instead of what the code does.
SKIPPED_FOLDERS = {
    "__pycache__", "dist-packages", "idle_test", "idlelib", "lib2to3", "site-packages", "test", "tests", "turtledemo",
}  # fmt: skip
MIN_QUERY_WORDS = 3
MIN_DOCUMENT_CHARACTERS = 20

Node = ast.FunctionDef | ast.AsyncFunctionDef


class Function(NamedTuple):
    """A function as a query and its answer."""

    path: str  # below the root, with forward slashes
    name: str  # qualified, as ArgumentParser.parse_args
    query: str  # first paragraph of the docstring, with single spaces
    document: str  # body after the docstring, without the signature, comments and line breaks as in the source


def functions(root: Path) -> Iterator[Function]:
    """Every function below `root`, nested ones included, with a query of 3 words and a document of 20 characters.

    Abstract methods are left out: 150 docstrings of the standard library would have the same document
    `raise NotImplementedError`. Files and functions come in a fixed order. A file that this Python cannot parse is
    left out.
    """
    for path in _sources(root):
        try:
            with tokenize.open(path) as file:  # follows the coding line of the file
                source = file.read()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in the code of others
                tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, OSError):
            continue
        lines = source.split("\n")  # as ast counts lines: str.splitlines also splits at form feeds
        for name, node in _nested(tree, ""):
            query, document = _query(node), _document(node, lines)
            if len(query.split()) >= MIN_QUERY_WORDS and len(document) >= MIN_DOCUMENT_CHARACTERS:
                yield Function(path.relative_to(root).as_posix(), name, query, document)


def _sources(root: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - SKIPPED_FOLDERS)
        yield from (Path(folder, file) for file in sorted(files) if file.endswith(".py"))


def _nested(parent: ast.AST, prefix: str) -> Iterator[tuple[str, Node]]:
    for child in ast.iter_child_nodes(parent):
        if isinstance(child, ast.expr):
            continue  # an expression contains no definition
        if isinstance(child, Node | ast.ClassDef):
            name = prefix + child.name
            if isinstance(child, Node):
                yield name, child
            yield from _nested(child, f"{name}.")
        else:
            yield from _nested(child, prefix)


def _query(node: Node) -> str:
    docstring = ast.get_docstring(node) or ""
    return " ".join(re.split(r"\n\s*\n", docstring.strip(), maxsplit=1)[0].split())


def _document(node: Node, lines: list[str]) -> str:
    if len(node.body) < 2 or _is_abstract(node):
        return ""
    docstring, first = node.body[0], node.body[1]
    if first.lineno == docstring.end_lineno:  # def f(): "..."; return 1
        before = lines[first.lineno - 1].encode()[: first.col_offset].decode()
        same_line = [" " * len(before) + lines[first.lineno - 1][len(before) :]]
    else:
        same_line = []
    rest = lines[docstring.end_lineno : node.end_lineno]
    return textwrap.dedent("\n".join([*same_line, *rest])).strip()


def _is_abstract(node: Node) -> bool:
    """Whether the body, after the docstring, only raises NotImplementedError."""
    if len(node.body) != 2 or not isinstance(node.body[1], ast.Raise):
        return False
    raised = node.body[1].exc
    error = raised.func if isinstance(raised, ast.Call) else raised
    return isinstance(error, ast.Name) and error.id == "NotImplementedError"
