"""From one version of Linkerd to the next, and back."""
