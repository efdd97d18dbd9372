"""The pods that run the program, for smoke tests and the probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.images import rewrite_image
from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.load import program as traffic

PROGRAM = "traffic.py"
PORT = 80
"""The port of every Service."""
CONTAINER_PORT = 8080

_FOLDER = "/smoke"


def program(name: str, namespace: str) -> Object:
    """The ConfigMap with the program that every pod runs."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": {PROGRAM: Path(traffic.__file__).read_text()},
    }


def service(name: str, namespace: str, selector: Mapping[str, str]) -> Object:
    port = {"name": "http", "port": PORT, "targetPort": CONTAINER_PORT}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": dict(selector), "ports": [port]},
    }


def serving(
    name: str,
    namespace: str,
    replicas: int,
    container: Object,
    template: Object,
    selector: Mapping[str, str],
) -> Object:
    """A Deployment whose pods answer on `CONTAINER_PORT`.

    Args:
        container: the template's container that serves; it gets its pod's name as `POD_NAME`.
        selector: the labels of its pods, which no other workload has.
    """
    container["env"] = [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    ]
    container["ports"] = [{"name": "http", "containerPort": CONTAINER_PORT}]
    container["readinessProbe"] = {
        "httpGet": {"path": "/ready", "port": "http"},
        "periodSeconds": 2,
    }
    template["spec"]["terminationGracePeriodSeconds"] = 5
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": dict(selector)},
            "template": template,
        },
    }


def container(name: str, config: MeshConfig, image: str, arguments: Sequence[str]) -> Object:
    """A container that runs the program, with as few rights as possible."""
    if config.registry is not None:
        image = rewrite_image(image, config.registry.host)
    return {
        "name": name,
        "image": image,
        "command": ["python3", f"{_FOLDER}/{PROGRAM}"],
        "args": list(arguments),
        "resources": {
            "requests": {"cpu": "20m", "memory": "32Mi"},
            "limits": {"memory": "128Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "program", "mountPath": _FOLDER, "readOnly": True}],
    }


def pod(
    config: MeshConfig,
    container: Object,
    program_name: str,
    *,
    labels: Mapping[str, str],
    meshed: bool = True,
) -> Object:
    """A pod template with one container that runs the program."""
    annotations = {"linkerd.io/inject": "enabled" if meshed else "disabled"}
    if meshed:
        annotations |= {
            # The application starts once its proxy is up.
            "config.linkerd.io/proxy-await": "enabled",
            # Whatever the mesh's default is: these requests test routing and identities, not
            # policy.
            "config.linkerd.io/default-inbound-policy": "all-unauthenticated",
        }
    spec: Object = {
        "containers": [container],
        "volumes": [{"name": "program", "configMap": {"name": program_name}}],
    }
    if config.registry is not None and config.registry.username is not None:
        spec["imagePullSecrets"] = [{"name": config.registry.pull_secret}]
    return {"metadata": {"labels": dict(labels), "annotations": annotations}, "spec": spec}


def labelled(obj: Object, labels: Mapping[str, str]) -> Object:
    """An object with more labels, which its pods get as well."""
    metadata = {**obj["metadata"], "labels": {**labels, **obj["metadata"].get("labels", {})}}
    obj = {**obj, "metadata": metadata}
    if (template := obj.get("spec", {}).get("template")) is not None:
        inner = template.get("metadata", {})
        inner = {**inner, "labels": {**labels, **inner.get("labels", {})}}
        obj["spec"] = {**obj["spec"], "template": {**template, "metadata": inner}}
    return obj
