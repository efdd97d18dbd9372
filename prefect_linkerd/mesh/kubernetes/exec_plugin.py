"""Credentials from the program that a kubeconfig names, such as `aws` or `kubelogin`.

Source: client-go v0.34 `plugin/pkg/client/auth/exec/exec.go`;
https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins

The Python client instead logs that a program failed and continues as `system:anonymous`, ignores
`interactiveMode`, and does not show the install hint for a missing program.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.kubernetes.kubeconfig import ExecConfig, KubeCluster, KubeContext

API_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
CONFIG_EXTENSION = "client.authentication.k8s.io/exec"
WORDS = 1000
"""How many of the last characters of a program's stderr are shown."""

_plugins: dict[str, ExecPlugin] = {}
_plugins_lock = threading.Lock()


@dataclass(frozen=True)
class Credential:
    """A plugin's credential: a token, or a client certificate with its key (both PEM), or both."""

    token: str = field(default="", repr=False)
    certificate: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    expires: datetime | None = None


class _Status(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    token: str = ""
    client_certificate_data: str = Field(default="", alias="clientCertificateData")
    client_key_data: str = Field(default="", alias="clientKeyData")
    expiration_timestamp: datetime | None = Field(default=None, alias="expirationTimestamp")


class _ExecCredential(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    api_version: str = Field(alias="apiVersion")
    kind: Literal["ExecCredential"]
    status: _Status | None = None


class ExecPlugin:
    """A credential plugin, run when its credential is first needed and again when that expires.

    Thread-safe: the plugin may prompt the user, so it never runs twice at the same time.
    """

    def __init__(self, config: ExecConfig, cluster: KubeCluster, user_name: str) -> None:
        self._config = config
        self._cluster = cluster
        self._user_name = user_name
        self._credential: Credential | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, context: KubeContext, config: ExecConfig) -> ExecPlugin:
        """The plugin of a context; always the same instance, so that its credential is reused."""
        parts = (context.user_name, config, context.cluster)
        key = json.dumps([p if isinstance(p, str) else p.model_dump(mode="json") for p in parts])
        with _plugins_lock:
            return _plugins.setdefault(key, cls(config, context.cluster, context.user_name))

    def credential(self, refused: Credential | None = None) -> Credential:
        """A credential that has not expired.

        Args:
            refused: a credential that the API server rejected, to be replaced.

        Raises:
            ApiError: the plugin provided none; has the plugin's own words and status 401.
        """
        with self._lock:
            held = self._credential
            expired = held and held.expires is not None and datetime.now(UTC) > held.expires
            if held is None or expired or held is refused:
                self._credential = held = parse(self._run(), self._config, self._user_name)
            return held

    def _run(self) -> bytes:
        """Runs the plugin and returns what it prints."""
        config = self._config
        is_terminal = os.isatty(0)
        if config.mode == "Always" and not is_terminal:
            raise _failure(
                self._user_name,
                "exec plugin cannot support interactive mode: standard input is not a terminal",
                "Run in a terminal, or use credentials that need no input.",
            )
        is_interactive = is_terminal and config.mode != "Never"
        spec: dict[str, Any] = {"interactive": is_interactive}
        if config.provide_cluster_info:
            spec["cluster"] = cluster_info(self._cluster)
        info = {"apiVersion": config.api_version, "kind": "ExecCredential", "spec": spec}
        variables = {variable.name: variable.value for variable in config.env}
        # A PATH among these variables is for the program; the program itself is found on our PATH.
        program = shutil.which(config.command)
        if program is None:
            raise _failure(
                self._user_name,
                f"exec: executable {config.command} not found",
                _plain(config.install_hint) or "Install it, or put its folder on PATH.",
            )
        try:
            with subprocess.Popen(
                [program, *config.args],
                stdin=None if is_interactive else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **variables, "KUBERNETES_EXEC_INFO": json.dumps(info)},
            ) as process:
                printed, words = _read(process)
        except OSError as error:
            raise _failure(
                self._user_name,
                f"exec: {config.command}: {error.strerror}",
                "Check that it is a program for this machine.",
            ) from None
        if process.returncode:
            said = _plain(words.decode(errors="replace"))[-WORDS:]
            raise _failure(
                self._user_name,
                f"exec: executable {config.command} failed with exit code {process.returncode}"
                + (f": {said.rstrip('.')}" if said else ""),
                "Do what it says, such as log in again, then run this again.",
            )
        return printed


def _read(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """A program's stdout and stderr; at a terminal, stderr is also shown as it is written."""
    words: list[bytes] = []

    def listen(stream: IO[bytes]) -> None:
        while chunk := os.read(stream.fileno(), 4096):
            words.append(chunk)
            if os.isatty(2):
                # It may ask the user to open a URL, and wait for that.
                os.write(2, chunk)

    assert process.stdout is not None  # noqa: S101
    assert process.stderr is not None  # noqa: S101
    listener = threading.Thread(target=listen, args=(process.stderr,), daemon=True)
    listener.start()
    printed = process.stdout.read()
    listener.join()
    process.wait()
    return printed, b"".join(words)


def parse(printed: bytes, config: ExecConfig, user_name: str) -> Credential:
    """The credential in a plugin's output.

    Raises:
        ApiError: there is none; status 401. The message does not quote the output.
    """
    remedy = f"Update {Path(config.command).name}, or correct the user's exec section."
    try:
        found = _ExecCredential.model_validate_json(printed)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}".removeprefix(": ")
            for item in error.errors(include_input=False, include_context=False)
        )
        text = f"exec: {config.command} printed no ExecCredential: {wrong}"
        raise _failure(user_name, text, remedy) from None
    if found.api_version not in API_VERSIONS or found.api_version != config.api_version:
        text = (
            f"exec plugin is configured to use API version {config.api_version}, "
            f"plugin returned version {found.api_version}"
        )
        raise _failure(user_name, text, remedy)
    status = found.status or _Status()
    if not (status.token or status.client_certificate_data or status.client_key_data):
        text = "exec plugin didn't return a token or cert/key pair"
        raise _failure(user_name, text, remedy)
    if bool(status.client_certificate_data) != bool(status.client_key_data):
        text = "exec plugin returned only certificate or key, not both"
        raise _failure(user_name, text, remedy)
    expires = status.expiration_timestamp
    return Credential(
        status.token,
        status.client_certificate_data,
        status.client_key_data,
        expires.replace(tzinfo=expires.tzinfo or UTC) if expires else None,
    )


def cluster_info(cluster: KubeCluster) -> dict[str, Any]:
    """What a plugin receives about the cluster: its CA inline, and the plugin's own configuration.

    Source: client-go `rest/exec.go`, ConfigToExecCluster.
    """
    known = cluster.model_dump(by_alias=True, exclude_defaults=True)
    names = ("server", "tls-server-name", "insecure-skip-tls-verify", "proxy-url")
    info = {name: known[name] for name in (*names, "disable-compression") if name in known}
    if cluster.certificate_authority_data:
        info["certificate-authority-data"] = cluster.certificate_authority_data
    elif cluster.certificate_authority:
        content = Path(cluster.certificate_authority).read_bytes()
        info["certificate-authority-data"] = base64.b64encode(content).decode()
    own = (e.extension for e in cluster.extensions if e.name == CONFIG_EXTENSION)
    if (config := next(own, None)) is not None:
        info["config"] = config
    return info


def _plain(text: str) -> str:
    """A text without characters that would move a terminal's cursor."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t").strip()


def _failure(user_name: str, found: str, remedy: str) -> ApiError:
    return ApiError(
        f"kubeconfig user {user_name}",
        expected="its credential plugin to give a credential",
        found=found,
        remedy=remedy,
        status=401,
    )
