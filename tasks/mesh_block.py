"""A mesh as a Prefect block: set up once in the UI, selected in every flow."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar, cast

from prefect.blocks.core import Block
from prefect_kubernetes.credentials import (  # pyright: ignore[reportMissingTypeStubs]
    KubernetesCredentials,
)
from pydantic import (
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    HttpUrl,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.tasks.block_fields import ADVANCED, CLOSED, FIRST, ungrouped

LOGO = HttpUrl(
    "https://raw.githubusercontent.com/cncf/artwork/main/projects/linkerd/icon/color/"
    "linkerd-icon-color.png"
)


def block_form(fields: dict[str, Any]) -> dict[str, Any]:
    """A block's schema arranged for its form: credentials first, rarely used fields collapsed.

    Args:
        fields: the model's schema as Prefect generates it.
    """
    content = deepcopy(fields)
    properties: dict[str, Any] = content["properties"]
    rare = {name: properties.pop(name) | {"position": n} for n, name in enumerate(ADVANCED)}
    content["definitions"]["Advanced"] = {
        "type": "object",
        "title": "Advanced",
        "description": "Settings that few meshes change.",
        "properties": rare,
    }
    properties["advanced"] = {
        "$ref": "#/definitions/Advanced",
        "title": "Advanced",
        "description": "Namespaces, domains, values, charts, a private registry, lifetimes.",
    }
    for name in (*CLOSED, "advanced"):
        properties[name] = _closed(name, properties[name])
    # The block comes first: its form field is a list in which nothing is selected at first.
    credentials = properties["credentials"]
    [block] = [choice for choice in credentials["anyOf"] if "$ref" in choice]
    credentials["anyOf"] = [block, {"type": "null", "title": "None"}]
    content["properties"] = {
        name: properties[name] | {"position": number}
        for number, name in enumerate((*FIRST, *CLOSED, "advanced"))
    }
    secrets: list[str] = content["secret_fields"]
    content["secret_fields"] = [
        f"advanced.{name}" if name.partition(".")[0] in ADVANCED else name for name in secrets
    ]
    return content


def _closed(name: str, section: dict[str, Any]) -> dict[str, Any]:
    """A section as a choice that defaults to null: forms show its fields once it is selected.

    Forms label choices only by their titles.
    """
    field = MeshConfig.model_fields.get(name)
    title, description = (
        (field.title, field.description)
        if field is not None
        else (section["title"], section["description"])
    )
    return {
        "title": title,
        "description": description,
        "anyOf": [{"type": "null", "title": "Defaults"}, {"$ref": section["$ref"]}],
        "default": None,
    }


class LinkerdMesh(MeshConfig, Block):
    """One Linkerd mesh and the way to its cluster.

    The same model as `mesh.config.model.MeshConfig`; Prefect stores its passwords and keys
    encrypted. `credentials` takes precedence over `access`.
    """

    # A Block allows unknown fields, which would hide typos here. Also, a server accepts a parameter
    # only if it matches exactly one of a block reference and the block's fields: as all fields of a
    # mesh have defaults, a reference would match both and be rejected.
    model_config = ConfigDict(extra="forbid")

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        # The run form omits `additionalProperties` from the schema that the server validates.
        schema = super().__get_pydantic_json_schema__(core_schema, handler)
        content = handler.resolve_ref_schema(schema)
        # The server recognises a block parameter by this title. Forms must send the version, so
        # that a block keeps the one that it was saved with.
        content["title"], content["required"] = cls.__name__, ["name", "version"]
        return schema

    @classmethod
    def model_json_schema(cls, *arguments: Any, **options: Any) -> dict[str, Any]:
        # Cached: Prefect calls this once per field, and a call takes as long as a server request.
        key = (cls, arguments, tuple(sorted(options.items())))
        if key not in cls._schemas:
            cls._schemas[key] = super().model_json_schema(*arguments, **options)
        return deepcopy(cls._schemas[key])

    _schemas: ClassVar[dict[Any, dict[str, Any]]] = {}

    @classmethod
    def _to_block_schema(cls, *arguments: Any, **more: Any) -> Any:
        schema = super()._to_block_schema(*arguments, **more)
        return schema.model_copy(update={"fields": block_form(schema.fields)})

    @classmethod
    def _calculate_schema_checksum(cls, block_schema_fields: dict[str, Any] | None = None) -> str:
        fields = block_schema_fields or block_form(cls.model_json_schema())
        return super()._calculate_schema_checksum(fields)

    @model_validator(mode="before")
    @classmethod
    def _from_form(cls, data: Any) -> Any:
        """Moves the form's grouped fields to the top level; an unopened section is null."""
        return ungrouped(cast("dict[str, Any]", data)) if isinstance(data, dict) else data

    _block_type_name = "Linkerd Mesh"
    _block_type_slug = "linkerd-mesh"
    _logo_url = LOGO
    _description = "A Linkerd service mesh on Kubernetes, managed by prefect-linkerd's flows."

    credentials: KubernetesCredentials | None = Field(
        default=None,
        title="Kubernetes credentials",
        description="A Kubernetes Credentials block of prefect-kubernetes. "
        "Empty: the cluster access below.",
    )

    def _define_metadata_on_nested_blocks(self, *arguments: Any, **more: Any) -> None:
        # The only method of a block that Prefect calls however it loads one: it loads references in
        # a run's parameters through the base class.
        super()._define_metadata_on_nested_blocks(*arguments, **more)
        self._take_name(self._block_document_name)

    def _to_block_document(self, name: str | None = None, *arguments: Any, **more: Any) -> Any:
        self._take_name(name or self._block_document_name)
        document = super()._to_block_document(name, *arguments, **more)
        usual = type(self)(profile=self.profile)
        changed = {
            name for name in (*CLOSED, *ADVANCED) if getattr(self, name) != getattr(usual, name)
        }
        data: dict[str, Any] = document.data
        document.data = {
            **{name: data[name] for name in FIRST},
            **{name: data[name] if name in changed else None for name in CLOSED},
            "advanced": {name: data[name] for name in ADVANCED if name in changed} or None,
        }
        return document

    @property
    def lacks_version(self) -> bool:
        """Whether the block was saved without a version, so that one has to be stored.

        Otherwise the next release of this package would change the wanted version. The API accepts
        a block without one, and Prefect's older UI omits untouched fields.
        """
        return self._block_document_id is not None and "version" not in self.model_fields_set

    def store_version(self) -> None:
        """Saves a block that lacks a version with the version that it is used with."""
        if self.lacks_version:
            self.save(self._block_document_name, overwrite=True)  # pyright: ignore[reportUnknownMemberType,reportUnusedCoroutine]

    def _take_name(self, block: str | None) -> None:
        """Names the mesh after its block, unless it has a name of its own.

        Forms prefill the default name, and two meshes with the same name would share artifacts,
        events, locks and the place of the trust anchor's key.
        """
        if block and self.name == type(self).model_fields["name"].default:
            self.name = block

    @field_serializer("credentials", mode="wrap")
    def _credentials_by_name(
        self,
        value: KubernetesCredentials | None,
        handler: SerializerFunctionWrapHandler,
        info: SerializationInfo,
    ) -> Any:
        # A kubeconfig is not a SecretStr, so a run's recorded parameters would show its keys: only
        # a saved block, which Prefect encrypts, may hold them.
        if value is None or (info.context and info.context.get("include_secrets")):
            return handler(value)
        name: str | None = value._block_document_name  # pyright: ignore[reportPrivateUsage]
        return {"block": name or "not saved"}
