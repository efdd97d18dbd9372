"""The image that runs the program; a module of its own, as forms and `--help` need only this."""

from __future__ import annotations

IMAGE = "docker.io/library/python:3.13-alpine"
"""Any image with python3 would do: the program needs nothing else."""


def valid_image(value: str) -> str:
    """Returns a text that can be an image's name.

    Raises:
        ValueError: it cannot be one.
    """
    if not value or "://" in value or value != "".join(value.split()):
        raise ValueError(
            f"{value!r} is not an image: write repository:tag, such as python:3.13-alpine"
        )
    return value
