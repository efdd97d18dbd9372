"""A mesh as a Prefect Block: set up once in the UI, chosen in every flow."""

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
    """A block's schema as its form is made of: credentials first, and what is rare closed.

    Args:
        fields: the schema of the model, as Prefect makes it.
    """
    content = deepcopy(fields)
    properties: dict[str, Any] = content["properties"]
    rare = {name: properties.pop(name) | {"position": n} for n, name in enumerate(ADVANCED)}
    content["definitions"]["Advanced"] = {
        "type": "object",
        "title": "Advanced",
        "description": "What few meshes change.",
        "properties": rare,
    }
    properties["advanced"] = {
        "$ref": "#/definitions/Advanced",
        "title": "Advanced",
        "description": "Namespaces, domains, values, charts, a private registry, lifetimes.",
    }
    for name in (*CLOSED, "advanced"):
        properties[name] = _closed(name, properties[name])
    # A block is chosen from a list, which begins with none.
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
    """A section as a choice that begins with nothing: forms show its fields once it is chosen.

    The choices have titles, as forms name them by nothing else.
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

    The same model as `mesh.config.model.MeshConfig`; its passwords and keys are kept encrypted by
    Prefect. `credentials` wins over `access`.
    """

    # A Block allows unknown fields, which would be mistakes of spelling here. Also, a server takes
    # a parameter only where it is either a block's reference or its fields: all fields of a mesh
    # have defaults, so that a reference would pass for both and be refused.
    model_config = ConfigDict(extra="forbid")

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        # The run form leaves `additionalProperties` out of what it has the server check.
        schema = super().__get_pydantic_json_schema__(core_schema, handler)
        content = handler.resolve_ref_schema(schema)
        # By its title a server knows that the parameter is a block.
        # Forms have to send the version, so that a block keeps the one that it was saved with.
        content["title"], content["required"] = cls.__name__, ["name", "version"]
        return schema

    @classmethod
    def model_json_schema(cls, *arguments: Any, **options: Any) -> dict[str, Any]:
        # Prefect asks for it once for every field, and it takes as long as a request to a server.
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
        """Puts what the form groups where it belongs; a section that nobody opened is null."""
        return ungrouped(cast("dict[str, Any]", data)) if isinstance(data, dict) else data

    _block_type_name = "Linkerd Mesh"
    _block_type_slug = "linkerd-mesh"
    _logo_url = LOGO
    _description = "A Linkerd service mesh on Kubernetes, owned by prefect-linkerd's flows."

    credentials: KubernetesCredentials | None = Field(
        default=None,
        title="Kubernetes credentials",
        description="A Kubernetes Credentials block of prefect-kubernetes. "
        "Empty: the cluster access below.",
    )

    def _define_metadata_on_nested_blocks(self, *arguments: Any, **more: Any) -> None:
        # The one method of a block that Prefect calls however it loads one: a run's references are
        # loaded by the base class.
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
        """Whether the block was saved without a version, which then has to be stored.

        Else the next release of this package would change what is wanted. The API takes a block
        without one, and the older of Prefect's UIs leaves out a field that nobody touched.
        """
        return self._block_document_id is not None and "version" not in self.model_fields_set

    def store_version(self) -> None:
        """Stores a block that lacks a version with the one that it is used with."""
        if self.lacks_version:
            self.save(self._block_document_name, overwrite=True)  # pyright: ignore[reportUnknownMemberType,reportUnusedCoroutine]

    def _take_name(self, block: str | None) -> None:
        """Calls the mesh as its block, unless somebody has named it.

        Forms come with the default filled in, and two meshes of one name would share artifacts,
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
        # A kubeconfig is no SecretStr, so a run's recorded parameters would show its keys:
        # only a saved block, which Prefect encrypts, may hold them.
        if value is None or (info.context and info.context.get("include_secrets")):
            return handler(value)
        name: str | None = value._block_document_name  # pyright: ignore[reportPrivateUsage]
        return {"block": name or "not saved"}
