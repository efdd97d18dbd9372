"""Requests to one API server, as one identity.

Connections are urllib3's, like those of the Python client. That client is used only in pods and
for kubeconfigs that need it (a proxy, an auth-provider), because importing it takes longer than
most commands. Its authentication is used only in pods and for an auth-provider, because it
continues as `system:anonymous` if a user has no credentials or they cannot be obtained, reads a
token file only once and with its trailing newline, and ignores impersonation.
"""

from __future__ import annotations

import base64
import binascii
import ssl
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies

import urllib3
from urllib3.util.ssl_ import create_urllib3_context

from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.kubernetes.exec_plugin import Credential, ExecPlugin
from prefect_linkerd.mesh.kubernetes.kubeconfig import KubeContext, KubeUser

if TYPE_CHECKING:
    from kubernetes import client as kube

CONNECTIONS = 16
"""Connections that are kept open for later requests."""

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True)
class _Client:
    """How requests are sent. `headers` returns those of the Python client's own authentication."""

    host: str
    pool: urllib3.PoolManager
    has_certificate: bool
    headers: Callable[[], Mapping[str, str]] = dict[str, str]


class Connection:
    """Requests to the API server of a kubeconfig's context.

    Args:
        context: None means the cluster that this pod runs in, with the pod's service account.

    Raises:
        InvalidInput: the context cannot be used, for example because a file is missing.
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
        return self._client.host

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout: float,
        *,
        is_read: bool = True,
    ) -> urllib3.BaseHTTPResponse:
        """Sends one request. On a 401, sends it again with a new credential from the plugin.

        Args:
            is_read: whether to read the response; otherwise the caller reads and closes it.

        Raises:
            ApiError: the plugin provides no credential.
            InvalidInput: the user has no credentials.
            urllib3.exceptions.HTTPError, OSError: there was no response.
        """

        def once(credential: Credential | None) -> urllib3.BaseHTTPResponse:
            client = self._client_for(credential)
            sent = urllib3.HTTPHeaderDict(headers)
            self._authorize(client, sent, credential)
            return client.pool.request(
                method,
                client.host + path,
                body=body,
                headers=sent,
                timeout=timeout,
                preload_content=is_read,
            )

        credential = self._plugin.credential() if self._plugin else None
        response = once(credential)
        if response.status == 401 and self._plugin is not None:
            response.drain_conn()
            # The API server did nothing, so any method may be repeated.
            credential = self._plugin.credential(refused=credential)
            response = once(credential)
        return response

    def as_kubeconfig(self) -> dict[str, Any]:
        """A kubeconfig for this connection, for other programs.

        Raises:
            ApiError: the plugin provides no credential.
        """
        context = self._context
        if context is None:
            # Refers to the token's file, so that a long run picks up renewed tokens.
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
        # The plugin could not prompt in a program whose input is not the terminal.
        credential = self._plugin.credential()
        user = {k: v for k, v in _user_fields(context.user).items() if k != "exec"}
        return context.as_kubeconfig(user | _credential_fields(credential))

    def _authorize(
        self, client: _Client, headers: urllib3.HTTPHeaderDict, credential: Credential | None
    ) -> None:
        context = self._context
        if context is not None and not context.is_tls:
            return
        if context is None or context.user.auth_provider is not None:
            # The Python client knows how to authenticate, and when to renew the credential.
            headers.update(client.headers())
        else:
            headers.update(authorization(context.user, credential))
        if context is None:
            return
        if "authorization" not in headers and not client.has_certificate:
            provider = (context.user.auth_provider or {}).get("name")
            raise InvalidInput(
                f"kubeconfig user {context.user_name}",
                expected="credentials",
                found=f"auth-provider {provider}, which provided none" if provider else "none",
                remedy="Log in to the cluster again, to store them in the kubeconfig.",
            )
        for name, value in impersonation(context.user):
            headers.add(name, value)

    def _client_for(self, credential: Credential | None) -> _Client:
        """The client, recreated if the plugin provided another certificate."""
        certificate = credential.certificate if credential else ""
        with self._lock:
            if certificate != self._certificate:
                self._client = self._make_client(credential)
                self._certificate = certificate
            return self._client

    def _make_client(self, credential: Credential | None) -> _Client:
        context = self._context
        try:
            if context is None or context.user.auth_provider is not None or _has_proxy(context):
                return _python_client(context, credential)
            return _own_client(context, credential)
        except (OSError, ValueError) as error:
            raise InvalidInput(
                "cluster access",
                expected="a usable kubeconfig context or a pod's service account",
                found=str(error),
                remedy="Run in a pod of the cluster, or turn access.in_cluster off."
                if context is None
                else "Correct this in the kubeconfig, or log in to the cluster again.",
            ) from None


def _has_proxy(context: KubeContext) -> bool:
    """Whether a proxy may be in use: the kubeconfig's, or one from the environment."""
    proxies = getproxies()
    scheme = urlsplit(context.server).scheme
    return bool(context.cluster.proxy_url or proxies.get(scheme) or proxies.get("all"))


def _own_client(context: KubeContext, credential: Credential | None) -> _Client:
    """A client for a context that needs nothing but TLS.

    Raises:
        OSError, ValueError: a certificate or a key is missing, or cannot be read.
    """
    options: dict[str, Any] = {}
    has_certificate = False
    if context.is_tls:
        tls, has_certificate = _tls(context, credential)
        options["ssl_context"] = tls
        if name := context.cluster.tls_server_name:
            options |= {"server_hostname": name}
    # urllib3's own retries do not know which requests are safe to repeat.
    pool = urllib3.PoolManager(
        maxsize=CONNECTIONS, retries=urllib3.Retry(total=0, redirect=0), **options
    )
    return _Client(context.server, pool, has_certificate)


def _tls(context: KubeContext, credential: Credential | None) -> tuple[ssl.SSLContext, bool]:
    """One TLS context for all connections, and whether it has a client certificate."""
    cluster, user = context.cluster, context.user
    is_verified = not cluster.insecure_skip_tls_verify
    tls = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED if is_verified else ssl.CERT_NONE)
    if not is_verified:
        tls.check_hostname = False
        # The kubeconfig asks for this; urllib3 would warn at every request.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    elif authority := _content(cluster.certificate_authority_data, cluster.certificate_authority):
        # Comments between the certificates may have non-ASCII letters, which can be dropped.
        tls.load_verify_locations(cadata=authority.decode("ascii", errors="ignore"))
    else:
        tls.load_default_certs()
    certificate = _content(user.client_certificate_data, user.client_certificate)
    key = _content(user.client_key_data, user.client_key)
    if credential is not None and credential.certificate:
        certificate, key = credential.certificate.encode(), credential.key.encode()
    if certificate is None:
        return tls, False
    # OpenSSL reads these only from a file: this one is private, and deleted right afterwards.
    with tempfile.NamedTemporaryFile(prefix="prefect-linkerd-") as file:
        file.write(certificate + b"\n" + (key or b""))
        file.flush()
        tls.load_cert_chain(file.name)
    return tls, True


def _content(data: str, path: str) -> bytes | None:
    """The content of a kubeconfig field, inline or from a file; None if neither is given.

    Raises:
        ValueError: the file does not exist, or the data is not base64.
    """
    if data:
        try:
            return base64.b64decode(data)
        except binascii.Error:
            raise ValueError("data that is not base64") from None
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"file {path}: {(error.strerror or 'unreadable').lower()}") from None


def _python_client(context: KubeContext | None, credential: Credential | None) -> _Client:
    """The Python client, which supports proxies, auth-providers and a pod's service account.

    Raises:
        ValueError: its configuration cannot be used.
    """
    from kubernetes import client as kube
    from kubernetes import config as kube_config

    configuration = kube.Configuration()
    # urllib3's own retries do not know which requests are safe to repeat.
    configuration.retries = urllib3.Retry(total=0, redirect=0)
    configuration.connection_pool_maxsize = CONNECTIONS
    try:
        if context is None:
            kube_config.load_incluster_config(client_configuration=configuration)
        else:
            _configure(configuration, context, credential)
    except kube_config.ConfigException as error:
        raise ValueError(str(error)) from None
    client = kube.ApiClient(configuration)

    def headers() -> dict[str, str]:
        found: dict[str, str] = {}
        client.update_params_for_auth(found, [], ["BearerToken"], "", "GET", None)
        return found

    return _Client(
        str(configuration.host),
        client.rest_client.pool_manager,
        configuration.cert_file is not None,
        headers,
    )


def _plugin(context: KubeContext | None) -> ExecPlugin | None:
    if context is None or not context.is_tls or (config := context.user.exec) is None:
        return None
    user = context.user
    # As in client-go, a user's own credentials take precedence over the plugin's.
    own = (user.token, user.token_file, user.username, user.password)
    if any((*own, user.client_certificate, user.client_certificate_data)):
        return None
    return ExecPlugin.of(context, config)


def _configure(
    configuration: kube.Configuration, context: KubeContext, credential: Credential | None
) -> None:
    """Sets the address, TLS and proxy of a context, and the client certificate, if any."""
    # Without empty fields: the Python client takes one as inline data and ignores the file.
    cluster = context.cluster.model_dump(by_alias=True, exclude_defaults=True)
    names = ("client-certificate", "client-certificate-data", "client-key", "client-key-data")
    own = _user_fields(context.user)
    user = {name: own[name] for name in (*names, "auth-provider") if own.get(name)}
    if credential is not None:
        user |= _credential_fields(credential)
        user.pop("token", None)
    from kubernetes import config as kube_config

    minimal = context.as_kubeconfig(user)
    minimal["clusters"][0]["cluster"] = cluster | {"server": context.server}
    kube_config.load_kube_config_from_dict(
        minimal, client_configuration=configuration, persist_config=False
    )
    if context.cluster.proxy_url:
        # As in kubectl, NO_PROXY applies only to proxies from the environment.
        configuration.no_proxy = ""
    if context.cluster.insecure_skip_tls_verify:
        # The kubeconfig asks for this; urllib3 would warn at every request.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)


def _user_fields(user: KubeUser) -> dict[str, Any]:
    return user.model_dump(by_alias=True, exclude_defaults=True)


def _credential_fields(credential: Credential) -> dict[str, str]:
    """A plugin's credential as the fields of a kubeconfig user."""
    fields = {"token": credential.token} if credential.token else {}
    if credential.certificate:
        encoded = base64.b64encode(credential.certificate.encode()).decode()
        key = base64.b64encode(credential.key.encode()).decode()
        fields |= {"client-certificate-data": encoded, "client-key-data": key}
    return fields


def authorization(user: KubeUser, credential: Credential | None) -> dict[str, str]:
    """The Authorization header of a user; empty if the user has only a certificate.

    Raises:
        InvalidInput: the token file cannot be read.
    """
    token = credential.token if credential is not None else user.token
    if user.token_file:
        # Read for every request, because renewed tokens are written there.
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
    """The headers with which a user impersonates another.

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
