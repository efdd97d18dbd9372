"""Checks, the categories that run them, and their results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from prefect_linkerd.mesh.checks.options import Scope
from prefect_linkerd.mesh.errors import MeshError
from prefect_linkerd.mesh.linkerd.spans import ALL_VERSIONS, Versions
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion

Severity = Literal["error", "warning"]
CheckOutcome = Literal["success", "warning", "error", "skipped"]

HINTS = "https://linkerd.io/2/checks/#"


class Skip(Exception):
    """Raised by a check with nothing to look at: another check reports why, or nothing is wrong."""


@dataclass(frozen=True)
class Problem:
    """Something wrong that a check found: the object, what is wrong with it, and what to do."""

    subject: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}. {self.remedy}"


class Judged(Protocol):
    """What checks examine: a running mesh, or a cluster before anything is installed."""

    @property
    def version(self) -> LinkerdVersion: ...


S = TypeVar("S", bound=Judged)

Problems = Iterator[Problem]
Judge = Callable[[S], Iterable[Problem]]


@dataclass(frozen=True)
class Check(Generic[S]):
    """One check: linkerd's id and description, its severity, and the function that runs it.

    `fatal` is linkerd's own flag: when such a check fails, the rest of its category is skipped,
    as it would only repeat the same failure.
    """

    id: str
    description: str
    severity: Severity
    fatal: bool
    versions: Versions
    judge: Judge[S]

    def run(self, snapshot: S) -> CheckResult:
        """Runs the check on a snapshot; if it breaks, the outcome is an error, never a success."""
        try:
            problems = tuple(self.judge(snapshot))
        except Skip as reason:
            return CheckResult(self, "skipped", reason=str(reason))
        except MeshError as error:
            text = f"it could not be checked: {error}".removesuffix(".")
            return self._broken(Problem(error.subject, text, ""))
        except Exception as error:
            text = f"the check itself failed: {type(error).__name__}: {error}"
            return self._broken(Problem(self.id, text, "Report this with the version in use."))
        return CheckResult(self, self.severity if problems else "success", problems)

    def _broken(self, problem: Problem) -> CheckResult:
        return CheckResult(self, "error", (problem,), is_broken=True)


@dataclass(frozen=True)
class CheckResult:
    """The result of one check. `is_broken` marks a check that could not be completed."""

    check: Check[Any]
    outcome: CheckOutcome
    problems: tuple[Problem, ...] = ()
    reason: str = ""
    is_broken: bool = False


@dataclass
class Category(Generic[S]):
    """Checks on one topic, under linkerd's name for it, in the order they run.

    `also` are other commands of the linkerd CLI that run the same checks.

    Example:
        >>> nodes = Category[Any]("nodes", "beyond")
        >>> @nodes.check("pl-nodes", "there are nodes")
        ... def there_are_nodes(snapshot: Any) -> Problems:
        ...     if not snapshot.nodes:
        ...         yield Problem("cluster", "it has no nodes", "Add one.")
        >>> cluster = SimpleNamespace(version=LinkerdVersion.parse("edge-26.8.3"), nodes=[])
        >>> [result] = nodes.run(cluster).results
        >>> result.outcome, str(result.problems[0])
        ('error', 'cluster: it has no nodes. Add one.')
    """

    name: str
    scope: Scope
    checks: list[Check[S]] = field(default_factory=list[Check[S]])
    also: tuple[Scope, ...] = ()

    def check(
        self,
        id: str,  # noqa: A002 linkerd's own term
        description: str,
        severity: Severity = "error",
        *,
        fatal: bool = False,
        versions: Versions = ALL_VERSIONS,
    ) -> Callable[[Judge[S]], Judge[S]]:
        """Registers the decorated function as a check of this category."""

        def declare(judge: Judge[S]) -> Judge[S]:
            self.checks.append(Check(id, description, severity, fatal, versions, judge))
            return judge

        return declare

    def run(self, snapshot: S) -> CategoryResult:
        """Runs the checks that exist in the mesh's version."""
        results: list[CheckResult] = []
        failed: Check[S] | None = None
        for check in self.checks:
            if snapshot.version not in check.versions:
                continue
            if failed is not None:
                reason = f"{failed.id} has to pass first"
                results.append(CheckResult(check, "skipped", reason=reason))
                continue
            result = check.run(snapshot)
            results.append(result)
            if check.fatal and result.outcome in ("error", "warning"):
                failed = check
        return CategoryResult(self.name, self.scope, tuple(results))


@dataclass(frozen=True)
class CategoryResult:
    """The results of the checks of one category."""

    name: str
    scope: Scope
    results: tuple[CheckResult, ...]


def run_checks(
    snapshot: S, categories: Sequence[Category[S]], scopes: Iterable[Scope]
) -> tuple[CategoryResult, ...]:
    """Runs the categories of these scopes over one snapshot; reads nothing and never raises."""
    wanted = frozenset(scopes)
    return tuple(c.run(snapshot) for c in categories if wanted & {c.scope, *c.also})
