"""A YAML file means what is written: numbers with one meaning, keys that are text, and the line of what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.base import BadOptions
from engines.yaml_file import YamlDocument, read_yaml


def written(folder: Path, text: str) -> YamlDocument:
    path = folder / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return read_yaml(path)


def refused(folder: Path, text: str) -> str:
    with pytest.raises(BadOptions) as raised:
        written(folder, text)
    message = str(raised.value)
    assert message.startswith(f"{folder / 'file.yaml'}: ") and "\n" not in message
    return message.removeprefix(f"{folder / 'file.yaml'}: ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-7", -7),
        ("+7", 7),
        ("0", 0),
        ("0x1F", 31),
        ("2.50", 2.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),  # text in YAML 1.1
        ("1.5e3", 1500.0),  # text in PyYAML, which asks for a sign
        ("-2E-2", -0.02),
        ("1.2.3", "1.2.3"),
        ("3/16", "3/16"),
        ("1,000", "1,000"),
        ("2026-11-28", "2026-11-28"),  # a date in YAML 1.1
        ("y", "y"),
        ("yes", True),
        ("off", False),
        ("~", None),
        ("name", "name"),
        ("'0100'", "0100"),
        ('"no"', "no"),
    ],
)
def test_a_plain_word_is_the_value_that_it_shows(tmp_path: Path, text: str, value: object) -> None:
    content = written(tmp_path, f"option: {text}").content
    assert isinstance(content, dict)
    assert (content["option"], type(content["option"])) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("0100", "begins with a zero, which is octal in YAML 1.1 and decimal in YAML 1.2: write 100 for decimal"),
        ("-007", "write -7 for decimal"),
        ("08", "write 8 for decimal"),
        ("00.5", "write 0.5 for decimal"),
        ("1_000", "is a number in YAML 1.1 and text in YAML 1.2: write 1000"),
        ("1:40", "is a number to base 60 in YAML 1.1: write the number in decimal"),
        ("1:40:00.5", "base 60"),
        ("0o17", "write the number in decimal"),
        ("0b101", "write the number in decimal"),
        (".inf", "is not a finite number"),
        ("-.INF", "is not a finite number"),
        (".NaN", "is not a finite number"),
        ("1e999", "is not a finite number"),
        ("12e4567", "or put it in quotes if it is text"),  # the beginning of a commit
    ],
)
def test_a_number_with_two_meanings_is_refused_with_its_line_and_what_to_write(
    tmp_path: Path, text: str, instead: str
) -> None:
    message = refused(tmp_path, f"first: 1\nsecond:\n  - {text}\n")
    assert message.startswith(f"line 3: {text} ") and instead in message
    assert "or put it in quotes if it is text" in message


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("on", "read as true or false"),
        ("No", "read as true or false"),
        ("true", "read as true or false"),
        ("12", "read as a number"),
        ("0100", "read as a number"),
        ("1.5", "read as a number"),
        ("null", "empty"),
        ("~", "empty"),
    ],
)
def test_a_key_that_is_not_text_says_that_it_needs_quotes(tmp_path: Path, key: str, what: str) -> None:
    assert refused(tmp_path, f"engines:\n  {key}: 1\n") == f"line 2: key {key} is {what}: put it in quotes"
    assert written(tmp_path, f"engines:\n  '{key}': 1\n").content == {"engines": {key: 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "line 2: key 'a' occurs twice"),
        ("a:\n\tb: 1\n", "line 2, column 1: found character '\\t' that cannot start any token; indent with spaces"),
        ("a: @b\n", "line 1, column 4: found character '@' that cannot start any token; put text that begins with"),
        ("a: b: c\n", "line 1, column 5: mapping values are not allowed here; put text that holds a colon in quotes"),
        ("a: 'b\n", "close every quote"),
        ("a: {b: 1\nc: 2\n", "close every bracket"),
        ("a: 1\n---\nb: 1\n", "line 2, column 1: but found another document; keep one document per file"),
        ("a: *b\n", "line 1: alias 'b' names nothing before it"),
    ],
)
def test_a_file_that_is_not_yaml_is_refused_with_line_and_probable_cause(
    tmp_path: Path, text: str, message: str
) -> None:
    assert message in refused(tmp_path, text)


def test_a_file_in_another_encoding_names_the_line_of_its_first_byte(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_bytes("a: 1\nb: \xe9t\xe9\n".encode("latin-1"))
    with pytest.raises(BadOptions, match=r"line 2: byte 0xe9 is not UTF-8: save it as UTF-8"):
        read_yaml(tmp_path / "file.yaml")


def test_every_value_has_the_line_of_its_key(tmp_path: Path) -> None:
    document = written(
        tmp_path,
        "name: x\nengines:\n  a: &a\n    kind: fake\n    seed: 1\n  b: {<<: *a,\n    seed: 2}\nlist:\n- 1\n-\n  c: 2\n",
    )
    assert document.content == {
        "name": "x",
        "engines": {"a": {"kind": "fake", "seed": 1}, "b": {"kind": "fake", "seed": 2}},
        "list": [1, {"c": 2}],
    }
    lines = {
        ("name",): 1,
        ("engines", "a"): 3,
        ("engines", "a", "seed"): 5,
        ("engines", "b", "seed"): 7,
        ("engines", "b", "kind"): 4,  # the line of the merged value
        ("list", 0): 9,
        ("list", 1, "c"): 11,
    }
    assert {location: document.line_of(location) for location in lines} == lines
    assert document.line_of(("engines", "b", "not there")) == 6  # the nearest value around it


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_that_python_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, number: float) -> None:
    content = written(tmp_path_factory.getbasetemp(), f"n: {number!r}").content
    assert content == {"n": number}
