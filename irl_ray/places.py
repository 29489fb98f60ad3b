"""Folders on this machine and in object storage: a path, or a URI that pyarrow reads, such as s3://bucket/runs or
s3://bucket/runs?endpoint_override=https://minio.example.org."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irl_ray.errors import UserError

if TYPE_CHECKING:  # weights on this machine are read without pyarrow
    from pyarrow import fs

Place = str | os.PathLike[str]
# What the name of a run's folder ends with: when it began (UTC), and what tells it from another of the same second.
DATED = re.compile(r"_(\d{8}-\d{6})(?:-[0-9a-f]+)?$")


def is_remote(place: Place) -> bool:
    """Whether a place is a URI and not a path."""
    return "://" in str(place)


def local(place: Place) -> Path:
    """A path on this machine; `~` stays as it is where there is no home."""
    return Path(os.path.expanduser(place))


def absolute(place: Place) -> str:
    """The same place, whatever the working directory.

    Raises:
        UserError: for a URI with a password in it, which would end up in results.
    """
    if not is_remote(place):
        return str(local(place).resolve())
    host = str(place).partition("://")[2].partition("/")[0]
    if "@" in host:
        raise UserError(
            f"{str(place).partition('://')[0]}://...@{host.rpartition('@')[2]}: leave the key out of the URI, which is "
            "written into results; give it by the environment (AWS_ACCESS_KEY_ID and its like) or a role"
        )
    return str(place).rstrip("/")


def join(place: Place, *names: str) -> str:
    """A place inside a place; what follows a URI's question mark stays behind it."""
    path, mark, options = str(place).partition("?") if is_remote(place) else (str(place), "", "")
    return "/".join((path.rstrip("/"), *names)) + mark + options


def split(place: Place) -> tuple[str, str]:
    """The folder that a place is in, and its name there."""
    path, mark, options = absolute(place).partition("?") if is_remote(place) else (absolute(place), "", "")
    parent, _, name = path.rstrip("/").rpartition("/")
    return (parent or "/") + mark + options, name


def names_in(place: Place) -> list[str]:
    """Sorted names directly inside a folder; none if it is not there.

    Raises:
        UserError: if a URI cannot be reached.
    """
    if not is_remote(place):
        return sorted(os.listdir(place)) if os.path.isdir(place) else []
    return sorted(info.base_name for info in _infos(place))


def read_text(place: Place) -> str | None:
    """What a file says; None if it is not there."""
    folder, name = split(place)
    if name not in names_in(folder):
        return None
    with reached(place):
        files, path = _opened(place)
        return files.open_input_stream(path).read().decode()


def write_text(place: Place, text: str) -> None:
    """Writes a file, whole or not at all."""
    with reached(place):
        if not is_remote(place):
            fresh = Path(f"{place}.new")
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(place)
            return
        files, path = _opened(place)
        files.create_dir(path.rpartition("/")[0])
        with files.open_output_stream(path) as stream:
            stream.write(text.encode())


def copy_here(place: Place) -> Path:
    """A copy on this machine of the files directly inside a remote folder, made once for each state of them."""
    from pyarrow import fs

    infos = [info for info in _infos(place) if info.is_file]
    state = repr((str(place), sorted((info.base_name, info.size, info.mtime_ns) for info in infos)))
    cache = _cache()
    copy = cache / hashlib.sha256(state.encode()).hexdigest()[:24]
    if not copy.is_dir():
        with tempfile.TemporaryDirectory(dir=cache) as made:
            fresh = Path(made) / "copy"
            fresh.mkdir()
            for info in infos:
                with reached(place):
                    remote, _ = _opened(place)
                    fs.copy_files(info.path, str(fresh / info.base_name), remote, fs.LocalFileSystem())
            with contextlib.suppress(OSError):  # another process on this machine was first
                fresh.rename(copy)
    return copy


def _cache() -> Path:
    """The user's cache; one for this process where there is none to write to."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    cache = local(named if os.path.isabs(named) else "~/.cache") / "irl_ray"  # a relative one is to be ignored (XDG)
    with contextlib.suppress(OSError):
        if cache.is_absolute():
            cache.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=cache).close()
            return cache
    return Path(_own_cache().name)


@functools.cache
def _own_cache() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="irl_ray-")


def _opened(place: Place) -> tuple[fs.FileSystem, str]:
    from pyarrow import fs

    return fs.FileSystem.from_uri(absolute(place))


def _infos(place: Place) -> list[Any]:
    from pyarrow import fs

    with reached(place):
        remote, path = _opened(place)
        if remote.get_file_info(path).type != fs.FileType.Directory:
            return []
        return remote.get_file_info(fs.FileSelector(path))


@contextlib.contextmanager
def reached(place: Place) -> Iterator[None]:
    """What fails on the way to a place becomes one line that names it."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError) as error:
        raise UserError(f"{place}: cannot be reached ({str(error).splitlines()[0]})") from None
