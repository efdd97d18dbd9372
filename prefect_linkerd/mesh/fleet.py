"""The order in which a fleet's meshes run, and when to stop. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from prefect_linkerd.mesh.config.model import Section
from prefect_linkerd.mesh.errors import InvalidInput

MeshOutcome = Literal["waiting", "running", "succeeded", "failed"]


class FleetOptions(Section):
    """The order, how many meshes run at once, and when to stop."""

    canaries: list[str] = Field(
        default_factory=list[str],
        title="Canaries",
        description="Linkerd Mesh blocks that go first. The others begin when every canary has "
        "succeeded, and not at all when one has failed.",
    )
    at_once: int = Field(
        default=5,
        ge=1,
        le=200,
        title="At once",
        description="How many meshes may run at the same time. The deployment's own concurrency "
        "limit applies, too.",
    )
    max_failures: int = Field(
        default=0,
        ge=0,
        title="Failures allowed",
        description="Once more meshes than this have failed, no other mesh is started; those "
        "already running are waited for.",
    )
    minutes: int = Field(
        default=24 * 60,
        ge=1,
        title="Minutes for a mesh",
        description="A mesh with no result after this number of minutes counts as failed; time "
        "spent waiting for a worker or approval counts. Its run continues.",
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.canaries)) < len(self.canaries):
            raise ValueError("canaries: a mesh is named twice; name each once")
        return self


@dataclass(frozen=True)
class FleetPlan:
    """The meshes in waves: the rest start when every canary has succeeded."""

    canaries: tuple[str, ...]
    rest: tuple[str, ...]
    at_once: int
    max_failures: int

    @property
    def waves(self) -> tuple[tuple[str, ...], ...]:
        return tuple(wave for wave in (self.canaries, self.rest) if wave)

    @property
    def meshes(self) -> tuple[str, ...]:
        """Every mesh, in the order of their turns."""
        return self.canaries + self.rest

    def is_stopped(self, outcomes: Mapping[str, MeshOutcome]) -> bool:
        """Whether no more meshes are started: a canary or too many meshes failed."""
        failed = [mesh for mesh in self.meshes if outcomes.get(mesh) == "failed"]
        return len(failed) > self.max_failures or any(mesh in self.canaries for mesh in failed)

    def upcoming(self, outcomes: Mapping[str, MeshOutcome]) -> tuple[str, ...]:
        """The meshes to start now.

        Args:
            outcomes: each mesh's outcome so far; a mesh that is missing here is waiting.
        """
        if self.is_stopped(outcomes):
            return ()
        free = self.at_once - sum(outcome == "running" for outcome in outcomes.values())
        for wave in self.waves:
            now = [outcomes.get(mesh, "waiting") for mesh in wave]
            if "waiting" in now:
                waiting = [m for m, outcome in zip(wave, now, strict=True) if outcome == "waiting"]
                return tuple(waiting[: max(free, 0)])
            if "running" in now:
                break
        return ()


def plan_fleet(saved: Collection[str], meshes: Sequence[str], options: FleetOptions) -> FleetPlan:
    """The waves of a fleet: its canaries, then the rest in the order given.

    Args:
        saved: the names of all Linkerd Mesh blocks.
        meshes: the chosen ones; empty: all saved ones, sorted by name.

    Raises:
        InvalidInput: there is no mesh, one is not saved, or a canary is not among them.
    """
    chosen = tuple(dict.fromkeys(meshes)) or tuple(sorted(saved))
    strange = [name for name in chosen if name not in saved]
    strange += [name for name in options.canaries if name not in chosen]
    if strange or not chosen:
        raise InvalidInput(
            "the fleet's meshes",
            expected="names of Linkerd Mesh blocks, with the canaries among them",
            found=", ".join(strange) or "no saved mesh",
            remedy="Save the blocks, or correct the names.",
        )
    return FleetPlan(
        canaries=tuple(options.canaries),
        rest=tuple(name for name in chosen if name not in options.canaries),
        at_once=options.at_once,
        max_failures=options.max_failures,
    )
