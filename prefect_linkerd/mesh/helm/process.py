"""The helm binary as a process of ours, which a signal reaches."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pyhelm3  # pyright: ignore[reportMissingTypeStubs]
from pyhelm3 import errors as helm_errors  # pyright: ignore[reportMissingTypeStubs]

from prefect_linkerd.mesh.helm.environment import helm_environment


class HelmCommand(pyhelm3.Command):
    """pyhelm3's command without the shell between.

    A shell that is terminated leaves helm running: on SIGTERM helm itself has to record that it
    failed and, where it is atomic, to go back.
    """

    async def run(self, command: list[str], input: bytes | None = None) -> bytes:  # noqa: A002
        """Runs helm and returns what it prints; where the task is cancelled it is terminated.

        Raises:
            Error: helm failed; with what it said.
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
            # It may take its time to go back; until then it works on the release.
            await talk
            raise
        if process.returncode:
            raise helm_errors.Error(process.returncode, output, errors)
        return output
