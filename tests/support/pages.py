"""The commands, files and programs in the documentation's code blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tests.support.repository import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
HEREDOC = re.compile(r"<<'(\w+)'\n(.*?)^ *\1$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """One command of a page."""

    page: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


@dataclass(frozen=True)
class Line:
    """One line of a page as a shell reads it, with its pipes and redirections."""

    page: str
    text: str

    @property
    def commands(self) -> list[Command]:
        return [Command(self.page, words) for words in split(self.text)]


@dataclass(frozen=True)
class Heredoc:
    """A file or a program that a page passes to the shell."""

    page: str
    mark: str
    text: str


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for match in BLOCK.finditer(page.read_text()):
            if match[1] == language:
                yield str(page.relative_to(ROOT)), _dedented(match[2])


def _dedented(text: str) -> str:
    lines = text.splitlines()
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[indent:] for line in lines) + "\n"


@cache
def heredocs() -> tuple[Heredoc, ...]:
    return tuple(
        Heredoc(page, match[1], match[2])
        for page, text in blocks("sh")
        for match in HEREDOC.finditer(text)
    )


def programs() -> list[str]:
    """The Python programs of the pages; other blocks are parts of a file."""
    found = [text for _, text in blocks("python") if text.startswith(("import", "from"))]
    return found + [each.text for each in heredocs() if each.mark == "PY"]


@cache
def every_line() -> tuple[Line, ...]:
    found: list[Line] = []
    for page, text in blocks("sh"):
        begun = ""
        for part in HEREDOC.sub("", text).replace("\\\n", " ").splitlines():
            begun = f"{begun}\n{part}" if begun else part
            if begun.count("'") % 2 == 0:
                found.append(Line(page, begun))
                begun = ""
    return tuple(line for line in found if line.commands)


@cache
def every_command() -> tuple[Command, ...]:
    return tuple(command for line in every_line() for command in line.commands)


def of(program: str) -> list[Command]:
    return [command for command in every_command() if command.words[0] == program]


def split(text: str) -> Iterator[tuple[str, ...]]:
    """The commands of a script, without redirections and assignments before a command.

    >>> list(split("A=1 b --c 'd e' > f | g # h"))
    [('b', '--c', 'd e'), ('g',)]
    """
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars="|&;<>\n")
    lexer.whitespace = " \t"
    lexer.whitespace_split = True
    # shlex would drop a comment's newline with the comment.
    lexer.commenters = ""
    words: list[str] = []
    skips = False
    is_comment = False
    for token in lexer:
        is_break = set(token) <= set("|&;\n")
        if is_break and ("\n" in token or not is_comment):
            if words:
                yield tuple(words)
            words, skips, is_comment = [], False, False
        elif is_comment or token.startswith("#"):
            is_comment = True
        elif set(token) <= set("<>"):
            skips = True
        elif skips:
            skips = False
        elif words or not re.fullmatch(r"[A-Z_]+=.*", token):
            words.append(token)
    if words:
        yield tuple(words)
