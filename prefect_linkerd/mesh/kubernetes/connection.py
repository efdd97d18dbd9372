"""Requests to one API server, as one identity.

TLS, proxies and connections are the Python client's. Its authentication is not: it continues as
`system:anonymous` where a user has no credentials or they cannot be had, reads a token file once
and with its line end, and ignores impersonation.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import urllib3
from kubernetes import client as kube
from kubernetes import config as kube_config

from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.kubernetes.exec_plugin import Credential, ExecPlugin
from prefect_linkerd.mesh.kubernetes.kubeconfig import KubeContext, KubeUser

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class Connection:
    """Requests to the API server of a kubeconfig's context.

    Args:
        context: None: the cluster that this pod is in, by its service account.

    Raises:
        InvalidInput: it cannot be used, such as for a file that is missing.
    """

    def __init__(self, context: KubeContext | None) -> None:
        self._context = context
        self._plugin = _plugin(context)
        self._lock = threading.Lock()
        self._certificate = ""
        self._client = self._make_client(None)

    @property
    def host(self) -> str:
        """The address of the API server."""
        return str(self._client.configuration.host)

    def send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout: float
    ) -> urllib3.BaseHTTPResponse:
        """One request. Refused by 401, it is sent again with a new credential of the plugin.

        Raises:
            ApiError: the plugin gives no credential.
            InvalidInput: the user has none.
            urllib3.exceptions.HTTPError, OSError: there was no answer.
        """
        credential = self._plugin.credential() if self._plugin else None
        response = self._send(method, path, body, headers, timeout, credential)
        if response.status == 401 and self._plugin is not None:
            # Nothing was done, so any method may be repeated.
            credential = self._plugin.credential(refused=credential)
            response = self._send(method, path, body, headers, timeout, credential)
        return response

    def as_kubeconfig(self) -> dict[str, Any]:
        """A kubeconfig of this connection, for other programs.

        Raises:
            ApiError: the plugin gives no credential.
        """
        context = self._context
        if context is None:
            # The token is named by file, so that a long run sees it renewed.
            return {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "in-cluster",
                "contexts": [{"name": "in-cluster", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [
                    {
                        "name": "c",
                        "cluster": {
                            "server": self.host,
                            "certificate-authority": f"{SERVICE_ACCOUNT}/ca.crt",
                        },
                    }
                ],
                "users": [{"name": "u", "user": {"tokenFile": f"{SERVICE_ACCOUNT}/token"}}],
            }
        if self._plugin is None or context.user.exec is None or context.user.exec.mode != "Always":
            return context.as_kubeconfig()
        # A program whose input is not the terminal could not let the plugin ask.
        credential = self._plugin.credential()
        user = {k: v for k, v in _user_fields(context.user).items() if k != "exec"}
        return context.as_kubeconfig(user | _credential_fields(credential))

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout: float,
        credential: Credential | None,
    ) -> urllib3.BaseHTTPResponse:
        client = self._client_for(credential)
        sent = urllib3.HTTPHeaderDict(headers)
        self._authorize(client, sent, credential)
        return client.rest_client.pool_manager.request(
            method, self.host + path, body=body, headers=sent, timeout=timeout
        )

    def _authorize(
        self, client: kube.ApiClient, headers: urllib3.HTTPHeaderDict, credential: Credential | None
    ) -> None:
        context = self._context
        if context is not None and not context.is_tls:
            return
        if context is None or context.user.auth_provider is not None:
            # The Python client knows how, and when to renew it.
            found: dict[str, str] = {}
            client.update_params_for_auth(found, [], ["BearerToken"], "", "GET", None)
            headers.update(found)
        else:
            headers.update(authorization(context.user, credential))
        if context is None:
            return
        if "authorization" not in headers and client.configuration.cert_file is None:
            provider = (context.user.auth_provider or {}).get("name")
            raise InvalidInput(
                f"kubeconfig user {context.user_name}",
                expected="credentials",
                found=f"auth-provider {provider}, which gave none" if provider else "none",
                remedy="Log in to the cluster again, so that the kubeconfig has them.",
            )
        for name, value in impersonation(context.user):
            headers.add(name, value)

    def _client_for(self, credential: Credential | None) -> kube.ApiClient:
        """The client, recreated where the plugin gave another certificate."""
        certificate = credential.certificate if credential else ""
        with self._lock:
            if certificate != self._certificate:
                self._client = self._make_client(credential)
                self._certificate = certificate
            return self._client

    def _make_client(self, credential: Credential | None) -> kube.ApiClient:
        configuration = kube.Configuration()
        # urllib3's own retries do not know which requests are safe to repeat.
        configuration.retries = urllib3.Retry(total=0, redirect=0)
        configuration.connection_pool_maxsize = 16
        try:
            if self._context is None:
                kube_config.load_incluster_config(client_configuration=configuration)
            else:
                _configure(configuration, self._context, credential)
        except kube_config.ConfigException as error:
            raise InvalidInput(
                "cluster access",
                expected="a usable kubeconfig context or a pod's service account",
                found=str(error),
                remedy="Run in a pod of the cluster, or turn access.in_cluster off."
                if self._context is None
                else "Correct this in the kubeconfig, or log in to the cluster again.",
            ) from None
        return kube.ApiClient(configuration)


def _plugin(context: KubeContext | None) -> ExecPlugin | None:
    if context is None or not context.is_tls or (config := context.user.exec) is None:
        return None
    user = context.user
    # As in client-go, a user's own credentials win over the plugin's.
    own = (user.token, user.token_file, user.username, user.password)
    if any((*own, user.client_certificate, user.client_certificate_data)):
        return None
    return ExecPlugin.of(context, config)


def _configure(
    configuration: kube.Configuration, context: KubeContext, credential: Credential | None
) -> None:
    """The address, TLS and proxy of a context, with a client certificate where there is one."""
    # Without empty fields: the Python client takes one for data, and leaves the file alone.
    cluster = context.cluster.model_dump(by_alias=True, exclude_defaults=True)
    names = ("client-certificate", "client-certificate-data", "client-key", "client-key-data")
    own = _user_fields(context.user)
    user = {name: own[name] for name in (*names, "auth-provider") if own.get(name)}
    if credential is not None:
        user |= _credential_fields(credential)
        user.pop("token", None)
    minimal = context.as_kubeconfig(user)
    minimal["clusters"][0]["cluster"] = cluster | {"server": context.server}
    kube_config.load_kube_config_from_dict(
        minimal, client_configuration=configuration, persist_config=False
    )
    if context.cluster.proxy_url:
        # As for kubectl, NO_PROXY is about proxies of the environment.
        configuration.no_proxy = ""
    if context.cluster.insecure_skip_tls_verify:
        # The kubeconfig says so; urllib3 would warn at every request.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)


def _user_fields(user: KubeUser) -> dict[str, Any]:
    return user.model_dump(by_alias=True, exclude_defaults=True)


def _credential_fields(credential: Credential) -> dict[str, str]:
    """A plugin's credential as a user of a kubeconfig has it."""
    fields = {"token": credential.token} if credential.token else {}
    if credential.certificate:
        encoded = base64.b64encode(credential.certificate.encode()).decode()
        key = base64.b64encode(credential.key.encode()).decode()
        fields |= {"client-certificate-data": encoded, "client-key-data": key}
    return fields


def authorization(user: KubeUser, credential: Credential | None) -> dict[str, str]:
    """The header by which a user is known; none where that is by certificate.

    Raises:
        InvalidInput: the token's file cannot be read.
    """
    token = credential.token if credential is not None else user.token
    if user.token_file:
        # Read for every request: a renewed token is written there.
        try:
            token = Path(user.token_file).read_text().strip() or token
        except OSError as error:
            if not token:
                raise InvalidInput(
                    f"token file {user.token_file}",
                    expected="a token",
                    found=error.strerror or type(error).__name__,
                    remedy="Write the token to that file, or correct tokenFile in the kubeconfig.",
                ) from None
    if token:
        return {"Authorization": f"Bearer {token}"}
    if user.username or user.password:
        pair = f"{user.username}:{user.password}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
    return {}


def impersonation(user: KubeUser) -> list[tuple[str, str]]:
    """The headers by which a user acts as another.

    Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation
    """
    if not user.impersonate:
        return []
    headers = [("Impersonate-User", user.impersonate)]
    headers += [("Impersonate-Group", group) for group in user.as_groups]
    if user.as_uid:
        headers.append(("Impersonate-Uid", user.as_uid))
    for key, values in user.as_user_extra.items():
        headers += [(f"Impersonate-Extra-{quote(key, safe='')}", value) for value in values]
    return headers
