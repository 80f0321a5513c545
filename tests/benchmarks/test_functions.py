"""Functions are extracted from source files without any change to their text."""

import warnings
from pathlib import Path

import pytest

from harness.benchmarks.functions import Function, functions

BODY = "    first = 1  # a reason\n\n    return first + 41\n"


def extracted(root: Path, source: str, file: str = "module.py") -> list[Function]:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(source.encode())
    return list(functions(root))


def test_the_first_paragraph_is_the_query_and_the_body_is_the_document(tmp_path: Path) -> None:
    source = f'def answer(x: int) -> int:\n    """Compute the\n    one answer.\n    \n    More words.\n    """\n{BODY}'
    assert extracted(tmp_path, source) == [
        Function("module.py", "answer", "Compute the one answer.", "first = 1  # a reason\n\nreturn first + 41")
    ]


def test_names_are_qualified_and_keep_the_order_of_the_source(tmp_path: Path) -> None:
    source = f"""
class Outer:
    def method(self):
        "Does one thing."
        if self:
            class Inner:
                async def deep(self):
                    "Does another thing."
                    await self.something_long()
        return "at least twenty characters"
try:
    pass
except ImportError:
    def fallback():
        "Does it instead."
    {BODY.replace(chr(10), chr(10) + "    ")}
"""
    assert [function.name for function in extracted(tmp_path, source)] == [
        "Outer.method",
        "Outer.method.Inner.deep",
        "fallback",
    ]


@pytest.mark.parametrize(
    "source",
    [
        f"def undocumented():\n{BODY}",
        'def only_a_docstring():\n    "Describes its purpose."\n',
        f'def two_words():\n    "Too short."\n{BODY}',
        'def short_body():\n    "Has three words."\n    return 1\n',
        'def abstract():\n    "Has three words."\n    raise NotImplementedError\n',
        'def abstract():\n    "Has three words."\n    raise NotImplementedError("in a subclass")  # later\n',
        "def broken(:\n",
        'def null():\n    "Has a null byte."\0\n',
    ],
)
def test_functions_without_a_usable_docstring_or_body_are_left_out(tmp_path: Path, source: str) -> None:
    assert extracted(tmp_path, source) == []


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages", "test", "package/tests", "idlelib/idle_test"])
def test_tests_and_other_packages_are_left_out(tmp_path: Path, folder: str) -> None:
    source = f'def documented():\n    "Has three words."\n{BODY}'
    assert extracted(tmp_path, source, f"{folder}/module.py") == []
    assert len(extracted(tmp_path, source, "package/module.py")) == 1


def test_a_root_folder_named_site_packages_is_read(tmp_path: Path) -> None:
    assert extracted(tmp_path / "site-packages", f'def documented():\n    "Has three words."\n{BODY}')


@pytest.mark.parametrize(
    "source",
    [
        'x = "\x0c"  # a form feed ends no line\ndef f():\n    "Has three words."\n    return "twenty characters"\n',
        'def f(): "Has three words."; return "twenty characters"\n',
        'def f(é="é"): "Has three words."; return "twenty characters"\n',
        'def f():\r\n    "Has three words."\r\n    return "twenty characters"\r\n',
        '# -*- coding: utf-8 -*-\ndef f():\n\n    "Has three words."; return "twenty characters"\n',
    ],
)
def test_the_body_begins_where_the_parser_locates_it(tmp_path: Path, source: str) -> None:
    assert [function.document for function in extracted(tmp_path, source)] == ['return "twenty characters"']


def test_a_file_is_read_in_its_declared_encoding(tmp_path: Path) -> None:
    source = '# coding: latin-1\ndef f():\n    "Has three wörds."\n    return "twenty characters"\n'
    (tmp_path / "old.py").write_bytes(source.encode("latin-1"))
    assert [function.query for function in functions(tmp_path)] == ["Has three wörds."]


def test_invalid_escapes_in_foreign_code_raise_no_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert extracted(tmp_path, 'def f():\n    "Has three words."\n    return "\\d twenty characters"\n')
