"""Runs the helm binary as a child process that signals reach."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pyhelm3  # pyright: ignore[reportMissingTypeStubs]
from pyhelm3 import errors as helm_errors  # pyright: ignore[reportMissingTypeStubs]

from prefect_linkerd.mesh.helm.environment import helm_environment


class HelmCommand(pyhelm3.Command):
    """pyhelm3's command without a shell in between.

    Terminating a shell leaves helm running, but helm itself has to get SIGTERM, to record that it
    failed and, if it is atomic, to roll back.
    """

    async def run(self, command: list[str], input: bytes | None = None) -> bytes:  # noqa: A002
        """Runs helm and returns what it prints; terminates it if the task is cancelled.

        Raises:
            Error: helm failed; holds what helm printed.
        """
        arguments = [str(part) for part in command]
        if self._kubeconfig:
            arguments += ["--kubeconfig", str(self._kubeconfig)]
        process = await asyncio.create_subprocess_exec(
            self._executable,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL if input is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=helm_environment(os.environ, self._kubeconfig),
        )
        talk = asyncio.ensure_future(process.communicate(input))
        try:
            output, errors = await asyncio.shield(talk)
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            # Rolling back may take a while, and helm works on the release until it exits.
            await talk
            raise
        if process.returncode:
            raise helm_errors.Error(process.returncode, output, errors)
        return output
