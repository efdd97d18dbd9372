"""Prefect flows that manage the full lifecycle of a Linkerd service mesh."""


def __getattr__(name: str) -> str:
    # Read only on demand: shell completion imports this package.
    if name == "__version__":
        from importlib.metadata import version

        return version("prefect-linkerd")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
