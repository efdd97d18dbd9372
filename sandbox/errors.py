"""The error of a sandbox."""


class SandboxError(RuntimeError):
    """A sandbox could not be created or kept running; the message says which part and why."""
