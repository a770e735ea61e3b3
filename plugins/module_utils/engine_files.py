"""The one writer of the files that engines' units read.

The router's helper, ``llm-router activate`` and Ansible all come here, so a file looks the same
whoever wrote it. `desired_files` is pure and says what should be where; `render` is pure and says
what that makes of a file's present text; `apply` reads, compares and writes.

What is written:

* llama.cpp as an instance (``llamacpp@<instance>.service``): ``LLAMACPP_ARGS=`` in
  ``<llamacpp>/<instance>.env``. Other variables and comments there are the operator's and stay.
* a model with a ``script``: the drop-in ``<units>/<unit>.d/50-llm-router.conf``, which makes the
  script the unit's ExecStart, word for word. The whole file is ours. For a model without a script
  it must not be there: the unit would go on running the script of another model that shares it.

Standard library only, for the target's Python (>= 3.9), since Ansible modules import this file.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Union

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DROP_IN = "50-llm-router.conf"
MAX_FILE = 1 << 20

_INSTANCE = re.compile(r"llamacpp@(?P<instance>[^/]+)\.service")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.service")
_BARE_WORD = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
_WHITESPACE = " \t\n\r"
_NEWLINE = "\n\r"


class EngineFileError(Exception):
    """A file cannot be worked out, read or written; the message is one sentence for a person."""


@dataclass(frozen=True)
class EngineSpec:
    """What activation needs to know of a model: the fields of models.yml of the same names."""

    name: str
    backend: str
    unit: str
    model_path: Optional[str] = None
    model_name: Optional[str] = None
    args: tuple[str, ...] = ()
    port: Optional[int] = None
    script: Optional[str] = None


@dataclass(frozen=True)
class EngineDirs:
    """Where units read from."""

    llamacpp: str = "/etc/llamacpp"
    units: str = "/etc/systemd/system"


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
class NoFile:
    """There is no such file."""


@dataclass(frozen=True)
class FileEdit:
    """A file and what should be in it. ``mode`` is a new file's; an existing one keeps its own."""

    path: str
    content: Union[WholeFile, EnvironmentKey, NoFile]
    mode: int = 0o644
    daemon_reload: bool = False
    """Whether systemd reads the file only on daemon-reload."""


@dataclass(frozen=True)
class FileResult:
    """What became, or in check mode would become, of one file. ``diff`` is a unified diff."""

    path: str
    changed: bool
    diff: str
    daemon_reload: bool = False
    """Whether systemd has to be told: the edit asked for it, and something changed."""


def desired_files(spec: EngineSpec, dirs: EngineDirs) -> list[FileEdit]:
    """What must be on disk for the unit to serve this model. Raises `EngineFileError`.

    A model that no systemd unit runs (a child process) needs no file.
    """
    if not spec.unit.endswith(".service"):
        return []
    if not _UNIT.fullmatch(spec.unit):
        raise EngineFileError(
            f"model {spec.name}: {spec.unit!r} is not the name of a systemd service"
        )
    edits = []
    instance = _INSTANCE.fullmatch(spec.unit)
    if spec.backend == "llamacpp" and instance and spec.script is None:
        edits.append(_llamacpp_file(spec, instance["instance"], dirs))
    edits.append(_drop_in(spec, dirs))
    return edits


def llamacpp_arguments(
    *, model_path: str, alias: str, port: int, args: Sequence[str] = ()
) -> list[str]:
    """llama-server's arguments without the program; ``args`` come last, so they win."""
    return [
        *("--model", model_path),
        *("--alias", alias),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        "--metrics",
        *args,
    ]


def _llamacpp_file(spec: EngineSpec, instance: str, dirs: EngineDirs) -> FileEdit:
    if "\\" in instance:
        # EnvironmentFile= is a glob pattern, and there a backslash is no ordinary character
        raise EngineFileError(
            f"model {spec.name}: the instance name in {spec.unit} has a backslash, so the unit "
            "cannot find its file; use letters, digits and . _ : - only"
        )
    if spec.model_path is None:
        raise EngineFileError(
            f"model {spec.name}: model_path is missing, and llama.cpp needs the GGUF file's path"
        )
    argv = llamacpp_arguments(
        model_path=spec.model_path,
        alias=spec.model_name or spec.name,
        port=spec.port or 8080,
        args=spec.args,
    )
    try:
        value = join_arguments(argv)
    except ValueError as error:
        raise EngineFileError(f"model {spec.name}: {error}") from error
    header = (
        f"# What {spec.unit} serves. LLAMACPP_ARGS is written by llm-router from models.yml;\n"
        "# everything else in this file stays as it is.\n"
    )
    return FileEdit(
        path=os.path.join(dirs.llamacpp, f"{instance}.env"),  # noqa: PTH118
        content=EnvironmentKey("LLAMACPP_ARGS", value, header),
    )


def _drop_in(spec: EngineSpec, dirs: EngineDirs) -> FileEdit:
    path = os.path.join(dirs.units, f"{spec.unit}.d", DROP_IN)  # noqa: PTH118
    if spec.script is None:
        return FileEdit(path, NoFile(), daemon_reload=True)
    if not spec.script.startswith("/"):
        raise EngineFileError(f"model {spec.name}: script {spec.script!r} does not begin with /")
    if _control_character(spec.script) is not None or spec.script.endswith("\\"):
        raise EngineFileError(
            f"model {spec.name}: script {spec.script!r} would not stay one line in a unit file"
        )
    text = (
        f"# Written by llm-router: {spec.unit} serves {spec.name}. Changes here will be lost.\n"
        "[Service]\n"
        "ExecStart=\n"
        f"ExecStart={spec.script}\n"
    )
    return FileEdit(path, WholeFile(text), daemon_reload=True)


def join_arguments(argv: Sequence[str]) -> str:
    """One string that systemd's ``$VARIABLE`` splits into exactly ``argv``.

    systemd splits at whitespace; in quotes and outside a backslash makes the next character
    ordinary, and nothing else is special: it expands neither ``$`` nor ``%`` in a value. Raises
    `ValueError` for what an environment variable cannot carry.
    """
    return " ".join(_word(argument) for argument in argv)


def _word(argument: str) -> str:
    bad = _control_character(argument)
    if bad is not None:
        raise ValueError(f"argument {argument!r} has the control character {bad!r}")
    if _BARE_WORD.fullmatch(argument):
        return argument
    return "'" + argument.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _control_character(text: str) -> str | None:
    """The first character that older systemd refuses in a value, or that UTF-8 cannot carry."""
    for char in text:
        code = ord(char)
        if (code < 0x20 and char != "\t") or code == 0x7F or 0xD800 <= code <= 0xDFFF:
            return char
    return None


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
    return None


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
    disk after a power cut, have the old text or the new one. An existing file keeps owner and mode.
    A missing directory is made, one level deep. A file that is a symbolic link, or anything else
    but a regular file, is refused: renaming over a link would cut it, and following it would write
    where nobody looked. Links among the directories are the operator's business. Raises
    `EngineFileError`.
    """
    planned = []
    for edit in edits:
        path = Path(edit.path)
        current, status = _read(path)
        planned.append((edit, path, current, render(edit, current), status))
    results = []
    for edit, path, current, wanted, status in planned:
        changed = wanted != current
        if changed and not check:
            _write(path, wanted, edit.mode, status)
        diff = _diff(edit.path, current, wanted) if changed else ""
        results.append(FileResult(edit.path, changed, diff, changed and edit.daemon_reload))
    return results


def _read(path: Path) -> tuple[str | None, os.stat_result | None]:
    """Text and status of the file; (None, None) where there is none."""
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise EngineFileError(
                f"{path} is a symbolic link; put a regular file there, or remove it"
            )
        if not stat.S_ISREG(status.st_mode):
            raise EngineFileError(f"{path} is not a regular file; move it away")
        if status.st_size > MAX_FILE:
            raise EngineFileError(
                f"{path} has {status.st_size} bytes, too many for a configuration file"
            )
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    except OSError as error:
        raise EngineFileError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return data.decode(), status
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise EngineFileError(f"{path}:{line}: is not UTF-8; save the file as UTF-8") from error


def _write(path: Path, text: str | None, mode: int, status: os.stat_result | None) -> None:
    try:
        if text is None:
            path.unlink(missing_ok=True)
        else:
            _make_directory(path.parent)
            _replace(path, text.encode(), mode, status)
        _sync_directory(path.parent)
    except OSError as error:
        raise EngineFileError(f"{path} cannot be written: {error.strerror}") from error


def _make_directory(directory: Path) -> None:
    if directory.is_dir():
        return
    directory.mkdir()
    directory.chmod(0o755)  # whatever the umask: engines run as users of their own


def _replace(path: Path, data: bytes, mode: int, status: os.stat_result | None) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if status is not None:
                mode = stat.S_IMODE(status.st_mode)
                if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _diff(path: str, before: str | None, after: str | None) -> str:
    lines = difflib.unified_diff(
        (before or "").splitlines(),
        (after or "").splitlines(),
        "/dev/null" if before is None else path,
        "/dev/null" if after is None else path,
        lineterm="",
    )
    return "".join(f"{line}\n" for line in lines)
