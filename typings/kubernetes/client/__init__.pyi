from typing import Any

import urllib3

class Configuration:
    host: str
    retries: Any
    connection_pool_maxsize: int
    cert_file: str | None
    no_proxy: str | None
    def __init__(self) -> None: ...

class RESTClientObject:
    pool_manager: urllib3.PoolManager

class ApiClient:
    configuration: Configuration
    rest_client: RESTClientObject
    def __init__(self, configuration: Configuration | None = None) -> None: ...
    def update_params_for_auth(
        self,
        headers: dict[str, str],
        queries: list[tuple[str, str]],
        auth_settings: list[str],
        resource_path: str,
        method: str,
        body: Any,
    ) -> None: ...
