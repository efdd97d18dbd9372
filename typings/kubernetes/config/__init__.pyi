from typing import Any

from kubernetes.client import Configuration

class ConfigException(Exception): ...

def load_incluster_config(client_configuration: Configuration | None = None) -> None: ...
def load_kube_config_from_dict(
    config_dict: dict[str, Any],
    context: str | None = None,
    client_configuration: Configuration | None = None,
    persist_config: bool = True,
    temp_file_path: str | None = None,
) -> None: ...
