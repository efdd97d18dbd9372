"""A client of one Kubernetes API server, with one identity: the only access to a cluster."""

from __future__ import annotations

import json
import re
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode

import orjson
import urllib3
from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

from prefect_linkerd.mesh.config.model import ClusterAccess
from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.kubernetes.connection import Connection
from prefect_linkerd.mesh.kubernetes.kubeconfig import Kubeconfig, choose, read_kubeconfig
from prefect_linkerd.mesh.kubernetes.objects import Ref
from prefect_linkerd.mesh.kubernetes.waiting import Stopwatch

Object = dict[str, Any]
"""A Kubernetes object as the API sends it, always with `apiVersion` and `kind`."""

FIELD_MANAGER = "prefect-linkerd"
MANAGED_BY = "app.kubernetes.io/managed-by"
MADE_HERE = {MANAGED_BY: FIELD_MANAGER}
"""The label on what these flows create: objects, and Helm releases in Helm's own records of them.

It survives a backup and restore, which lose an object's field managers. Helm copies it to each
later revision, whichever client makes that, as `helm upgrade --labels` documents.
"""

MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
PAGE = 500
"""Objects per page of a list request."""
HEAD = 1024
"""The first bytes of a list, which contain its continue token."""
DATED_SECONDS = 30.0
"""Seconds for which `clock` relies on the Date header of an earlier response."""
CORE = ("/api/v1/", "/apis/apps/", "/apis/batch/")
"""Paths that the API server itself serves; a backend behind another path may have its own clock."""
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


def name_of(obj: Mapping[str, Any]) -> str:
    """`Kind/namespace/name` of an object, as every message of this project names it."""
    return str(Ref.of(obj))


def last_change(obj: Object) -> datetime | None:
    """When an object was last written, by its managedFields, rounded up to the next second."""
    entries: list[dict[str, Any]] = obj["metadata"].get("managedFields") or []
    times = [datetime.fromisoformat(entry["time"]) for entry in entries if entry.get("time")]
    return max(times) + timedelta(seconds=1) if times else None


@dataclass(frozen=True)
class ApiResource:
    """One resource of a served API group version, as discovery describes it."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool
    verbs: tuple[str, ...]


def _is_core(path: str) -> bool:
    return path.startswith(CORE) and "/proxy" not in path


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, ApiError) and error.transient


_CONTINUE = re.compile(rb'"continue":"([^"\\]+)"')


def _pages(ask: Callable[[str], bytes]) -> Iterator[tuple[list[Object], str]]:
    """Yields the items of each page of a list, with the list's resourceVersion.

    Args:
        ask: reads the page for a continue token; an empty token reads the first page.
    """
    raw = ask("")
    with ExitStack() as stack:
        pool: ThreadPoolExecutor | None = None
        while True:
            # A list's metadata comes before its items.
            head = _CONTINUE.search(raw, 0, HEAD)
            guess, ahead = head[1].decode() if head else "", None
            if guess:
                pool = pool or stack.enter_context(ThreadPoolExecutor(1))
                ahead = pool.submit(ask, guess)
            answer = orjson.loads(raw)
            # Frees megabytes while the caller uses the items.
            raw = b""
            # With metadata only, the items of an empty list are null.
            yield answer["items"] or [], answer["metadata"].get("resourceVersion") or ""
            token = answer["metadata"].get("continue") or ""
            if not token:
                return
            raw = ahead.result() if ahead is not None and token == guess else ask(token)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the lines of a streamed response, each as soon as it is complete."""
    left = b""
    for chunk in chunks:
        *lines, left = (left + chunk).split(b"\n")
        yield from filter(None, lines)


def _wrapped(error: BaseException) -> BaseException | None:
    """The error that an error wraps: urllib3 has it as `reason`, httpx raises while handling it."""
    inner: Any = getattr(error, "reason", None) or error.__cause__ or error.__context__
    if isinstance(inner, BaseExceptionGroup):
        # One error for each address that was tried.
        return cast("BaseExceptionGroup[BaseException]", inner).exceptions[0]
    return inner if isinstance(inner, BaseException) else None


def cause_of(error: BaseException) -> str:
    """Why there was no response, in the words of the innermost error: the system's, or TLS's."""
    while (inner := _wrapped(error)) is not None:
        error = inner
    for tls in (error, *error.args):
        if isinstance(tls, ssl.SSLCertVerificationError):
            return f"SSLError, its certificate is not trusted: {tls.verify_message}"
    if isinstance(error, ConnectionRefusedError):
        # asyncio words it differently.
        return "connection refused"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return type(error).__name__


class Cluster:
    """Reads and writes objects of one cluster as plain dictionaries.

    Idempotent requests (all but `create`) are retried for up to `patience` seconds while the API
    server responds with 429 or 5xx or is unreachable.

    Args:
        kubeconfig: a parsed kubeconfig. `None` means the pod's own service account.
        context: the context to use; by default the kubeconfig's current context.
        patience: seconds for which a failing idempotent request is retried.
        request_timeout: seconds that one HTTP request may take.

    A credential plugin of the kubeconfig first runs with the first request, which raises `ApiError`
    with status 401 if the plugin fails.

    Raises:
        InvalidInput: the kubeconfig or the context does not exist or cannot be used.
    """

    def __init__(
        self,
        kubeconfig: Mapping[str, Any] | Kubeconfig | None,
        context: str | None = None,
        *,
        patience: float = 20.0,
        request_timeout: float = 30.0,
    ) -> None:
        self._patience = patience
        self._timeout = request_timeout
        if kubeconfig is not None and not isinstance(kubeconfig, Kubeconfig):
            kubeconfig = Kubeconfig.parse(kubeconfig)
        chosen = None if kubeconfig is None else choose(kubeconfig, context)
        self._connection = Connection(chosen)
        self._discovered: dict[str, dict[str, ApiResource]] = {}
        self._unwatched: set[str] = set()
        self._lock = threading.Lock()
        self._dated: tuple[str, Stopwatch] | None = None

    @classmethod
    def from_file(
        cls, path: Path | None = None, context: str | None = None, **options: float
    ) -> Cluster:
        """A cluster from a kubeconfig file; by default from the files that kubectl uses."""
        return cls(read_kubeconfig(path), context, **options)

    @classmethod
    def from_access(cls, access: ClusterAccess) -> Cluster:
        """The cluster that a configuration names."""
        return cls(None) if access.in_cluster else cls.from_file(access.kubeconfig, access.context)

    @property
    def host(self) -> str:
        """The address of the API server."""
        return self._connection.host

    @contextmanager
    def kubeconfig_file(self) -> Generator[Path]:
        """A kubeconfig for this access in a private temporary file, for programs like helm."""
        with tempfile.TemporaryDirectory(prefix="prefect-linkerd-") as folder:
            path = Path(folder, "kubeconfig")
            path.touch(mode=0o600)
            # As JSON: PyYAML leaves strings like `y` unquoted, which Go reads as a boolean.
            path.write_text(json.dumps(self._as_kubeconfig(), default=str))
            yield path

    def _as_kubeconfig(self) -> dict[str, Any]:
        return self._connection.as_kubeconfig()

    # Requests

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        subject: str = "",
        repeat: bool | None = None,
        timeout: float | None = None,
    ) -> tuple[bytes, Mapping[str, str]]:
        """Sends one HTTP request to the API server; returns the body and headers of the response.

        `repeat` says whether to retry after a transient failure; by default everything but POST
        is retried. `timeout`, in seconds, overrides the default for this request.

        Raises:
            ApiError: with the API's own message and status; `status` 0 if there was no response.
        """
        url = path + (f"?{urlencode(query)}" if query else "")
        may_repeat = method != "POST" if repeat is None else repeat

        headers = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type

        def once() -> tuple[bytes, Mapping[str, str]]:
            try:
                response = self._connection.send(
                    method,
                    url,
                    None if body is None else json.dumps(body).encode(),
                    headers,
                    self._timeout if timeout is None else timeout,
                )
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise ApiError(
                    subject or path,
                    expected=f"an answer to {method} from {self.host}",
                    found=cause_of(error),
                    remedy="Check that the API server is running and reachable from here.",
                ) from None
            if response.status >= 400:
                raise self._api_error(subject or path, method, response.status, response.data)
            if _is_core(path) and (date := response.headers.get("Date")):
                self._dated = date, Stopwatch()
            return response.data, response.headers

        if not may_repeat:
            return once()
        for attempt in Retrying(
            retry=retry_if_exception(_is_transient),
            stop=stop_after_delay(self._patience),
            wait=wait_random_exponential(multiplier=0.1, max=3),
            reraise=True,
        ):
            with attempt:
                return once()
        raise AssertionError("unreachable")

    @staticmethod
    def _api_error(subject: str, method: str, code: int, answer: bytes) -> ApiError:
        try:
            message = str(json.loads(answer)["message"])
        except (TypeError, ValueError, KeyError):
            message = answer.decode(errors="replace").strip()[:300]
        remedies = {
            401: "Log in to the cluster again: its credentials are not accepted.",
            403: "Grant this identity the role of docs/permissions.md.",
            404: "Create it, or its namespace or CRD, whichever the message names.",
            409: "Another client changed or created it in the meantime: run again.",
            422: "The API does not accept the object as written: fix the field that it names.",
        }
        return ApiError(
            subject,
            expected=f"{method} to be accepted",
            found=f"{code} {message}",
            remedy=remedies.get(code, "Run again once the API server is healthy."),
            status=code,
        )

    def read(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        subject: str = "",
        accept: str = "application/json",
        repeat: bool | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Gets an API path and returns the parsed JSON; see `request`."""
        answer, _ = self.request(
            "GET",
            path,
            query=query,
            subject=subject,
            accept=accept,
            repeat=repeat,
            timeout=timeout,
        )
        return orjson.loads(answer)

    # Discovery

    def reach(self) -> None:
        """Checks that the API server responds; does not retry, so that a user need not wait.

        Raises:
            ApiError: there was no response at all.
        """
        try:
            self.read("/version", repeat=False)
        except ApiError as error:
            if error.status == 0:
                raise

    def version(self) -> str:
        """The API server's version, such as `v1.34.4`."""
        return str(self.read("/version")["gitVersion"])

    def clock(self) -> datetime:
        """The current time by the API server's Date header, to the second.

        Uses the Date of an earlier response for `DATED_SECONDS`, unless this machine's two clocks
        have diverged since.
        """
        dated = self._dated
        if dated is not None and dated[1].agrees and (age := dated[1].seconds) < DATED_SECONDS:
            now = parsedate_to_datetime(dated[0]) + timedelta(seconds=age)
        else:
            now = parsedate_to_datetime(self.request("GET", "/version")[1]["Date"])
        return now.astimezone(UTC).replace(microsecond=0)

    def wait_until(self, moment: datetime) -> None:
        """Waits until the API server's clock reaches a moment, so that what follows is later."""
        while (left := (moment - self.clock()).total_seconds()) > 0:
            time.sleep(min(left + 0.1, 5.0))

    def api_versions(self) -> frozenset[str]:
        """Every served group version, such as `v1` or `policy/v1`."""
        groups = self.read("/apis")["groups"]
        return frozenset({"v1"} | {v["groupVersion"] for g in groups for v in g["versions"]})

    def resource(self, api_version: str, kind: str) -> ApiResource | None:
        """How a kind is served; None where it is not, which every call checks again."""
        with self._lock:
            known = self._discovered.get(api_version, {}).get(kind)
        if known:
            return known
        prefix = "/api/v1" if api_version == "v1" else f"/apis/{api_version}"
        try:
            answer = self.read(prefix)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        found = {
            item["kind"]: ApiResource(
                api_version, item["kind"], item["name"], item["namespaced"], tuple(item["verbs"])
            )
            for item in answer["resources"]
            if "/" not in item["name"]
        }
        with self._lock:
            self._discovered[api_version] = found
        return found.get(kind)

    def serves(self, api_version: str, kind: str) -> bool:
        return self.resource(api_version, kind) is not None

    def path(
        self, api_version: str, kind: str, namespace: str | None = None, name: str | None = None
    ) -> str:
        """The API path of a kind's collection or of one object.

        Raises:
            ApiError: with status 404 where the kind is not served.
        """
        resource = self.resource(api_version, kind)
        if resource is None:
            raise ApiError(
                f"{kind} ({api_version})",
                expected="the API server to serve this kind",
                found="it does not",
                remedy="Install its CRD, or use a Kubernetes version that serves it.",
                status=404,
            )
        path = "/api/v1" if api_version == "v1" else f"/apis/{api_version}"
        if resource.namespaced and namespace:
            path += f"/namespaces/{quote(namespace)}"
        path += f"/{resource.plural}"
        return f"{path}/{quote(name)}" if name else path

    # Objects

    def get(
        self, api_version: str, kind: str, name: str, namespace: str | None = None
    ) -> Object | None:
        """An object, or None where it (or its kind) does not exist."""
        subject = str(Ref(kind, namespace or "", name))
        try:
            return self.read(self.path(api_version, kind, namespace, name), subject=subject)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(
        self,
        api_version: str,
        kind: str,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        page: int = PAGE,
        metadata_only: bool = False,
    ) -> Iterator[Object]:
        """Yields the objects of a kind, read page by page; nothing where the kind is not served.

        Requests the next page while parsing one, as the API server takes as long to write it.
        With `metadata_only` the API server sends nothing but the objects' metadata.
        """
        query = {"limit": str(page)}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        accept = METADATA_ONLY if metadata_only else "application/json"
        for items, _ in self._list(api_version, kind, namespace, query, accept):
            yield from items

    def list_to_watch(
        self, api_version: str, kind: str, namespace: str
    ) -> tuple[Sequence[Object], str]:
        """Every object of a kind in a namespace, and the resourceVersion to `watch` from."""
        query = {"limit": str(PAGE)}
        pages = [*self._list(api_version, kind, namespace, query, "application/json")]
        version = pages[-1][1] if pages else ""
        return [obj for items, _ in pages for obj in items], version

    def watch(
        self, api_version: str, kind: str, namespace: str, version: str, seconds: int
    ) -> Iterator[Object]:
        """Yields the objects of a kind in a namespace as they change, except deleted ones.

        Ends after `seconds`, or sooner if the API server closes or refuses the watch, for example
        because this identity may only list; the caller then lists the objects again.

        Args:
            version: see `list_to_watch`.
        """
        path = self.path(api_version, kind, namespace)
        if path in self._unwatched:
            return
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(seconds)}
        headers = {"Accept": "application/json"}
        try:
            answer = self._connection.send(
                "GET",
                f"{path}?{urlencode(query)}",
                None,
                headers,
                seconds + self._timeout,
                is_read=False,
            )
            with closing(answer):
                if answer.status == 403:
                    self._unwatched.add(path)
                if answer.status != 200:
                    return
                for line in _lines(answer.stream()):
                    event = orjson.loads(line)
                    if event["type"] not in ("ADDED", "MODIFIED"):
                        continue
                    yield {**event["object"], "apiVersion": api_version, "kind": kind}
        except (urllib3.exceptions.HTTPError, OSError, ValueError, ApiError):
            return

    def _list(
        self,
        api_version: str,
        kind: str,
        namespace: str | None,
        query: Mapping[str, str],
        accept: str,
    ) -> Iterator[tuple[Sequence[Object], str]]:
        """Yields the items of each page, with the list's resourceVersion."""
        if not self.serves(api_version, kind):
            return
        path = self.path(api_version, kind, namespace)
        subject = f"{kind} list in {namespace or 'all'}"

        def ask(token: str) -> bytes:
            asked = {**query, "continue": token} if token else query
            return self.request("GET", path, query=asked, accept=accept, subject=subject)[0]

        try:
            for items, version in _pages(ask):
                for item in items:
                    item["apiVersion"], item["kind"] = api_version, kind
                yield items, version
        except ApiError as error:
            # The kind is no longer served if its CRD was deleted.
            if error.status != 404:
                raise
            with self._lock:
                self._discovered.pop(api_version, None)

    def apply(self, obj: Object, *, force: bool = True, dry_run: bool = False) -> Object:
        """Server-side apply: sets the given fields of an object to the given values.

        An apply that changes nothing leaves the object's resourceVersion as it was.
        """
        metadata = obj["metadata"]
        query = {"fieldManager": FIELD_MANAGER, "force": str(force).lower()}
        if dry_run:
            query["dryRun"] = "All"
        answer, _ = self.request(
            "PATCH",
            self.path(obj["apiVersion"], obj["kind"], metadata.get("namespace"), metadata["name"]),
            query=query,
            body=obj,
            content_type=APPLY_PATCH,
            subject=name_of(obj),
        )
        return json.loads(answer)

    def create(self, obj: Object) -> Object:
        """Creates an object; raises `ApiError` with status 409 if it exists. Never retried."""
        path = self.path(obj["apiVersion"], obj["kind"], obj["metadata"].get("namespace"))
        query = {"fieldManager": FIELD_MANAGER}
        return json.loads(
            self.request("POST", path, query=query, body=obj, subject=name_of(obj))[0]
        )

    def replace(self, obj: Object) -> Object:
        """Replaces an object; refused (409) if its resourceVersion is not the current one."""
        path = self.path(
            obj["apiVersion"],
            obj["kind"],
            obj["metadata"].get("namespace"),
            obj["metadata"]["name"],
        )
        query = {"fieldManager": FIELD_MANAGER}
        return json.loads(self.request("PUT", path, query=query, body=obj, subject=name_of(obj))[0])

    def merge(
        self,
        api_version: str,
        kind: str,
        name: str,
        namespace: str | None,
        patch: Object,
        *,
        dry_run: bool = False,
    ) -> Object:
        """Applies a JSON merge patch (RFC 7386) to an object."""
        answer, _ = self.request(
            "PATCH",
            self.path(api_version, kind, namespace, name),
            query={"fieldManager": FIELD_MANAGER, **({"dryRun": "All"} if dry_run else {})},
            body=patch,
            content_type=MERGE_PATCH,
            subject=str(Ref(kind, namespace or "", name)),
        )
        return json.loads(answer)

    def delete(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> bool:
        """Deletes an object; False if it did not exist."""
        try:
            self.request(
                "DELETE",
                self.path(api_version, kind, namespace, name),
                body={"propagationPolicy": "Background"},
                subject=str(Ref(kind, namespace or "", name)),
            )
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def allowed(
        self,
        verb: str,
        resource: str,
        *,
        group: str = "",
        namespace: str = "",
        name: str = "",
    ) -> bool:
        """Whether this identity may do something, according to a SelfSubjectAccessReview.

        Args:
            resource: as in a role: a plural, with a subresource after a slash.
        """
        resource, _, subresource = resource.partition("/")
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {
                "resourceAttributes": {
                    "verb": verb,
                    "resource": resource,
                    "subresource": subresource,
                    "group": group,
                    "namespace": namespace,
                    "name": name,
                }
            },
        }
        # A review writes nothing, so this POST may be retried.
        answer, _ = self.request(
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            body=review,
            subject=f"SelfSubjectAccessReview {verb} {resource}",
            repeat=True,
        )
        return bool(json.loads(answer)["status"].get("allowed", False))

    def events(self, obj: Mapping[str, Any], limit: int = 5, *, only: str = "") -> list[str]:
        """The last events about an object, oldest first, as `Reason: message`.

        Args:
            only: a type of event, `Normal` or `Warning`.
        """
        metadata = obj["metadata"]
        of_type = f",type={only}" if only else ""
        found = list(
            self.list(
                "v1",
                "Event",
                metadata.get("namespace") or "default",
                fields=f"involvedObject.kind={obj['kind']},involvedObject.name={metadata['name']}"
                f"{of_type}",
            )
        )
        found.sort(key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or "")
        return [f"{e.get('reason')}: {e.get('message')}" for e in found[-limit:]]
