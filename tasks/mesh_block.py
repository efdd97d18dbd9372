"""A mesh as a Prefect Block: set up once in the UI, chosen in every flow."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

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
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from prefect_linkerd.mesh.config.model import MeshConfig

LOGO = HttpUrl(
    "https://raw.githubusercontent.com/cncf/artwork/main/projects/linkerd/icon/color/"
    "linkerd-icon-color.png"
)


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
        return super()._to_block_document(name, *arguments, **more)

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
