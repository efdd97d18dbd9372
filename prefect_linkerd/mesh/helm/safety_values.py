"""Finds extra values that contradict what the mesh depends on, and the line of each.

`helm.values` computes the keys of `SAFETY` from the mesh's configuration and its trust anchor and
never takes them from extra values. An extra value that says the same does no harm; one that differs
is a mistake that its author has to know about: a trust anchor pasted into a values file would
otherwise look as if it were in force.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import MeshError
from prefect_linkerd.mesh.helm.charts import ChartName
from prefect_linkerd.mesh.helm.values import FIELDS, SAFETY, Key, extra_of, load_extra_values
from prefect_linkerd.mesh.pki.certificates import fingerprints

ANCHORS: Key = ("identityTrustAnchorsPEM",)
_ABSENT: Any = object()

_REMEDIES: Mapping[str, str] = {
    "identityTrustAnchorsPEM": "Remove it there: provide an anchor in trust_anchor.certificate or "
    "certificate_file, and replace a running mesh's with rotate_anchor.",
    "identityTrustDomain": "Remove it there: the mesh's trust_domain sets it.",
    "clusterDomain": "Remove it there: the mesh's cluster_domain sets it.",
    "linkerdNamespace": "Remove it there: the mesh's namespaces.linkerd sets it.",
    "namespace": "Remove it there: the mesh's namespaces set it.",
    "installNamespace": "Remove it there: the mesh's namespaces are created outside Helm.",
    "identity": "Remove it there: the issuer's Secret sets it, and rotate_issuer renews that.",
}


@dataclass(frozen=True)
class UnsafeValue:
    """An extra value that differs from the mesh's.

    `place` is a values file with the line, or the field of the configuration. `found` and
    `expected` never hold key material.
    """

    key: str
    place: str
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.key} is {self.found}, but the mesh's is {self.expected}"


def unsafe_values(
    chart: ChartName, config: MeshConfig, wanted: Mapping[str, Any]
) -> list[UnsafeValue]:
    """The extra values of a chart that differ from those that its release will have.

    Args:
        wanted: the release's values, in which `SAFETY` is computed.

    Raises:
        InvalidInput: a values file cannot be read.
    """
    extra = extra_of(chart, config)
    layers = load_extra_values(extra)
    places: list[Path | str] = [*extra.files, f"{FIELDS.get(chart, '')}.inline"]
    found: list[UnsafeValue] = []
    for key in SAFETY.get(chart, ()):
        # The last layer that sets the key wins, or that sets a parent to something not a mapping.
        for layer, place in reversed(list(zip(layers, places, strict=True))):
            depth, value = _at(layer, key)
            if value is _ABSENT:
                continue
            _, right = _at(wanted, key)
            if not _is_same(key[:depth], key, value, right):
                found.append(
                    UnsafeValue(
                        key=".".join(key[:depth]),
                        place=_place(place, key[:depth]),
                        found=_in_words(key, value),
                        expected=_in_words(key, right),
                        remedy=_REMEDIES[key[0]],
                    )
                )
            break
    # A null in the place of a parent is one mistake, however many keys are below it.
    return list({(each.key, each.place): each for each in reversed(found)}.values())[::-1]


def _at(values: Mapping[str, Any], key: Key) -> tuple[int, Any]:
    """The depth and the value found at a key, or in the place of one of its parents."""
    place: Any = values
    for depth, part in enumerate(key):
        if not isinstance(place, Mapping):
            return depth, place
        if part not in place:
            return depth, _ABSENT
        place = cast("Mapping[str, Any]", place)[part]
    return len(key), place


def _is_same(found: Key, key: Key, value: Any, right: Any) -> bool:
    if found != key:
        # A parent that is null or a string removes everything below it.
        return False
    if value is None or (isinstance(value, str) and not value.strip()):
        # Empty, as in the chart's own defaults: it contradicts nothing.
        return True
    if right is _ABSENT:
        return False
    if key == ANCHORS or key[-1] == "crtPEM":
        mine, theirs = _anchors(value), _anchors(right)
        return mine is not None and mine == theirs
    return str(value).strip() == str(right).strip()


def _anchors(pem: Any) -> frozenset[str] | None:
    try:
        return fingerprints(str(pem), "certificate")
    except MeshError:
        return None


def _in_words(key: Key, value: Any) -> str:
    if value is _ABSENT or value is None or value == "":
        return "not set"
    if key[-1].endswith("PEM"):
        if key[-1] == "keyPEM":
            return "a private key"
        prints = _anchors(value)
        if prints is None:
            return "not yet there" if not str(value).startswith("-----") else "unreadable"
        return "sha256 " + " and ".join(sorted(prints))
    return repr(value) if isinstance(value, str | bool | int) else f"a {type(value).__name__}"


def _place(place: Path | str, key: Key) -> str:
    if isinstance(place, str):
        return f"{place}.{'.'.join(key)}"
    line = _line(place.expanduser().read_text(), key)
    return f"values file {place}" + (f", line {line}" if line else "")


def _line(text: str, key: Key) -> int | None:
    """The line at which a YAML text sets a key, or its closest parent; None if it has neither."""
    node = cast("yaml.Node | None", yaml.compose(text, yaml.SafeLoader))  # pyright: ignore[reportUnknownMemberType]
    line: int | None = None
    for part in key:
        pair = _pair(node, part)
        if pair is None:
            return line
        line = pair[0].start_mark.line + 1
        node = pair[1]
    return line


def _pair(node: yaml.Node | None, name: str) -> tuple[yaml.ScalarNode, yaml.Node] | None:
    """A mapping's last pair with a key; its own pairs win over those of merge keys (`<<`)."""
    if not isinstance(node, yaml.MappingNode):
        return None
    pairs = cast("list[tuple[yaml.Node, yaml.Node]]", node.value)
    for mark, value in reversed(pairs):
        if isinstance(mark, yaml.ScalarNode) and mark.value == name:
            return mark, value
    for mark, value in pairs:
        if mark.tag == "tag:yaml.org,2002:merge":
            merged = cast("list[yaml.Node]", value.value)
            for source in [value] if isinstance(value, yaml.MappingNode) else merged:
                if (found := _pair(source, name)) is not None:
                    return found
    return None
