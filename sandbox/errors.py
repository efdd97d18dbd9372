"""What goes wrong with a sandbox."""


class SandboxError(RuntimeError):
    """A sandbox could not be made or kept running; the message says which part and why."""
