"""The pages agree with the code: paths, links, commands, options, numbers of lines."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

import engines
from harness.cli import app
from harness.config import read_config
from harness.run.tasks import Selection, prepare
from tests.test_layers import DEEPER, LINES_OF_A_FUNCTION, LINES_OF_A_MODULE, SHARED

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "checkpoints/demo/README.md"])
CURRENT = [page for page in PAGES if page.name not in ("CHANGELOG.md", "LOG.md")]  # those two describe the past
README = ROOT / "README.md"
TREE = ROOT / "docs/tree.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
GLOSSARY = ROOT / "docs/glossary.md"
LONG = "ab bm25-collections check compare deploy gpu harness-cost latency load quantization reliability scaling servers"
LONG_PAGES = [ROOT / f"docs/{name}.md" for name in [*LONG.split(), "speed", "tensorrt-llm"]]
SCREEN = 75  # lines
LISTED = [
    "engines/**/*.py", "harness/**/*.py", "harness/**/*.html", "crispbench/**/*.py", "configs/**/*.*", "scripts/*.py",
    "perf/*.py", "results/published/*.yaml",
]  # fmt: skip
PATH = re.compile(
    r"`((?:engines|harness|crispbench|configs|scripts|perf|tests|docs|checkpoints)/[\w/.-]*\w)(?::(\w+))?`"
)
IMAGINED = {"configs/ci.yaml"}  # a file of the reader's project


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def tree() -> dict[str, str]:
    """Path and description of every line in docs/tree.md."""
    lines: dict[str, str] = {}
    folder = ""
    for line in filter(str.strip, text(TREE).split("```")[1].splitlines()):
        entry, _, description = line.strip().partition("  ")
        if entry.endswith("/"):
            folder = entry
        lines[entry if entry.endswith("/") or not line.startswith(" ") else folder + entry] = description.strip()
    return lines


@pytest.mark.parametrize("pattern", LISTED)
def test_the_tree_has_a_line_for_every_file(pattern: str) -> None:
    files = {name(path) for path in ROOT.glob(pattern) if path.is_file() and "__pycache__" not in path.parts}
    described = tree()
    assert files
    missing = sorted(file for file in files if not described.get(file))
    lines = [f"under {file.rpartition('/')[0]}/: '  {file.rpartition('/')[2]}   what it does'" for file in missing]
    assert not missing, "add to docs/tree.md, " + "; ".join(lines)


def test_every_file_in_the_tree_exists() -> None:
    gone = [entry for entry in tree() if not (ROOT / entry).exists()]
    assert not gone, f"remove from docs/tree.md: {', '.join(gone)}"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(text(page)), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def without_code(markdown: str) -> str:
    return re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_an_existing_file_and_heading(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text(page))):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", [page for page in CURRENT if page != TREE], ids=name)
def test_every_path_and_name_in_a_page_exists(page: Path) -> None:
    wrong = []
    for path, member in PATH.findall(text(page)):
        if path in IMAGINED or "*" in path:
            continue
        file = ROOT / path
        there = file.exists() or file.with_suffix(".py").exists()
        if not there or (member and not re.search(rf"^\s*(def |class )?{member}\b", text(file), flags=re.MULTILINE)):
            wrong.append(f"{path}:{member}" if member else path)
    assert wrong == []


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every crispbench command in a page's code blocks, without comments and shell syntax."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text(page), flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            match = re.search(r"(?:^|[;'] ?|do |run: |\$ )crispbench (.*)", line.strip())
            if match:
                words = re.split(r" #|[;|>'<]", match[1].replace('"', "").replace("...", ""))[0]
                yield shlex.split(words)


def options_of(verb: list[str]) -> set[str]:
    """The options that the command line knows for a verb such as ['baseline', 'save']. Raises KeyError."""
    command = typer.main.get_command(app)
    for word in verb:
        command = command.commands[word]  # type: ignore[attr-defined]
    return {option for parameter in command.params for option in parameter.opts} | {"--help"}


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_every_command_in_a_page_exists_and_has_its_options(page: Path) -> None:
    for words in commands(page):
        verb = words[:2] if words[0] == "baseline" else words[:1]
        if verb[0].startswith("--"):
            continue  # `crispbench --help`
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= options_of(verb), f"crispbench {' '.join(words)}"


def test_the_readme_names_every_verb() -> None:
    verbs = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    section = text(README).split("## Verbs")[1].split("## ")[0]
    assert verbs == set(re.findall(r"^crispbench (\w+)", section, flags=re.MULTILINE))


def test_the_readme_links_to_every_page() -> None:
    pages = {name(page) for page in PAGES} - {"README.md"}
    assert sorted(page for page in pages if f"({page})" not in text(README)) == []


@pytest.mark.parametrize("config", sorted(ROOT.glob("configs/*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_is_valid(config: Path) -> None:
    assert read_config(config).name == config.stem


def test_the_config_in_the_readme_is_valid_and_has_ten_lines(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", text(README), flags=re.DOTALL)
    assert len(example.splitlines()) <= 10
    (tmp_path / "example.yaml").write_text(example, encoding="utf-8")
    assert list(read_config(tmp_path / "example.yaml").engines) == list(yaml.safe_load(example)["engines"])


@pytest.mark.parametrize(("page", "lines"), [(README, 160), (ROOT / "ARCHITECTURE.md", 70)], ids=["README", "ARCH"])
def test_a_front_page_is_short(page: Path, lines: int) -> None:
    assert len(text(page).splitlines()) <= lines


@pytest.mark.parametrize("page", LONG_PAGES, ids=name)
def test_a_long_page_has_three_sections_and_the_first_fits_one_screen(page: Path) -> None:
    sections = re.split(r"^## ", text(page), flags=re.MULTILINE)[1:]
    assert [section.splitlines()[0] for section in sections] == [
        "How to use it", "How it decides", "What was measured"
    ]  # fmt: skip
    assert len(sections[0].splitlines()) <= SCREEN


def test_the_architecture_page_names_every_exception_of_the_layers_and_the_size_limits() -> None:
    page = text(ROOT / "ARCHITECTURE.md")
    names = {*SHARED - {"engines"}, *DEEPER, *(module for modules in DEEPER.values() for module in modules)}
    paths = {module: module.replace(".", "/") for module in names}
    assert sorted(module for module, path in paths.items() if not re.search(rf"`{path}(\.py|/)?`", page)) == []
    assert f"at most {LINES_OF_A_MODULE} lines and a function at most {LINES_OF_A_FUNCTION}" in page


def test_line_counts_in_contributing_are_within_a_tenth_of_the_files() -> None:
    stated = re.findall(r"`([\w/.-]+)`\s\((\d+) lines\)", text(CONTRIBUTING))
    assert len(stated) >= 6
    counted = {path: len(text(ROOT / path).splitlines()) for path, _ in stated}
    wrong = {path: counted[path] for path, lines in stated if abs(int(lines) - counted[path]) > 2 + counted[path] / 10}
    assert not wrong, f"write these numbers of lines into CONTRIBUTING.md: {wrong}"


def test_the_glossary_is_alphabetical_and_every_entry_has_a_reference() -> None:
    entries = re.findall(r"^\*\*(.+?)\*\*: (.+?)(?=^\*\*|\Z)", text(GLOSSARY), flags=re.MULTILINE | re.DOTALL)
    terms = [term.lower() for term, _ in entries]
    assert len(terms) >= 30
    assert terms == sorted(terms)
    assert [term for term, sentence in entries if "`" not in sentence and "](" not in sentence] == []


def test_the_scores_of_the_tour_are_those_of_the_demo_checkpoint() -> None:
    page = text(ROOT / "docs/tour.md")
    config = read_config(ROOT / "configs/demo.yaml")
    (task,) = prepare(config, Selection(benchmarks=("stdlib-code",)))
    if task.benchmark.revision not in page:
        pytest.skip(f"the tour was written for another revision than {task.benchmark.revision}")
    query_id, query = next(iter(task.benchmark.queries.items()))
    doc_ids = task.candidates.lists[query_id]
    assert query_id in page and query in page and task.candidates.sha256[:16] in page
    model = {"model": str(ROOT / "checkpoints/demo"), "template": "demo", "precision": "fp32", "max_tokens": 164}
    with engines.load("torch", model) as engine:
        scores = engine.score([(query, task.benchmark.documents[doc_id]) for doc_id in doc_ids])
    row = r"^\| \*{0,2}([\w.]+)\*{0,2} \| (\d+) \| [\d.]+ \| ([−\d.]+) \| (\d+) \|$"
    rows = re.findall(row, page, flags=re.MULTILINE)
    assert len(rows) == 5
    for name, rank, score, new_rank in rows:
        value = scores[int(rank) - 1]
        assert doc_ids[int(rank) - 1].endswith(f":{name}")
        assert value == pytest.approx(float(score.replace("−", "-")), abs=0.002)
        assert 1 + sum(higher > value for higher in scores) == int(new_rank)


def test_every_line_of_the_changelog_is_short() -> None:
    lines = [line for line in text(ROOT / "CHANGELOG.md").splitlines() if line.startswith("- ")]
    assert lines
    assert [line for line in lines if len(line.split()) > 26] == []
