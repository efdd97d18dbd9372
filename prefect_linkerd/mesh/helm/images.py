"""Rewrites the names of a mesh's images so that they are pulled from a private registry."""

from __future__ import annotations

from typing import Any

from prefect_linkerd.mesh.helm.charts import ChartName


def rewrite_image(image: str, registry: str) -> str:
    """An image's name with its registry replaced: the repository, tag and digest stay.

    `cr.l5d.io/linkerd/proxy:x` becomes `<registry>/linkerd/proxy:x`, `prom/prometheus` becomes
    `<registry>/prom/prometheus`. A name that is already in the registry does not change.
    """
    if image.startswith(registry + "/"):
        return image
    first, slash, rest = image.partition("/")
    # The first part is a registry when it has a dot or port, or is localhost (as Docker reads it).
    is_registry = bool(slash) and ("." in first or ":" in first or first == "localhost")
    return f"{registry}/{rest if is_registry else image}"


def rewrite_manifest(obj: Any, registry: str) -> Any:
    """A manifest with every `image` of every container rewritten."""
    if isinstance(obj, dict):
        items: dict[str, Any] = obj  # pyright: ignore[reportUnknownVariableType]
        return {
            key: rewrite_image(value, registry)
            if key == "image" and isinstance(value, str)
            else rewrite_manifest(value, registry)
            for key, value in items.items()
        }
    if isinstance(obj, list):
        return [rewrite_manifest(item, registry) for item in obj]  # pyright: ignore[reportUnknownVariableType]
    return obj


def image_values(name: ChartName, defaults: dict[str, Any], registry: str) -> dict[str, Any]:
    """The values that make a chart take every image from a registry.

    They follow from the chart's own default values, so that an image that a version adds is not
    missed: Linkerd's charts write `image.name` in full, or `registry` and `name` separately.
    """
    if name == "cert-manager":
        return {"imageRegistry": registry}
    if name == "traefik":
        return {"image": {"registry": registry}}
    return _image_values(defaults, registry)


def _image_values(defaults: dict[str, Any], registry: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, default in defaults.items():
        if key in ("controllerImage", "defaultRegistry") and isinstance(default, str):
            values[key] = rewrite_image(default, registry)
        elif key == "image" and isinstance(default, dict):
            image: dict[str, Any] = default  # pyright: ignore[reportUnknownVariableType]
            if image.get("registry"):
                values[key] = {"registry": rewrite_image(str(image["registry"]), registry)}
            elif "/" in str(image.get("name", "")):
                values[key] = {"name": rewrite_image(str(image["name"]), registry)}
        elif isinstance(default, dict):
            inner: dict[str, Any] = default  # pyright: ignore[reportUnknownVariableType]
            if below := _image_values(inner, registry):
                values[key] = below
    return values
