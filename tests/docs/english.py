"""The English of the documentation: words that are not used, and sentences that are too long.

``python -m tests.docs.english`` prints what it finds. The words are in english.toml, beside this file.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 35
WORDS: dict[str, str] = tomllib.loads((Path(__file__).parent / "english.toml").read_text(encoding="utf-8"))["words"]
_PATTERNS = [
    (re.compile(rf"\b(?:{word})\b".replace(" ", r"\s+"), re.IGNORECASE), instead) for word, instead in WORDS.items()
]
_END = re.compile(r"(?<=[.!?])[)\"']*\s+(?=[A-Z(\d\"'])")
_ITEM = re.compile(r"^\s*(?:[-*+]|\d+\.)\s+")
_SECTION = re.compile(r"\s*(?:Args|Attributes|Example|Examples|Note|Paper|Raises|Returns|Yields):\s*$")
_ARGUMENT = re.compile(r"\s*[`*\w. ,]+(?: \(.*?\))?:\s+")
_COMMANDS = re.compile(r"(?:noqa|type:|pragma|fmt:|ruff:|mypy:)")


class Paragraph(NamedTuple):
    """Lines that are read in one go: where they begin, and whether their sentences are measured."""

    file: Path
    line: int
    text: str
    measured: bool = True


def pages() -> list[Path]:
    """Return every page of the documentation."""
    named = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    cards = ROOT / "counterpoint" / "algorithms" / "cards"
    return [*named, *sorted((ROOT / "docs").rglob("*.md")), *sorted(cards.glob("*.md"))]


def modules() -> list[Path]:
    """Return every module of the package."""
    return sorted((ROOT / "counterpoint").rglob("*.py"))


def paragraphs(file: Path, first: int, lines: list[str]) -> Iterator[Paragraph]:
    """Yield the paragraphs of text: no code, outputs, tables, quotes and comments of Markdown."""
    held: list[str] = []
    start = first
    for number, line in enumerate([*_blanked(lines), ""], first):
        begins = not line.strip() or line.startswith("#") or _ITEM.match(line) or _SECTION.match(line)
        if begins and held:
            yield Paragraph(file, start, "\n".join(held))
            held = []
        if line.strip():
            start = start if held else number
            held.append(_ITEM.sub("", line.lstrip("# ") if line.startswith("#") else line, count=1))
        if line.startswith("#") or _SECTION.match(line):
            yield Paragraph(file, start, "\n".join(held), measured=False)
            held = []


def _blanked(lines: list[str]) -> Iterator[str]:
    """Yield the lines, those empty that are no running text."""
    fence = example = comment = False
    literal: int | None = None
    for line in lines:
        bare = line.strip()
        indent = len(line) - len(line.lstrip())
        comment = comment or bare.startswith("<!--")
        example = bare.startswith((">>>", "...")) or (example and bool(bare))
        literal = None if literal is not None and bare and indent <= literal else literal
        code = fence or literal is not None or bare.startswith("```")
        fence ^= bare.startswith("```")
        literal = indent if literal is None and bare.endswith("::") else literal
        left_out = code or example or comment or bare.startswith(("|", ">"))
        comment = comment and "-->" not in bare
        yield "" if left_out else line


def docstrings(file: Path, tree: ast.Module) -> Iterator[Paragraph]:
    """Yield the paragraphs of all docstrings, also those of attributes."""
    for node in ast.walk(tree):
        for statement in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield from paragraphs(file, value.lineno, _arguments(value.value).split("\n"))


def _arguments(text: str) -> str:
    """Make every argument of a section a paragraph of its own."""
    section = False
    made = []
    for line in text.split("\n"):
        section = bool(_SECTION.match(line)) or (section and bool(line.strip()))
        item = section and _ARGUMENT.match(line)
        made.append(f"- {line[item.end() :]}" if item else line)
    return "\n".join(made)


def comments(file: Path, source: str) -> Iterator[Paragraph]:
    """Yield the comments, those of neighbouring lines as one."""
    held: list[str] = []
    last = -2
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not _COMMANDS.match(token.string.lstrip("# ")):
            line = token.start[0]
            if held and (line != last + 1 or not token.line.lstrip().startswith("#")):
                yield Paragraph(file, last - len(held) + 1, "\n".join(held))
                held = []
            held.append(token.string.lstrip("#: "))
            last = line
    if held:
        yield Paragraph(file, last - len(held) + 1, "\n".join(held))


def messages(file: Path, tree: ast.Module) -> Iterator[Paragraph]:
    """Yield the strings of code that have several words: what errors, warnings and commands print."""
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            parts = [part.value if isinstance(part, ast.Constant) else "x" for part in node.values]
            yield Paragraph(file, node.lineno, "".join(map(str, parts)), measured=False)
        elif isinstance(node, ast.Constant) and id(node) not in skipped and " " in str(node.value):
            yield Paragraph(file, node.lineno, str(node.value), measured=False)


def of_page(file: Path) -> Iterator[Paragraph]:
    """Yield what is read of a page."""
    yield from paragraphs(file, 1, file.read_text(encoding="utf-8").split("\n"))


def of_module(file: Path) -> Iterator[Paragraph]:
    """Yield what is read of a module: docstrings, comments and messages."""
    source = file.read_text(encoding="utf-8")
    tree = ast.parse(source)
    yield from docstrings(file, tree)
    yield from comments(file, source)
    yield from messages(file, tree)


def plain(text: str) -> str:
    """Return text of as many lines with a word in place of code and addresses, and without marks of Markdown."""
    text = re.sub(r"``.+?``|`[^`]+`", lambda code: "Code" + "\n" * code[0].count("\n"), text, flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)|https?://\S+", lambda link: "\n" * link[0].count("\n"), text)
    text = re.sub(r"\b(?:e\.g\.|i\.e\.|et al\.|cf\.|vs\.)", lambda short: short[0].replace(".", ""), text)
    return text.replace("*", "").replace("[", "")


def findings(paragraph: Paragraph) -> Iterator[str]:
    """Yield what is to be changed in a paragraph: where, what, and what to write instead."""
    text = plain(paragraph.text)

    def place(at: int) -> str:
        return f"{paragraph.file.relative_to(ROOT)}:{paragraph.line + text.count(chr(10), 0, at)}"

    for pattern, instead in _PATTERNS:
        for found in pattern.finditer(text):
            yield f"{place(found.start())}: {' '.join(found[0].split())!r}: write {instead}"
    begins = 0
    for end in [*(match.end() for match in _END.finditer(text)), len(text)] if paragraph.measured else []:
        sentence = " ".join(text[begins:end].split())
        count = len(re.findall(r"\S*\w\S*", sentence))
        if count > LONGEST:
            yield f"{place(begins)}: a sentence of {count} words, over {LONGEST}: write two: {sentence}"
        begins = end


def found() -> list[str]:
    """Return all findings, page by page and module by module."""
    read = [of_page(file) for file in pages()] + [of_module(file) for file in modules()]
    return [finding for text in read for paragraph in text for finding in findings(paragraph)]


if __name__ == "__main__":
    print("\n".join(found()))
