"""The emojivoto application: Linkerd's own demonstration, used as the mesh's smoke test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import yaml

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ChartError
from prefect_linkerd.mesh.helm.charts import failure_of, fetch
from prefect_linkerd.mesh.helm.images import rewrite_manifest
from prefect_linkerd.mesh.helm.own_objects import OwnObject, always, ensure_own
from prefect_linkerd.mesh.install.injection import ensure_meshed
from prefect_linkerd.mesh.kubernetes.client import MADE_HERE, Object, cause_of
from prefect_linkerd.mesh.kubernetes.manifests import read_objects
from prefect_linkerd.mesh.kubernetes.objects import Workload
from prefect_linkerd.mesh.kubernetes.rollout import LONG_RUNNING, Shown, await_rollouts
from prefect_linkerd.mesh.mesh import Mesh


def load_manifest(location: str) -> list[Object]:
    """The objects of a manifest, from an http(s) address or a file.

    Raises:
        ChartError: it cannot be read, or is not a manifest; `transient` if a retry may succeed.
    """
    try:
        if location.startswith(("https://", "http://")):
            text = fetch(location).raise_for_status().text
        else:
            text = Path(location).expanduser().read_text()
        found: list[Any] = list(read_objects(text))
    except (OSError, httpx.HTTPError, yaml.YAMLError) as error:
        raise ChartError(
            f"manifest {location}",
            expected="readable Kubernetes objects",
            found=_cause(error),
            remedy="Correct emojivoto.manifest, or turn emojivoto.enabled off.",
            transient=isinstance(error, httpx.TransportError),
        ) from None
    if not found or not all(isinstance(doc, dict) and "kind" in doc for doc in found):
        raise ChartError(
            f"manifest {location}",
            expected="Kubernetes objects",
            found="something else",
            remedy="Correct emojivoto.manifest, or turn emojivoto.enabled off.",
        )
    return cast("list[Object]", found)


def _cause(error: Exception) -> str:
    if isinstance(error, yaml.YAMLError):
        return "invalid YAML"
    return failure_of(error) if isinstance(error, httpx.HTTPError) else cause_of(error)


def emojivoto_objects(manifest: list[Object], config: MeshConfig) -> list[Object]:
    """Adapts the manifest to this mesh: namespace, meshed pods, images and pull secret.

    The Namespace itself is left out: it was created earlier, with its annotations.
    """
    # The label survives a backup and restore, which lose an object's field managers.
    namespace = config.namespaces.emojivoto
    objects: list[Object] = []
    for original in manifest:
        if original["kind"] == "Namespace":
            continue
        metadata: Object = original["metadata"]
        labels: dict[str, str] = {**(metadata.get("labels") or {}), **MADE_HERE}
        obj = {**original, "metadata": {**metadata, "namespace": namespace, "labels": labels}}
        if obj["kind"] in LONG_RUNNING:
            obj = _meshed(obj, original["metadata"].get("namespace", ""), config)
        if config.registry is not None:
            obj = rewrite_manifest(obj, config.registry.host)
        objects.append(obj)
    return objects


def _meshed(obj: Object, original: str, config: MeshConfig) -> Object:
    template: Object = obj["spec"]["template"]
    metadata: Object = template.get("metadata", {})
    annotations = {**metadata.get("annotations", {}), "linkerd.io/inject": "enabled"}
    pod: Object = template["spec"]
    if config.registry is not None and config.registry.username is not None:
        pod = {**pod, "imagePullSecrets": [{"name": config.registry.pull_secret}]}
    if original != config.namespaces.emojivoto:
        # The vote bot and the web server call Services by names that contain the namespace.
        pod = _moved(pod, f".{original}", f".{config.namespaces.emojivoto}")
    template = {**template, "metadata": {**metadata, "annotations": annotations}, "spec": pod}
    return {**obj, "spec": {**obj["spec"], "template": template}}


def _moved(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        items = cast("Object", value)
        return {key: _moved(item, old, new) for key, item in items.items()}
    if isinstance(value, list):
        return [_moved(item, old, new) for item in cast("list[Any]", value)]
    if isinstance(value, str):
        host, colon, port = value.partition(":")
        return f"{host.removesuffix(old)}{new}{colon}{port}" if host.endswith(old) else value
    return value


def own_emojivoto(config: MeshConfig) -> list[OwnObject]:
    """The application's objects. They only work together, so each has to be ours.

    The exception is a ServiceAccount: only its name matters, so somebody else's will do, and the
    API server often has no record of who wrote it.

    Raises:
        ChartError: the manifest cannot be read.
    """
    remedy = (
        "To leave it to its owner, set emojivoto.enabled to false; or name another namespace for "
        "the application (namespaces.emojivoto)."
    )
    manifest = load_manifest(config.emojivoto.manifest)
    return [
        OwnObject(obj, always(remedy if obj.keys() - {"apiVersion", "kind", "metadata"} else ""))
        for obj in emojivoto_objects(manifest, config)
    ]


def ensure_emojivoto(mesh: Mesh) -> list[Workload]:
    """Applies the application, and returns its workloads, which the caller waits for.

    Raises:
        ChartError: the manifest cannot be read.
        OwnershipConflict: somebody else's emojivoto is there; nothing was written.
    """
    objects = own_emojivoto(mesh.config)
    ensure_own(mesh.cluster, objects)
    return [
        Workload(kind, own.wanted["metadata"]["namespace"], own.wanted["metadata"]["name"])
        for own in objects
        if (kind := own.wanted["kind"]) in LONG_RUNNING
    ]


@dataclass(frozen=True)
class Deployed:
    """The application's workloads.

    `remeshed` are those that came up without a proxy and were restarted.
    """

    workloads: tuple[Workload, ...]
    remeshed: tuple[Workload, ...]


def deploy_emojivoto(mesh: Mesh, shown: Shown) -> Deployed:
    """Applies the application, and waits until it is up with its proxies.

    Raises:
        ChartError: the manifest cannot be read.
        OwnershipConflict: somebody else's emojivoto is there; nothing was written.
        NotReady: a workload does not come up.
    """
    workloads = ensure_emojivoto(mesh)
    place, timeout = mesh.config.namespaces.emojivoto, mesh.config.timeout_seconds
    with shown("emojivoto") as on_progress:
        await_rollouts(mesh.cluster, workloads, timeout, on_progress)
        remeshed = ensure_meshed(mesh.cluster, place, timeout, on_progress)
    return Deployed(tuple(workloads), tuple(remeshed))
