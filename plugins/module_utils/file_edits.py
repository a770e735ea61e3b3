"""Files on a host, brought to what they should say: whole, one variable, or some keys of YAML.

`render` is pure and says what an edit makes of a file's present text; `apply` reads, compares and
writes, all files or none, each in one step. What is not edited stays, byte for byte.

For the target's Python (>= 3.9), since Ansible modules import this file. Standard library only,
but for YAML (`yaml_edit`).
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import grp
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

from . import safe_path, yaml_edit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_FILE = 1 << 20
LOCK_TIMEOUT = 30.0
_WHITESPACE = " \t\n\r"
_NEWLINE = "\n\r"
_LIST_MARK = "# llm-router wrote:"
_READ_ONLY = (
    "; where it is the helper that may not write there, provision the host again, or add the "
    "directory to its ReadWritePaths=: `systemctl edit llm-router-helper`"
)
_REPLACED_MARK = "# llm-router replaced:"
_SECRET = re.compile(
    r"""(?ix) ( (?: (?:admin[-_])? api[-_]key | admin[-_]key | token | password | secret ) ["']?
        (?: \s*[:=]\s* | ["'\s,]+ ) ) (?P<value> "[^"]*" | '[^']*' | [^\s,"'}\]]+ )"""
)


class EngineFileError(Exception):
    """A file cannot be worked out, read or written; the message is one sentence for a person."""


@dataclass(frozen=True)
class WholeFile:
    """The file is exactly this text."""

    text: str


@dataclass(frozen=True)
class EnvironmentKey:
    """One variable of a systemd EnvironmentFile; everything else in the file stays."""

    key: str
    value: str
    header: str
    """Comment lines that go above the variable where it is not there yet."""


@dataclass(frozen=True)
class YamlValue:
    """One value of a YAML file. ``default``: what its reader takes where it is missing or empty.
    ``fine``: other values that do as well, and stay. ``listed``: whether it is among the keys that
    a file's comment names, where one does."""

    path: tuple[str, ...]
    value: Any
    default: Any = None
    fine: tuple[Any, ...] = ()
    listed: bool = True


@dataclass(frozen=True)
class YamlKeys:
    """Values of a YAML file; every other byte in it stays.

    ``header``: comment lines of a new file; None where it must be there already (``missing`` says
    what to do then), or may be missing (``missing`` is empty). ``listed``: a comment in the file
    names the keys that are ours, and those which it names and are not wanted any more go.
    ``restores``: what a listed key replaced is noted in a second comment, and comes back then.
    """

    values: tuple[YamlValue, ...]
    header: Optional[str] = None
    missing: str = ""
    listed: bool = False
    restores: bool = False
    synonyms: Mapping[str, str] = field(default_factory=dict)
    """Other names of keys, by which the file may call them."""


@dataclass(frozen=True)
class NoFile:
    """There is no such file."""


@dataclass(frozen=True)
class FileEdit:
    """A file and what should be in it. ``mode`` is a new file's; an existing one keeps its own."""

    path: str
    content: Union[WholeFile, EnvironmentKey, YamlKeys, NoFile]
    mode: int = 0o644
    daemon_reload: bool = False
    """Whether systemd reads the file only on daemon-reload."""
    reader: Optional[str] = None
    """The group that reads the file. A new one is its alone (0640) where there is such a group."""
    secret: bool = False
    """Whether a key is in it: then nobody else may read it, even if it was there before."""
    directory: bool = True
    """Whether a missing directory is made; else it is somebody else's matter, and an error."""
    of_unit: bool = True
    """Whether it says what a unit serves, so that models of one unit take turns at it."""
    private: bool = False
    """Whether its owner alone may read it (mode 0600), even if others could before."""
    shown: Optional[Callable[[str], str]] = None
    """What a diff shows of its text, where that is not all of it."""
    leftover: Optional[str] = field(default=None, compare=False)
    """The name of another file in its directory that has to go; only its removal is a result."""


@dataclass(frozen=True)
class FileResult:
    """What became, or in check mode would become, of one file. ``diff`` is a unified diff."""

    path: str
    changed: bool
    diff: str
    daemon_reload: bool = False
    """Whether systemd has to be told: the edit asked for it, and something changed."""


def option_name(key: str) -> str:
    """An option's name as engines write it; both spell `_` and `-` alike, up to a dot."""
    head, dot, rest = key.partition(".")
    return head.replace("_", "-") + dot + rest


def environment_line(key: str, value: str) -> str:
    """``KEY="value"`` as systemd's EnvironmentFile parser reads it back, without a line end."""
    escaped = re.sub(r'(["\\`$])', r"\\\1", value)
    return f'{key}="{escaped}"'


def render(edit: FileEdit, current: str | None) -> str | None:
    """The text that the file should have, given what it has; None: no file. Pure.

    Raises `EngineFileError`, naming the line, for a file that must be edited and cannot be parsed.
    """
    content = edit.content
    if isinstance(content, WholeFile):
        return content.text
    if isinstance(content, EnvironmentKey):
        return _set_environment_key(current or "", content, edit.path)
    if isinstance(content, YamlKeys):
        return _set_yaml_keys(current, content, edit.path)
    return None


def _set_yaml_keys(current: str | None, wanted: YamlKeys, path: str) -> str | None:
    if current is None:
        if wanted.header is None and wanted.missing:
            raise EngineFileError(f"{path} does not exist; {wanted.missing}")
        if wanted.header is None:
            return None
    text = wanted.header or "" if current is None else current
    if current is not None and wanted.header is None and wanted.values:
        _see_that_it_is_whole(current, path)
    try:
        document = yaml_edit.mapping(text)
        before = _listed(text) if wanted.listed else set()
        replaced = _replaced(text) if wanted.restores else {}
        paths = []
        for each in wanted.values:
            place = _as_the_file_calls_it(each.path, document, wanted)
            name = ".".join(place)
            if each.listed:
                paths.append(place)
            if each.listed and wanted.restores and name not in before:
                with contextlib.suppress(KeyError):
                    replaced[name] = yaml_edit.get(document, place)
            if not _is_there(document, place, each):
                text = yaml_edit.set_value(text, place, each.value)
        for name in sorted(before - {".".join(place) for place in paths}):
            place = (name,) if name in document else tuple(name.split("."))
            if name in replaced:
                text = yaml_edit.set_value(text, place, replaced.pop(name))
                continue
            with contextlib.suppress(KeyError):  # where the operator was quicker
                text = yaml_edit.remove(text, place)
        if wanted.listed:
            names = [".".join(place) for place in paths]
            text = _with_list(text, names, wanted.header)
            text = _with_replaced(
                text, {name: replaced[name] for name in names if name in replaced}
            )
    except yaml_edit.YamlError as error:
        raise EngineFileError(_at(path, error.line, error.problem)) from error
    except yaml_edit.NotEditable as error:
        raise EngineFileError(
            _at(path, error.line, f"{error}; write it in a simpler way")
        ) from error
    except RecursionError as error:
        raise EngineFileError(f"{path}: its values are nested too deep; remove them") from error
    return text


def _see_that_it_is_whole(text: str, path: str) -> None:
    """An engine that goes by its defaults for what is missing must not be given half a file, and
    half a file is mostly YAML still."""
    if not text.strip():
        raise EngineFileError(
            f"{path} is empty, and its engine would go by its defaults; bring its text back first"
        )
    if not text.endswith(("\n", "\r")) and not text.lstrip().startswith("{"):
        line = len(text.splitlines())
        raise EngineFileError(
            f"{path}:{line}: the last line has no end, as in a file that was cut off; see that "
            "nothing is missing, and end it with a line break"
        )


def _at(path: str, line: int, problem: str) -> str:
    return f"{path}:{line}: {problem}" if line else f"{path}: {problem}"


def _is_there(document: Mapping[str, Any], path: tuple[str, ...], wanted: YamlValue) -> bool:
    try:
        value = yaml_edit.get(document, path)
    except KeyError:
        value = None
    if value is None and wanted.value is not None:
        value = wanted.default
    return any(yaml_edit.same(value, each) for each in (wanted.value, *wanted.fine))


def _as_the_file_calls_it(
    path: tuple[str, ...], document: Mapping[str, Any], wanted: YamlKeys
) -> tuple[str, ...]:
    """`model_path` and `model-path` are one option: given twice, the last would win."""
    if len(path) > 1 or path[0] in document:
        return path
    for key in document:
        name = option_name(str(key))
        if wanted.synonyms.get(name, name) == path[0]:
            return (str(key),)
    return path


def _listed(text: str) -> set[str]:
    """The keys that the file's comment says are ours."""
    for line in text.splitlines():
        if line.startswith(_LIST_MARK):
            return {name.strip() for name in line[len(_LIST_MARK) :].split(",")} - {""}
    return set()


def _with_list(text: str, names: list[str], header: str | None) -> str:
    """The text with the comment that lists ``names``; without one, it gets none for no names."""
    line = f"{_LIST_MARK} {', '.join(names)}".rstrip()
    found = re.search(f"(?m)^{re.escape(_LIST_MARK)}[^\r\n]*", text)
    if found is None and not names:
        return text
    if found is not None:
        if set(names) == _listed(text):
            return text
        new = text[: found.start()] + line + text[found.end() :]
    else:
        start = 1 if text.startswith("\ufeff") else 0
        if header is not None and text.startswith(header):
            start = len(header)
        end_of_line = "\r\n" if "\r\n" in text else "\n"
        new = text[:start] + line + end_of_line + text[start:]
    if not yaml_edit.same(yaml_edit.load(new), yaml_edit.load(text)):
        raise yaml_edit.NotEditable("has the list of llm-router's keys inside a value")
    return new


def _replaced(text: str) -> dict[str, Any]:
    """The values that stood in the place of our keys; none of a comment that was edited."""
    for line in text.splitlines():
        if line.startswith(_REPLACED_MARK):
            with contextlib.suppress(ValueError, RecursionError):
                found = json.loads(line[len(_REPLACED_MARK) :])
                json.dumps(found, allow_nan=False)
                return found if isinstance(found, dict) else {}
    return {}


def _with_replaced(text: str, replaced: Mapping[str, Any]) -> str:
    """The text with the comment that keeps ``replaced``, below the one that lists our keys."""
    lines = [line for line in text.splitlines(True) if not line.startswith(_REPLACED_MARK)]
    if replaced == _replaced(text):
        return text
    if replaced:
        try:
            kept = json.dumps(replaced)
        except (TypeError, ValueError) as error:
            raise yaml_edit.NotEditable(
                f"has a value that cannot be kept in a comment ({error})"
            ) from error
        place = next(number for number, line in enumerate(lines) if line.startswith(_LIST_MARK))
        end_of_line = "\r\n" if "\r\n" in text else "\n"
        lines.insert(place + 1, f"{_REPLACED_MARK} {kept}{end_of_line}")
    new = "".join(lines)
    if not yaml_edit.same(yaml_edit.load(new), yaml_edit.load(text)):
        raise yaml_edit.NotEditable("has the list of what llm-router replaced inside a value")
    return new


def _set_environment_key(text: str, wanted: EnvironmentKey, path: str) -> str:
    line = environment_line(wanted.key, wanted.value)
    spans = [(start, end) for start, end, key in _assignments(text, path) if key == wanted.key]
    if not spans:
        end_of_line = "\r\n" if "\r\n" in text else "\n"
        gap = "" if not text or text.endswith(("\n", "\r")) else end_of_line
        added = (wanted.header + line + "\n").replace("\n", end_of_line)
        return text + gap + added
    parts, position = [], 0
    for number, (start, end) in enumerate(spans):
        parts.append(text[position:start])
        if number == 0:  # the later ones would win over it
            old = text[start:end]
            parts.append(line + old[len(old.rstrip(_NEWLINE)) :])
        position = end
    parts.append(text[position:])
    return "".join(parts)


def _assignments(text: str, path: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, key) of each assignment, its line end included, by systemd's own rules.

    A value may run over several lines, in quotes or by a backslash at a line's end, and ``#`` is a
    comment only at the beginning of a line: a regular expression over lines gets that wrong.
    """
    position, size = 0, len(text)
    while position < size:
        if text[position] in _WHITESPACE:
            position += 1
            continue
        start = position
        line_end = _line_end(text, position)
        if text[position] in "#;":
            if text[position:line_end].rstrip(_NEWLINE).endswith("\\"):
                raise EngineFileError(
                    f"{path}:{_line_number(text, start)}: a comment ends with a backslash, which "
                    "versions of systemd read in different ways; take the backslash away"
                )
            position = line_end
            continue
        equals = text.find("=", position, line_end)
        if equals < 0:  # no assignment: systemd passes over it, and so do we
            position = line_end
            continue
        position = _value_end(text, equals + 1, path)
        yield start, position, text[start:equals].strip(_WHITESPACE)


def _value_end(text: str, position: int, path: str) -> int:
    """The index behind a value and its line end."""
    size = len(text)
    before_value = True  # a quote is one only where a value, or a part of it, begins
    while position < size:
        char = text[position]
        if char in _NEWLINE:
            return position + (2 if text.startswith("\r\n", position) else 1)
        if char == "\\":
            position += 2
            before_value = False
        elif before_value and char in "'\"":
            position = _quote_end(text, position, path)
        else:
            before_value = before_value and char in _WHITESPACE
            position += 1
    return size


def _quote_end(text: str, opened: int, path: str) -> int:
    """The index behind the quote that closes the one at ``opened``."""
    quote, position = text[opened], opened + 1
    while position < len(text):
        if text[position] == quote:
            return position + 1
        position += 2 if text[position] == "\\" and quote == '"' else 1
    raise EngineFileError(
        f"{path}:{_line_number(text, opened)}: a quote is opened here and never closed; close it"
    )


def _line_end(text: str, position: int) -> int:
    while position < len(text) and text[position] not in _NEWLINE:
        position += 1
    while position < len(text) and text[position] in _NEWLINE:
        position += 1
    return position


def _line_number(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def apply(edits: Sequence[FileEdit], check: bool = False) -> list[FileResult]:
    """Bring the files to what the edits say; with ``check``, only say what would change.

    Nothing is written unless every file could be read and worked out. A file is replaced whole
    (temporary file in its directory, fsync, rename, fsync of the directory), so a reader, and the
    disk after a power cut, have the old text or the new one. An existing file keeps owner and mode;
    a new one in another user's directory is his. A missing directory is made, one level deep.
    Directories are held open from the first look to the rename, by the rules of `safe_path`. A
    file that is a symbolic link, or anything else but a regular file, is refused: renaming over a
    link would cut it, and following it would write where nobody looked. Raises `EngineFileError`.
    """
    with contextlib.ExitStack() as stack:
        planned = []
        for edit in [each for one in edits for each in (one, *_leftover(one))]:
            place = _place(edit.path)
            if place is not None:
                stack.enter_context(place)
            current, status = (None, None) if place is None else _read(place)
            wanted = render(edit, current)
            if wanted is not None:
                _access(edit, status, place)  # raises what would be in the way of writing
                if wanted != current:
                    _see_that_it_is_writable(edit.path, place)
                if place is None and not edit.directory:
                    path = Path(edit.path)
                    raise EngineFileError(
                        f"{path.parent} is not there, so {path.name} cannot be in it"
                    )
            planned.append((edit, place, current, wanted, status))
        results = []
        for edit, place, current, wanted, status in planned:
            changed = wanted != current
            if changed and not check:
                _write(edit, place, wanted, status)
            diff = _shown_diff(edit, current, wanted) if changed else ""
            results.append(FileResult(edit.path, changed, diff, changed and edit.daemon_reload))
        return results


def _leftover(edit: FileEdit) -> list[FileEdit]:
    """The removal of the file that has to go with an edit, if it is there."""
    path = os.path.join(os.path.dirname(edit.path), edit.leftover or "")  # noqa: PTH118, PTH120
    there = edit.leftover is not None and os.path.lexists(path)
    return [FileEdit(path, NoFile(), shown=lambda _: "(not shown)")] if there else []


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One editor at a time of the files in a directory; it is locked, since they are replaced.

    Any user who can read the directory can lock it too, so this waits for `LOCK_TIMEOUT` seconds
    only. Raises `EngineFileError`.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise EngineFileError(f"{directory} cannot be opened: {error.strerror}") from error
    try:
        until = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise EngineFileError(
                        f"{directory} has been locked by another program for {LOCK_TIMEOUT:.0f} s; "
                        f"`fuser -v {directory}` names it"
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def read(path: Path, *, follow: bool = False) -> str | None:
    """The text of a file; None where there is none. Raises `EngineFileError`.

    ``follow``: whether the file may be a link, by the rules of `safe_path`.
    """
    place = _place(str(path), follow=follow)
    if place is None:
        return None
    with place:
        return _read(place)[0]


def copy(path: str, name: str) -> str | None:
    """Copy a file to ``name`` in its own directory, with its owner and mode; the copy's path.

    None where there is no file. Raises `EngineFileError`.
    """
    place = _place(path)
    if place is None:
        return None
    with place:
        text, status = _read(place)
        if text is None or status is None:
            return None
        beside = str(Path(path).with_name(name))
        try:
            access = _Access(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
            _replace(place.directory, name, text.encode(), access)
        except OSError as error:
            raise EngineFileError(f"{beside} cannot be written: {error.strerror}") from error
        return beside


def _place(path: str, *, follow: bool = False) -> safe_path.Place | None:
    """Where the file is, or would be; None where its directory is missing."""
    try:
        return safe_path.find(os.path.abspath(path), follow=follow)  # noqa: PTH100 (links stay)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except safe_path.PathRefused as error:
        raise EngineFileError(str(error)) from error
    except OSError as error:
        raise EngineFileError(f"{path} cannot be read: {error.strerror}") from error


def _read(place: safe_path.Place) -> tuple[str | None, os.stat_result | None]:
    """Text and status of the file; (None, None) where there is none."""
    path = place.path
    try:
        if stat.S_ISLNK(place.status().st_mode):
            raise EngineFileError(
                f"{path} is a symbolic link; put a regular file there, or remove it"
            )
        with os.fdopen(place.open(), "rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise EngineFileError(
                f"{path} has {status.st_size} bytes, too many for a configuration file"
            )
    except FileNotFoundError:
        return None, None
    except IsADirectoryError as error:
        raise EngineFileError(f"{path} is not a regular file; move it away") from error
    except safe_path.PathRefused as error:
        raise EngineFileError(str(error)) from error
    except OSError as error:
        raise EngineFileError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return data.decode(), status
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise EngineFileError(f"{path}:{line}: is not UTF-8; save the file as UTF-8") from error


@dataclass(frozen=True)
class _Access:
    """Owner, group (None: whoever writes) and mode of a file that is written."""

    uid: Optional[int]
    gid: Optional[int]
    mode: int


def _access(
    edit: FileEdit, status: os.stat_result | None, place: safe_path.Place | None
) -> _Access:
    """Who may do what with the file. Raises `EngineFileError` if a key could be read by all."""
    if edit.private:
        return _Access(None, None, 0o600)
    reader = None
    if edit.reader is not None:
        with contextlib.suppress(KeyError):
            reader = grp.getgrnam(edit.reader).gr_gid
    if status is None:
        if reader is not None:
            return _Access(None, reader, 0o640)
        if not edit.secret:
            if place is not None and place.other is not None:
                folder = os.fstat(place.directory)
                if folder.st_uid == place.other:
                    return _Access(folder.st_uid, folder.st_gid, edit.mode)
            return _Access(None, None, edit.mode)
    else:
        mode = stat.S_IMODE(status.st_mode)
        if not (edit.secret and mode & 0o007):
            return _Access(status.st_uid, status.st_gid, mode)
        if reader is not None:
            return _Access(status.st_uid, reader, mode & 0o770 | 0o040)
    raise EngineFileError(
        f"{edit.path} gets the engine's key, and there is no group {edit.reader!r} that alone may "
        "read it; make the file yourself with the owner of the engine and mode 0600"
    )


def _write(
    edit: FileEdit, place: safe_path.Place | None, text: str | None, status: os.stat_result | None
) -> None:
    path = Path(edit.path)
    try:
        with contextlib.ExitStack() as stack:
            if place is None:
                place = stack.enter_context(_made(str(path)))
            if text is None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(place.name, dir_fd=place.directory)
            else:
                access = _access(edit, status, place)
                _replace(place.directory, place.name, text.encode(), access)
            os.fsync(place.directory)
    except OSError as error:
        remedy = _READ_ONLY if error.errno == errno.EROFS else ""
        raise EngineFileError(f"{path} cannot be written: {error.strerror}{remedy}") from error


def _see_that_it_is_writable(path: str, place: safe_path.Place | None) -> None:
    """A file system that is mounted read-only, or is so for this process, is found before the
    first file is written, and in check mode."""
    if place is not None and os.fstatvfs(place.directory).f_flag & os.ST_RDONLY:
        error = OSError(errno.EROFS, os.strerror(errno.EROFS))
        raise EngineFileError(f"{path} cannot be written: {error.strerror}{_READ_ONLY}") from error


def _made(path: str) -> safe_path.Place:
    """The file's place, in a directory that is made if it is missing."""
    path = os.path.abspath(path)  # noqa: PTH100 (links stay)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    # whoever else made it: `find` judges it
    with safe_path.find(os.path.dirname(path)) as above, contextlib.suppress(FileExistsError):  # noqa: PTH120
        os.mkdir(above.name, 0o755, dir_fd=above.directory)
        made = os.open(above.name, flags, dir_fd=above.directory)
        try:
            os.fchmod(made, 0o755)  # whatever the umask: engines run as users of their own
        finally:
            os.close(made)
    return safe_path.find(path)


def _replace(directory: int, name: str, data: bytes, access: _Access) -> None:
    temporary = f".{name}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            uid = os.geteuid() if access.uid is None else access.uid
            gid = os.getegid() if access.gid is None else access.gid
            if (uid, gid) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), access.mode)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        raise


def _shown_diff(edit: FileEdit, before: str | None, after: str | None) -> str:
    if edit.shown is None:
        return _diff(edit.path, before, after)
    hidden = [edit.shown(text) if text is not None else None for text in (before, after)]
    shown = _diff(edit.path, *hidden)
    return shown or f"--- {edit.path}\n+++ {edit.path}\n(only values that are not shown changed)\n"


def _diff(path: str, before: str | None, after: str | None) -> str:
    lines = difflib.unified_diff(
        (before or "").splitlines(),
        (after or "").splitlines(),
        "/dev/null" if before is None else path,
        "/dev/null" if after is None else path,
        lineterm="",
    )
    return "".join(f"{masked(line)}\n" for line in lines)


def masked(text: str) -> str:
    """Without the values of what is called a key, a token or a password."""
    return _SECRET.sub(lambda found: found[1] + "********", text)
