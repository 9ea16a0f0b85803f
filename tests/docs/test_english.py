"""The documentation, docstrings, comments and messages are in plain English: english.py says what that means."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.english import LONGEST, WORDS, findings, found, of_module, of_page

LONG = "Word" + " word" * LONGEST + "."


@pytest.mark.slow
def test_pages_docstrings_comments_and_messages_are_in_plain_english() -> None:
    assert found() == []


def _found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> list[str]:
    monkeypatch.setattr("tests.docs.english.ROOT", tmp_path)
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    read = of_page(file) if name.endswith(".md") else of_module(file)
    return [finding for paragraph in read for finding in findings(paragraph)]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("page.md", "# Title\n\nA batch that is\ngiven\naway.\n", 4),
        ("page.md", "- an item\n- another one that nobody reads\n", 2),
        ("page.md", "# Nobody\n", 1),
        ("page.md", f"Short.\n\nShort. {LONG}\n", 3),
        ("page.md", f"`a\nb` is [a\nlink](to). Next.\n{LONG}\n", 4),
        ("code.py", '"""Say nothing.\n\nArgs:\n    one: nobody reads it\n"""\n', 4),
        ("code.py", f'def f():\n    """Return one.\n\n    {LONG}\n    """\n', 4),
        ("code.py", 'class A:\n    one = 1\n    """What nobody reads."""\n', 3),
        ("code.py", "one = 1  # nobody reads it\n", 1),
        ("code.py", "one = 1\n# What is\n# given\n# away.\n", 3),
        ("code.py", 'raise ValueError("nobody reads it")\n', 1),
        ("code.py", 'raise ValueError(f"{name} is given away")\n', 1),
    ],
)
def test_a_finding_names_its_line(
    name: str, text: str, line: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finding,) = _found(tmp_path, monkeypatch, name, text)
    assert finding.startswith(f"{name}:{line}: ")
    assert ": write " in finding


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page.md", f"```text\nnobody\n{LONG}\n```\n"),
        ("page.md", f"| nobody | {LONG} |\n\n> nobody\n\n<!-- nobody\n{LONG} -->\n"),
        ("page.md", "A `nobody` and a [link](nobody.md).\n"),
        ("page.md", f"- {'word ' * LONGEST}\n- {'word ' * LONGEST}\n"),
        ("page.md", f"{'word ' * (LONGEST - 1)}word. `code` begins the next one.\n"),
        ("code.py", f'"""Print.\n\n>>> print("nobody")\nnobody\n\nA tree::\n\n    nobody\n    {LONG}\n"""\n'),
        ("code.py", 'nobody = names["nobody"]\n'),
    ],
)
def test_code_tables_outputs_and_quotes_are_left_out(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _found(tmp_path, monkeypatch, name, text) == []


def test_every_word_has_a_replacement_and_is_found_across_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(WORDS.values())
    (finding,) = _found(tmp_path, monkeypatch, "page.md", "It is done by\nitself.\n")
    assert WORDS["(by|of) (itself|themselves)"] in finding
