"""The passphrase of a key file, from the environment or a prompt."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer
from pydantic import SecretStr

PASSPHRASE = "PREFECT_LINKERD_PASSPHRASE"  # noqa: S105 the name of a variable
"""The environment variable with a key file's passphrase."""

SHORTEST = 12
"""The minimum length of a passphrase, as `trust_anchor.passphrase` requires it."""


def find_passphrase(key_file: Path) -> SecretStr | None:
    """Returns a key file's passphrase from the environment or a prompt; None without either."""
    if given := os.environ.get(PASSPHRASE):
        return SecretStr(given)
    if not sys.stdin.isatty():
        return None
    is_new = not key_file.expanduser().exists()
    text = f"Passphrase of {key_file}" + (f" (at least {SHORTEST} characters)" if is_new else "")
    while True:
        typed: str = typer.prompt(text, hide_input=True, confirmation_prompt=is_new, err=True)
        if len(typed) >= SHORTEST:
            return SecretStr(typed)
        typer.echo(f"That is shorter than {SHORTEST} characters.", err=True)
