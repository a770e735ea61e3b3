"""A hub that speaks as Hugging Face's does, by its own library: what is there, and its bytes.

The library is imported when the hub is first asked: where all is there nobody needs it. Needs
Python 3.10 or newer and huggingface_hub 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, BinaryIO, Optional

from ansible_collections.roundhouse.llm.plugins.module_utils.model_files import DEFAULT_REVISION
from ansible_collections.roundhouse.llm.plugins.module_utils.model_store import (
    RepoFile,
    Snapshot,
    checked,
)

ENVIRONMENT = {
    # No telemetry, no looking for updates, no token but the one that is given; and plain HTTP,
    # which can go on where it was.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DOWNLOAD_TIMEOUT": "30",
}
"""What has to be in the environment before the library is imported."""


class DownloadError(Exception):
    """It cannot be downloaded; the message is one sentence for a person."""


class Hub:
    """A hub, by its own library. Its methods raise `DownloadError`."""

    def __init__(self, endpoint: str, token: Optional[str]) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.token = token

    @property
    def most_bytes(self) -> int:
        """What a file may have to be given out over HTTP."""
        return int(self._library.constants.MAX_HTTP_DOWNLOAD_SIZE)

    @cached_property
    def _library(self) -> Any:
        # Only where something has to be asked: raises ImportError.
        import huggingface_hub.file_download

        # A pause or a broken connection loses what is not written yet.
        huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 1 << 20
        return huggingface_hub

    def snapshot(self, repo: str, revision: Optional[str]) -> Snapshot:
        """What the repository has now, at this revision."""
        api = self._library.HfApi(endpoint=self.endpoint, token=self.token or False)
        with self._said_plainly(repo, revision):
            commit = api.model_info(repo, revision=revision or DEFAULT_REVISION).sha
            listing = {}
            for item in api.list_repo_tree(repo, revision=commit, recursive=True):
                if not isinstance(item, self._library.hf_api.RepoFile):
                    continue
                checksum = f"sha256:{item.lfs.sha256}" if item.lfs else f"git-sha1:{item.blob_id}"
                listing[item.path] = RepoFile(item.size, checksum.lower())
            try:
                return checked(Snapshot(repo, commit, listing))
            except ValueError as error:
                raise DownloadError(
                    f"{repo} on {self.endpoint} {error}: such a file could leave its directory or "
                    "replace the store's own, so nothing is downloaded"
                ) from error

    def fetch(self, snapshot: Snapshot, name: str, into: BinaryIO, have: int) -> None:
        """Append the rest of a file to ``into``, of which it has ``have`` bytes."""
        url = self._library.hf_hub_url(
            snapshot.repo, name, revision=snapshot.commit, endpoint=self.endpoint
        )
        headers = self._library.utils.build_hf_headers(token=self.token or False)
        headers["Accept-Encoding"] = "identity"  # ranges are of the file, not of its compression
        with self._said_plainly(snapshot.repo, snapshot.commit):
            self._library.file_download.http_get(
                url,
                into,
                resume_size=have,
                headers=headers,
                expected_size=snapshot.listing[name].size,
                displayed_filename=name,
            )

    @contextmanager
    def _said_plainly(self, repo: str, revision: Optional[str]) -> Iterator[None]:
        import httpx2

        errors = self._library.errors
        try:
            yield
        except errors.GatedRepoError as error:
            who = "the token's account" if self.token else "whoever has no token"
            raise DownloadError(
                f"{repo} is gated, and not for {who}: accept its terms at {self.endpoint}/{repo} "
                "and give a token of that account (models_token)"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise DownloadError(f"{repo} on {self.endpoint} has no revision {revision}") from error
        except errors.RepositoryNotFoundError as error:
            raise DownloadError(
                f"{self.endpoint} has no repository {repo}, or it is private and wants a token "
                "that may read it (models_token)"
            ) from error
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            refused = status in (401, 403)
            raise DownloadError(
                f"{self.endpoint} answers status {status} for {repo}"
                + (": give a token that may read it (models_token)" if refused else "")
            ) from error
        except httpx2.HTTPError as error:
            # files may be on another machine than the hub
            asked = error.request.url
            raise DownloadError(
                f"{asked.scheme}://{asked.netloc.decode()} cannot be reached for {repo} "
                f"({type(error).__name__}: {error}); what has been fetched stays, and the next run "
                "goes on from there"
            ) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise DownloadError(
                f"{self.endpoint} sent another number of bytes of {repo} than it had announced: "
                "run this again"
            ) from error
