from typing import Any

from .exceptions import ApiException as ApiException

class Configuration:
    host: str
    retries: Any
    connection_pool_maxsize: int
    def __init__(self) -> None: ...

class ApiClient:
    configuration: Configuration
    def __init__(self, configuration: Configuration | None = None) -> None: ...
    def call_api(
        self,
        resource_path: str,
        method: str,
        *,
        header_params: dict[str, str] | None = None,
        body: Any = None,
        auth_settings: list[str] | None = None,
        _preload_content: bool = True,
        _return_http_data_only: bool | None = None,
        _request_timeout: float | tuple[float, float] | None = None,
    ) -> Any: ...
    def close(self) -> None: ...
