"""``llm-router qualify``: ask, check, write the report."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskStatus

from llm_router.cli.client import AdminClient
from llm_router.cli.exits import Exit, Failed
from llm_router.cli.settings import failing
from llm_router.config import Settings, load_settings
from llm_router.nvml import open_nvml
from llm_router.qualify.client import CallFailed, RouterClient
from llm_router.qualify.compare import as_row, compare
from llm_router.qualify.page import as_html
from llm_router.qualify.plan import NotRun, names_to_check
from llm_router.qualify.report import (
    LARGEST,
    NotAReport,
    Report,
    Row,
    as_duration,
    as_text,
    read_report,
    summary,
)
from llm_router.qualify.run import Qualification
from llm_router.qualify.session import Session

MODE = 0o640
RESULTS = {
    "passed": Exit.DONE,
    "failed": Exit.CHECK_FAILED,
    "incomplete": Exit.NOT_CHECKED,
    "interrupted": Exit.INTERRUPTED,
}


def qualify(options: argparse.Namespace) -> int:
    """Check the host. Raises `Failed`, with nothing changed."""
    try:
        with failing():
            settings = load_settings(options.config)
    except Failed as failed:
        failed.status = Exit.NOT_CHECKED
        raise
    try:
        names = names_to_check(options.names, settings.models)
        before = _earlier(options.compare)
        for path in (options.json_file, options.html_file):
            _must_be_writable(path)
        report = Report(time.time(), options.budget, options.label)
        # its errors name the remedy, for a user who may not open the socket for example
        AdminClient(settings.config.admin_socket).call("GET", "/admin/status")
        _confirm(options, names)
        try:
            anyio.run(_run, options, settings, names, report)
        finally:
            if report.rows:
                _finish(options, report, before)
    except NotRun as error:
        raise Failed(str(error), Exit.NOT_CHECKED, {"code": "not_checked"}) from error
    except CallFailed as error:
        status = Exit.NOT_CHECKED if error.status else Exit.UNREACHABLE
        raise Failed(f"{error}; see systemctl status llm-router", status) from error
    return RESULTS[report.result]


def _finish(options: argparse.Namespace, report: Report, before: Mapping[str, Any] | None) -> None:
    """Compare, write, say how it went. Raises `Failed`."""
    if before is not None:
        report.comparison = compare(report, before, options.slower)
        report.rows.append(as_row(report.comparison))
        _tell(report.rows[-1])
    if options.json_file is not None:
        write_report(options.json_file, as_text(report))
    if options.html_file is not None:
        write_report(options.html_file, as_html(report))
    print(_verdict(report))


async def _run(
    options: argparse.Namespace, settings: Settings, names: list[str], report: Report
) -> None:
    """Fill the report. Raises `NotRun` and `CallFailed` before anything was changed."""
    began = time.monotonic()
    async with RouterClient.opened(settings.config.admin_socket) as router:
        nvml = await anyio.to_thread.run_sync(open_nvml)
        session = Session(settings, router, report, names, nvml=nvml, told=_tell)
        qualification = Qualification(session)
        await qualification.prepare(force=options.force)
        checks, restoring = anyio.CancelScope(), anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            await tasks.start(_end_on_signal, checks, restoring, report)
            try:
                with checks:
                    await qualification.run()
            finally:
                with restoring:
                    await qualification.restore()
                report.seconds = time.monotonic() - began
            tasks.cancel_scope.cancel()


async def _end_on_signal(
    checks: anyio.CancelScope,
    restoring: anyio.CancelScope,
    report: Report,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """End the checks on Ctrl-C, a stop or a lost terminal. The models that were loaded before are
    loaded again; a second signal ends that too."""
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with anyio.open_signal_receiver(*ends) as signals:
        task_status.started()
        async for _ in signals:
            if report.interrupted:
                restoring.cancel()
                return
            report.interrupted = True
            print("Ending: restoring the models that were loaded before", file=sys.stderr)
            checks.cancel()


def _confirm(options: argparse.Namespace, names: list[str]) -> None:
    """Raises `NotRun`."""
    if options.yes:
        return
    warning = (
        f"This loads and unloads {', '.join(names)} for up to "
        f"{as_duration(options.budget)}, and clients have to wait meanwhile."
    )
    if not sys.stdin.isatty():
        raise NotRun(f"{warning} Add --yes to do so without a question")
    print(warning)
    try:
        said = input("Go on? [y/N] ")
    except EOFError:
        said = ""
    if said.strip().lower() not in ("y", "yes"):
        raise NotRun("nothing was changed")


def _tell(row: Row) -> None:
    # the terminal may be gone; the models are restored all the same
    with contextlib.suppress(OSError):
        print(*summary([row]), flush=True)


def _verdict(report: Report) -> str:
    words = {
        "passed": "all checks that were made passed",
        "failed": "at least one check failed",
        "incomplete": "no model was tried, or the checks broke off",
        "interrupted": "ended before it was done",
    }
    counts = ", ".join(f"{len(report.of(one))} {one}" for one in ("passed", "failed", "skipped"))
    return f"{words[report.result]}: {counts} in {report.seconds:.0f} s"


def _earlier(path: Path | None) -> Mapping[str, Any] | None:
    """Raises `NotRun`."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise NotAReport(f"it is larger than {LARGEST} bytes")
        return read_report(content.decode("utf-8", "replace"))
    except OSError as error:
        raise NotRun(f"--compare: {path} cannot be read: {error.strerror}") from error
    except NotAReport as error:
        raise NotRun(f"--compare: {path} cannot be compared with: {error}") from error


def _must_be_writable(path: Path | None) -> None:
    """Now, and not after ten minutes. Raises `NotRun`."""
    if path is None:
        return
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise NotRun(f"{path} cannot be written: name a file in a directory that you may write to")


def write_report(path: Path, text: str) -> None:
    """Replace the file in one step, so that a reader never has half a report. Raises `Failed`."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(aside, flags, MODE), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), MODE)
            file.write(text)
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise Failed(f"{path} could not be written: {error.strerror}") from error
    print(f"wrote {path}")
