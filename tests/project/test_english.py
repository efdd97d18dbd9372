"""Pages, messages and docstrings are plain English: phrases that read as if translated stay out."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.repository import ROOT

GENERATED = {"docs/checks.md", "docs/options.md", "docs/support.md"}

BANNED = {
    r"mend(s|ed|ing)?": "fix",
    r"anew": "again; recreate",
    r"(go|goes|going|gone|went) on": "resume, continue, keep",
    r"by hand": "manually",
    r"left to a person|a person (has|had|needs) to": "manually",
    r"(take|takes|taking|taken|took)( \w+){0,3} away": "delete, remove",
    r"(is|are|was|were) away": "is unreachable",
    r"(certificate|anchor|issuer)s?( (that|which))?( (has|have|had))? ended": "expired",
    r"(certificate|anchor|issuer)s?( that)? ends?(?!-)": "expire",
    r"the brought|brought (trust )?(anchor|issuer|certificate)s?": "provided, existing",
    r"(made|created)( \w+)? or brought": "provided",
    r"(anchor|issuer|certificate)s?( that)? (is|are|was|were) brought": "provided, existing",
    r"brings? (its|an|the)( own)? (anchor|issuer|certificate)(?!')": "provide",
    r"(is|are|be|been|being|was|were) told": "is notified, report",
    r"whoever": "anyone who, a user who",
    r"nobody's": "say who owns it, or that it has no owner",
    r"be it (a|an|the|by|in|on|from|through|for)": "whether, even if",
    r"(?<!there )(is|are) (?-i:none)": "say it plainly",
    r"(?<!one )(?<!two )(?<!some )(?<!most )(?<!all )(?<!each )(?<!both )of which": "whose, from",
    r"by the name of": "named; finishes in state …",
    r"speaks? against": "blocks; no blocking findings",
    r"(is|are|was|were) at it": "is running",
    r"(could not|cannot|can't|couldn't) be judged": "could not be checked",
    r"promis(e|es|ed)": "a test",
    r"so many(?! \w+ that)": "the number of, at most",
    r"mesh from nothing": "install a mesh",
    r"from when on": "any … after",
    r"its makers": "telemetry",
    r"no matter (who|what|where)": "even if, regardless of, of any",
    r"(to be )?done by a person": "manually",
    r"present (trust )?(anchor|bundle|revision|state|chart|issuer|values|version|one)s?": "current",
    r"where it has ended": "if it has expired",
    r"(?<!there )is no (text|flow|mesh|release|address|registry|image)": "is not",
    r"to be had": "cannot be found, is available",
}
"""Regular expressions of phrases that read as if translated, and what to write instead."""

# A phrase may wrap onto the next line.
PATTERNS = {
    re.compile(r"\b(?:" + phrase.replace(" ", "[ \n]") + r")\b", re.IGNORECASE): better
    for phrase, better in BANNED.items()
}


def prose(page: str) -> str:
    """The page without code and link targets but with all lines; comments in code are prose."""
    lines: list[str] = []
    is_code = False
    for line in page.splitlines():
        if line.lstrip().startswith("```"):
            is_code = not is_code
            lines.append("")
        elif is_code:
            lines.append(line.partition("# ")[2])
        else:
            lines.append(re.sub(r"`[^`]*`|\]\([^)]*\)|<https?:[^>]*>", "…", line))
    return "\n".join(" ".join(line.split()) for line in lines)


def stilted(page: str) -> Iterator[tuple[int, str, str]]:
    """Each banned phrase of a page: its line, the phrase, and what to write instead."""
    text = prose(page)
    for pattern, better in PATTERNS.items():
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), better


def said_in(source: str) -> Iterator[tuple[int, str, str]]:
    """The same for each string of several words in a Python module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            for line, phrase, better in stilted(node.value):
                yield node.lineno + line - 1, phrase, better


def tracked(*patterns: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(set(listed.stdout.splitlines()) - GENERATED)


def is_shown(module: str) -> bool:
    """Whether users may read a module's texts, as messages or as its package's documentation."""
    return module.partition("/")[0] not in ("tests", "benchmarks")


def test_every_page_is_plain_english() -> None:
    found = [
        f'{path}:{line}: "{phrase}" (write: {better})'
        for path in tracked("*.md")
        for line, phrase, better in sorted(stilted((ROOT / path).read_text()))
    ]
    assert not found, "\n" + "\n".join(found)


def test_every_message_and_docstring_is_plain_english() -> None:
    found = [
        f'{path}:{line}: "{phrase}" (write: {better})'
        for path in tracked("*.py")
        if is_shown(path) and (ROOT / path).is_file()
        for line, phrase, better in sorted(said_in((ROOT / path).read_text()))
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("The remedy says how to mend it.", "mend"),
        ("No CRD is deleted or\nmade anew.", "anew"),
        ("Run it again and it goes\n  on from there.", "goes on"),
        ("Only its pending record is taken away.", "taken away"),
        ("A chart source that is away is only reported.", "is away"),
        ("## Certificates that have ended", "Certificates that have ended"),
        ("It lists which certificates end soon.", "certificates end"),
        ("| prepare | takes the brought anchor |", "the brought"),
        ("Nobody is told before it expires.", "is told"),
        ("Pods of which nothing is known are restarted.", "of which"),
        ("```sh\nmake demo    # a mesh from nothing\n```", "mesh from nothing"),
    ],
)
def test_a_stilted_phrase_is_found(text: str, phrase: str) -> None:
    assert [found for _, found, _ in stilted(text)] == [phrase]


@pytest.mark.parametrize(
    "text",
    [
        "The run ended early, and the fleet ends with its last mesh.",
        "An issuer's end-to-end test; the issuer end-to-end.",
        "An Ingress made by Traefik, a secondhand cluster, and amended values.",
        "Set `promises`, or see [the flag](#goes-on).",
        "```sh\nprefect-linkerd fleet --goes-on 26.8.3 --by hand\n```",
        "There is none. Two releases, both of which are rolled back; one step away.",
        "Turn the automation on. The list goes\n\non the next page.",
    ],
)
def test_plain_english_passes(text: str) -> None:
    assert list(stilted(text)) == []


def test_a_finding_names_its_line() -> None:
    assert [line for line, _, _ in stilted("# Title\n\nIt can be\nmended\nlater.\n")] == [4]
