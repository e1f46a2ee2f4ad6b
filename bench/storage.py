"""Folders that are named by a path or a URL: on this machine, or in object storage.

Object storage (s3://, gs://, abfss:// and whatever else fsspec reads and writes) is used through fsspec, with
universal_pathlib's paths. Both come with the extra ``storage`` and are imported only for a URL.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import PlainValidator

from bench.errors import UserError, first_line

if TYPE_CHECKING:
    from upath import UPath

    Place = Path | UPath
    """A file or folder on this machine (Path) or in object storage (UPath)."""
else:
    Place = Any  # pydantic and Ray need the name when upath may not be installed

MARK = ".bench"
"""The empty object that marks a results folder in object storage, written to see whether writing is allowed."""
ANSWER_SECONDS = 12.0
"""Seconds that object storage has for its first answer."""
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs"}
"""The package behind each scheme, where the extra ``storage`` does not have it."""
_LOCAL = ("file", "local")

_NO_CREDENTIALS = (
    ("botocore.exceptions", "NoCredentialsError"),
    ("botocore.exceptions", "PartialCredentialsError"),
    ("botocore.exceptions", "ProfileNotFound"),
    ("google.auth.exceptions", "DefaultCredentialsError"),
    ("azure.core.exceptions", "ClientAuthenticationError"),
)
_NO_ANSWER = (
    ("botocore.exceptions", "EndpointConnectionError"),
    ("botocore.exceptions", "ConnectionError"),
    ("botocore.exceptions", "HTTPClientError"),
    ("aiohttp", "ClientConnectionError"),
    ("http.client", "HTTPException"),
    ("google.auth.exceptions", "TransportError"),
    ("azure.core.exceptions", "ServiceRequestError"),
)
_OTHERS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("gcsfs.retry", "HttpError"),
    ("azure.core.exceptions", "AzureError"),
)
"""The exceptions that clients raise beside OSError, by module and name."""


_TOKENS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
"""Names that file systems give to what changes with an object, the most exact first."""


class StorageError(UserError):
    """An object storage that cannot be read or written now. What is stored there is untouched."""


def place_of(value: str | Place) -> Place:
    """Return the place that a path or a URL names; nothing is read.

    Raises:
        UserError: no file system for the URL's scheme is installed.
    """
    if not isinstance(value, str):
        return value
    scheme, separator, rest = value.partition("://")
    if not separator:
        return Path(value)
    if scheme in _LOCAL:
        return Path(rest)
    if not rest.strip("/"):
        raise UserError(f"{value} names no bucket; give one, as in {scheme}://BUCKET/PREFIX")
    try:
        import fsspec
        from upath import UPath

        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        if isinstance(error, ImportError) or scheme in _PACKAGES:
            raise UserError(_what_to_install(value, scheme)) from None
        raise UserError(f"{value}: no file system is known for {scheme}://; use s3://, gs:// or abfss://") from None
    logging.getLogger("gcsfs").setLevel(logging.ERROR)  # it warns of what it then does in another way
    place: Place = UPath(value.rstrip("/"), **_options(scheme))
    return place


def url_of(place: Place) -> str:
    """Return the path or the URL that names a place; :func:`place_of` returns the place again, in any process."""
    if isinstance(place, Path) or "account_name" not in place.storage_options:
        return str(place)
    account = place.storage_options["account_name"]  # Azure's, which str(place) leaves out
    container, _, rest = place.path.partition("/")
    return f"{place.protocol}://{container}@{account}.dfs.core.windows.net/{rest}"


PlaceOption = Annotated[Place, PlainValidator(place_of)]
"""The type of an option that takes a path or a URL."""


def _what_to_install(url: str, scheme: str) -> str:
    packages = " ".join(["'image-classifier-bench[storage]'", *filter(None, [_PACKAGES.get(scheme)])])
    return f"{url} is in object storage, which needs more packages: pip install {packages}"


def _options(scheme: str) -> dict[str, Any]:
    """Return the options of a file system: listings are never cached, as others write there too."""
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme in ("s3", "s3a"):  # botocore backs off between these; s3fs tries what is left a few times more
        retries = {"total_max_attempts": 4, "mode": "standard"}
        limits = {"connect_timeout": 4, "read_timeout": 30, "max_pool_connections": 64}
        options["config_kwargs"] = {**limits, "retries": retries}
        options["max_concurrency"] = 1  # a file in one request: parts could be of two versions
    return options


def change_token(about: Mapping[str, Any]) -> str:
    """Return what changes when an object is written again, of what a file system says about it."""
    return next((str(about[key]) for key in _TOKENS if about.get(key) is not None), "")


def _types(names: tuple[tuple[str, str], ...]) -> tuple[type[Exception], ...]:
    """Return the exceptions of these names whose packages are installed."""
    kinds: list[type[Exception]] = []
    for module, name in names:
        try:
            kinds.append(getattr(importlib.import_module(module), name))
        except (ImportError, AttributeError):
            continue
    return tuple(kinds)


@contextmanager
def storage_errors(place: Place, doing: str) -> Iterator[None]:
    """Turn an exception of a storage client into a :class:`StorageError`; a file that is not there stays one.

    Args:
        place: the file or folder in object storage.
        doing: what is being done, as 'write to'.
    """
    try:
        yield
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:
        if not isinstance(error, (OSError, *_types(_NO_ANSWER + _OTHERS))):
            raise
        raise StorageError(f"cannot {doing} {url_of(place)}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return why object storage cannot be used, by the type of the exception."""
    if isinstance(error, _types(_NO_CREDENTIALS)):
        return "no credentials were found; set them as the provider's own tools read them (AWS_PROFILE, for example)"
    if isinstance(error, PermissionError):
        return f"access is refused, or the credentials have expired ({first_line(error)})"
    if isinstance(error, (TimeoutError, ConnectionError, *_types(_NO_ANSWER))):
        return f"the storage does not answer ({first_line(error)})"
    return getattr(error, "strerror", None) or first_line(error)


def reach(place: Place, *, to_write: bool = False) -> None:
    """Check within ``ANSWER_SECONDS`` that a folder in object storage can be reached.

    Args:
        place: the folder; one on this machine is not checked.
        to_write: whether it must also be possible to write there.

    Raises:
        StorageError: it cannot; the message says why.
    """
    if isinstance(place, Path):
        return
    mark = place / MARK

    def ask() -> None:
        if to_write:
            mark.fs.pipe_file(mark.path, b"")
        else:
            mark.fs.find(mark.path)

    doing = "write to" if to_write else "read"
    with storage_errors(place, doing):
        try:
            _within(ANSWER_SECONDS, ask)
        except FileNotFoundError:
            bucket = place.path.strip("/").split("/")[0]
            raise StorageError(f"cannot {doing} {url_of(place)}: there is no bucket {bucket}") from None
        except ValueError as error:  # a file system that lacks a setting
            raise StorageError(f"cannot {doing} {url_of(place)}: {first_line(error)}") from None


def _within(seconds: float, act: Callable[[], None]) -> None:
    """Call ``act`` in a thread, which is left behind if it takes longer.

    Raises:
        TimeoutError: it takes longer.
    """
    raised: list[BaseException] = []

    def call() -> None:
        try:
            act()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} s")
    if raised:
        raise raised[0]
