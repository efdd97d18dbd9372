"""Kubeconfigs, read and merged as kubectl does.

Source: client-go v0.34 `tools/clientcmd`: `loader.go` (files, merging, relative paths),
`validation.go` (what makes a context usable), `api/v1/types.go` and `api/v1/defaults.go`.

The Python client merges differently: the last file's current context wins, and a user's relative
paths are resolved against the file that has the cluster.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.kubernetes.manifests import read_yaml

M = TypeVar("M", bound=BaseModel)


class _Section(BaseModel):
    """A section of a kubeconfig; unknown fields are kept."""

    model_config = ConfigDict(
        extra="allow",
        strict=True,
        frozen=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, value: Any) -> Any:
        if value is None:
            return {}
        if isinstance(value, Mapping):
            fields = cast("Mapping[str, Any]", value)
            return {name: inner for name, inner in fields.items() if inner is not None}
        return value


class Extension(_Section):
    """Data that belongs to another program."""

    name: str
    extension: Any = None


class KubeCluster(_Section):
    """How to reach an API server."""

    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""
    extensions: list[Extension] = []


class ExecVariable(_Section):
    name: str
    value: str = Field(default="", repr=False)


class ExecConfig(_Section):
    """A program that provides credentials.

    Source: https://kubernetes.io/docs/reference/config-api/client-authentication.v1/
    """

    command: str = ""
    args: list[str] = []
    env: list[ExecVariable] = []
    api_version: str = Field(default="", alias="apiVersion")
    install_hint: str = Field(default="", alias="installHint")
    provide_cluster_info: bool = Field(default=False, alias="provideClusterInfo")
    interactive_mode: Literal["", "Never", "IfAvailable", "Always"] = Field(
        default="", alias="interactiveMode"
    )

    @property
    def mode(self) -> str:
        """When the program may prompt; empty if `interactiveMode` is required but missing."""
        is_beta = self.api_version == "client.authentication.k8s.io/v1beta1"
        return self.interactive_mode or ("IfAvailable" if is_beta else "")


class KubeUser(_Section):
    """An identity."""

    client_certificate: str = ""
    client_certificate_data: str = Field(default="", repr=False)
    client_key: str = ""
    client_key_data: str = Field(default="", repr=False)
    token: str = Field(default="", repr=False)
    token_file: str = Field(default="", alias="tokenFile")
    username: str = ""
    password: str = Field(default="", repr=False)
    impersonate: str = Field(default="", alias="as")
    as_uid: str = ""
    as_groups: list[str] = []
    as_user_extra: dict[str, list[str]] = {}
    auth_provider: dict[str, Any] | None = Field(default=None, repr=False)
    exec: ExecConfig | None = None


class ContextEntry(_Section):
    """A cluster, and the user to access it as."""

    cluster: str = ""
    user: str = ""


class NamedCluster(_Section):
    name: str
    cluster: KubeCluster = KubeCluster()


class NamedContext(_Section):
    name: str
    context: ContextEntry = ContextEntry()


class NamedUser(_Section):
    name: str
    user: KubeUser = KubeUser()


class Kubeconfig(_Section):
    """A kubeconfig: one file, or several merged."""

    current_context: str = ""
    clusters: list[NamedCluster] = []
    contexts: list[NamedContext] = []
    users: list[NamedUser] = []

    @field_validator("clusters", "contexts", "users")
    @classmethod
    def _names_are_different(cls, entries: list[Any]) -> list[Any]:
        names = [entry.name for entry in entries]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{', '.join(sorted(twice))} is listed twice: remove one")
        return entries

    @classmethod
    def parse(cls, content: object, subject: str = "kubeconfig") -> Kubeconfig:
        """A kubeconfig from parsed YAML.

        Raises:
            InvalidInput: it is not valid; names the invalid fields without their values.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, item['loc']))}: {item['msg']}".removeprefix(": ")
                for item in error.errors(include_input=False)
            )
            raise InvalidInput(
                subject,
                expected="clusters, contexts and users, as `kubectl config view` prints them",
                found=wrong,
                remedy="Correct these fields; put numbers and dates in quotes.",
            ) from None


@dataclass(frozen=True)
class KubeContext:
    """One context of a kubeconfig, with its cluster and its user."""

    name: str
    cluster_name: str
    user_name: str
    cluster: KubeCluster
    user: KubeUser = field(repr=False)

    @property
    def server(self) -> str:
        """The API server's address; as in kubectl, http if it has no scheme."""
        address = self.cluster.server.rstrip("/")
        return address if "://" in address else f"http://{address}"

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted; credentials are sent only then."""
        return self.server.startswith("https://")

    def as_kubeconfig(self, user: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A kubeconfig with this context only.

        Args:
            user: replaces the context's own user.
        """
        own = self.user.model_dump(by_alias=True, exclude_unset=True)
        cluster = self.cluster.model_dump(by_alias=True, exclude_unset=True)
        context = {"cluster": self.cluster_name, "user": self.user_name}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": self.name,
            "clusters": [{"name": self.cluster_name, "cluster": cluster}],
            "contexts": [{"name": self.name, "context": context}],
            "users": [{"name": self.user_name, "user": own if user is None else dict(user)}],
        }


def read_kubeconfig(path: Path | None = None) -> Kubeconfig:
    """Reads one kubeconfig, or merges those that kubectl uses by default.

    Args:
        path: a file, which must exist. None means the existing files of `KUBECONFIG` or, if that
            is not set, `~/.kube/config`.

    Raises:
        InvalidInput: there is no file, or one of them is not a kubeconfig.
    """
    if path is not None:
        return read_file(path.expanduser())
    paths = default_paths(os.environ)
    found = [read_file(each) for each in paths if each.exists()]
    if not found:
        raise InvalidInput(
            "cluster access",
            expected="a kubeconfig",
            found=f"none at {', '.join(map(str, paths)) or 'KUBECONFIG, which names no file'}",
            remedy="Name one with access.kubeconfig or --kubeconfig, or set KUBECONFIG. In a pod, "
            "set access.in_cluster to use its service account.",
        )
    return merge(found)


def default_paths(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The files that kubectl reads if its command line names none.

    Expanding `~` in `KUBECONFIG` is up to the shell: like kubectl, this treats it literally.
    """
    if not (value := environment.get("KUBECONFIG", "")):
        return (Path("~/.kube/config").expanduser(),)
    return tuple(dict.fromkeys(Path(entry) for entry in value.split(os.pathsep) if entry))


def read_file(path: Path) -> Kubeconfig:
    """A kubeconfig file, with the relative paths in it made absolute.

    Raises:
        InvalidInput: it cannot be read, or is not a kubeconfig.
    """
    subject = f"kubeconfig {path}"
    try:
        content = read_yaml(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        # A YAML error quotes the text, which may contain a secret.
        words = error.strerror if isinstance(error, OSError) else None
        raise InvalidInput(
            subject,
            expected="a readable kubeconfig file",
            found=words or "invalid YAML",
            # A file named explicitly is the only one read: setting KUBECONFIG would not help.
            remedy="Correct that file, or name another one with access.kubeconfig or --kubeconfig.",
        ) from None
    return resolve_paths(Kubeconfig.parse(content, subject), path.parent.absolute())


def resolve_paths(config: Kubeconfig, folder: Path) -> Kubeconfig:
    """The kubeconfig with its relative paths resolved against the folder that it is in.

    A plugin's command without a slash is looked up on `PATH`.
    """

    def absolute(section: M, *names: str) -> M:
        given = {name: value for name in names if (value := getattr(section, name))}
        changed = {name: os.path.normpath(folder / value) for name, value in given.items()}
        return section.model_copy(update=changed)

    def of_user(user: KubeUser) -> KubeUser:
        user = absolute(user, "client_certificate", "client_key", "token_file")
        if user.exec is None or os.sep not in user.exec.command:
            return user
        return user.model_copy(update={"exec": absolute(user.exec, "command")})

    return config.model_copy(
        update={
            "clusters": [
                each.model_copy(update={"cluster": absolute(each.cluster, "certificate_authority")})
                for each in config.clusters
            ],
            "users": [
                each.model_copy(update={"user": of_user(each.user)}) for each in config.users
            ],
        }
    )


def merge(configs: Sequence[Kubeconfig]) -> Kubeconfig:
    """Merges kubeconfigs: the first that sets the current context, or has an entry's name, wins.

    The fields of entries with the same name are not combined.
    """
    return Kubeconfig().model_copy(
        update={
            "current_context": next((c.current_context for c in configs if c.current_context), ""),
            "clusters": _first_of_each_name(each for c in configs for each in c.clusters),
            "contexts": _first_of_each_name(each for c in configs for each in c.contexts),
            "users": _first_of_each_name(each for c in configs for each in c.users),
        }
    )


N = TypeVar("N", NamedCluster, NamedContext, NamedUser)


def _first_of_each_name(entries: Iterable[N]) -> list[N]:
    found: dict[str, N] = {}
    for entry in entries:
        found.setdefault(entry.name, entry)
    return list(found.values())


def choose(config: Kubeconfig, name: str | None = None) -> KubeContext:
    """A context of a kubeconfig, ready for use.

    Args:
        name: by default the current context.

    Raises:
        InvalidInput: there is no such context, or it cannot be used; says why.
    """
    contexts = {entry.name: entry.context for entry in config.contexts}
    known = ", ".join(contexts) or "none"
    if not (name := name or config.current_context):
        raise InvalidInput(
            "kubeconfig",
            expected="a current context",
            found=f"none set; contexts: {known}",
            remedy="Name one with access.context or --context, or choose it with "
            "`kubectl config use-context`.",
        )
    if name not in contexts:
        raise InvalidInput(
            "kubeconfig",
            expected=f"the context {name}",
            found=f"contexts: {known}",
            remedy="Name one of these with access.context or --context, or another kubeconfig.",
        )
    context = contexts[name]
    cluster = {entry.name: entry.cluster for entry in config.clusters}.get(context.cluster)
    user = {entry.name: entry.user for entry in config.users}.get(context.user)
    faults: list[str] = []
    if cluster is None:
        faults.append(_missing("cluster", context.cluster))
    elif not cluster.server:
        faults.append(f"no server for cluster {context.cluster}")
    # kubectl does not fall back to system:anonymous either if the user is missing.
    if user is None:
        faults.append(_missing("user", context.user))
    else:
        faults += [f"user {context.user}: {fault}" for fault in user_faults(user)]
    if cluster is None or user is None or faults:
        raise InvalidInput(
            f"kubeconfig context {name}",
            expected="a cluster and a user that can be used",
            found="; ".join(faults),
            remedy="Correct this in the kubeconfig; `kubectl config view` shows it.",
        )
    return KubeContext(name, context.cluster, context.user, cluster, user)


def _missing(kind: str, name: str) -> str:
    return f"no {kind} {name}" if name else f"no {kind} named"


def user_faults(user: KubeUser) -> list[str]:
    """The reasons for which kubectl would refuse a user."""
    faults: list[str] = []
    if user.token and (user.username or user.password):
        faults.append("a token and a password, where only one is allowed")
    if (user.client_certificate or user.client_certificate_data) and not (
        user.client_key or user.client_key_data
    ):
        faults.append("a client certificate without its key")
    if (user.as_uid or user.as_groups or user.as_user_extra) and not user.impersonate:
        faults.append("groups, a UID or extra fields without a user to impersonate (as)")
    if (plugin := user.exec) is not None:
        required = {
            "command": plugin.command,
            "apiVersion": plugin.api_version,
            "interactiveMode": plugin.mode,
        }
        faults += [f"exec without {name}" for name, value in required.items() if not value]
        if user.auth_provider is not None:
            faults.append("both exec and auth-provider")
    return faults
