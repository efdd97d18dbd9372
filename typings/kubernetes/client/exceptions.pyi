class ApiException(Exception):
    status: int | None
    reason: str | None
    body: str | bytes | None
