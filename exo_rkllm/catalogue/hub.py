"""Hugging Face's Hub over HTTP: what a repository holds, and its files from any byte on.

Everything that comes back is bounded, redirects are followed by hand so that the token stays with its host, and a
failure is one sentence. Mirrors that speak the same HTTP are named by HF_ENDPOINT.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

import aiohttp

from exo_rkllm import __version__
from exo_rkllm.catalogue import names
from exo_rkllm.errors import ModelNotFound, PullError, UsageError

if TYPE_CHECKING:
    from typing_extensions import Self

DEFAULT = "https://huggingface.co"
LISTING_LIMIT = 32 * 1024 * 1024
MOST_FILES = 20_000
HOPS = 6
PAUSES = (0.2, 1.0, 0.0)  # after each failure of a small request; the last one is final
CONNECT_SECONDS = 30.0
SILENCE_SECONDS = 60.0
REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Access:
    """Where the Hub is, and who asks."""

    endpoint: str = DEFAULT
    token: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Access:
        endpoint = environment.get("HF_ENDPOINT", "").strip().rstrip("/") or DEFAULT
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise UsageError(f"HF_ENDPOINT is {endpoint!r}, which is no address.", f"HF_ENDPOINT={DEFAULT}")
        return cls(endpoint, environment.get("HF_TOKEN", "").strip())


@dataclass(frozen=True, slots=True)
class File:
    path: str
    size: int | None = None
    sha256: str = ""  # known of large files only


@dataclass(frozen=True, slots=True)
class Repository:
    id: str
    revision: str
    files: Mapping[str, File]
    base_models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FoundRepository:
    """What a search says of one."""

    id: str
    files: tuple[str, ...]
    downloads: int


@dataclass(frozen=True, slots=True)
class Body:
    """A file's bytes from `start` on. `size` is the whole file's, None where the server does not say."""

    start: int
    size: int | None
    etag: str
    sha256: str
    chunks: AsyncIterator[bytes]


class Interrupted(Exception):
    """The connection broke; asking again may go on where it ended."""


class Hub:
    """One session with the Hub; use it as an async context."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            auto_decompress=True,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"exo-rkllm/{__version__}"},
            trust_env=True,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def repository(self, repo: str, revision: str = "") -> Repository:
        """Its files at one commit, and the models it was made from."""
        url = f"{self.access.endpoint}/api/models/{_path(repo)}"
        if revision:
            url += f"/revision/{quote(revision, safe='')}"
        raw = await self._small(f"{url}?blobs=true", LISTING_LIMIT, repo)
        try:
            return _repository(repo, json.loads(raw))
        except (ValueError, TypeError, RecursionError, AttributeError, KeyError):
            raise PullError(
                f"{self.access.endpoint} answers for {repo} with something that is no listing.", "Check HF_ENDPOINT."
            ) from None

    async def search(self, words: str, tag: str = "", limit: int = 50) -> tuple[FoundRepository, ...]:
        """Repositories whose names have these words, the most fetched first; of their files, the names only."""
        tagged = f"&filter={quote(tag, safe='')}" if tag else ""
        query = f"search={quote(words, safe='')}{tagged}&sort=downloads&direction=-1&limit={limit}&full=true"
        raw = await self._small(f"{self.access.endpoint}/api/models?{query}", LISTING_LIMIT, "the Hub's list of models")
        try:
            return tuple(filter(None, map(_found, json.loads(raw)[:limit])))
        except (ValueError, TypeError, RecursionError, AttributeError, KeyError):
            raise PullError(
                f"{self.access.endpoint} answers a search with something that is no list of models.",
                "Check HF_ENDPOINT.",
            ) from None

    async def read(self, repo: str, revision: str, path: str, limit: int) -> bytes:
        """A small file whole."""
        return await self._small(self._address(repo, revision, path), limit, f"{repo}/{path}")

    @contextlib.asynccontextmanager
    async def open(self, repo: str, revision: str, path: str, start: int = 0, etag: str = "") -> AsyncIterator[Body]:
        """A file from `start` on, where the server still has what `etag` names; otherwise from its beginning."""
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-", **({"If-Range": etag} if etag.startswith('"') else {})}
        async with self._get(self._address(repo, revision, path), headers, f"{repo}/{path}") as (response, digest):
            begin, size = _extent(response, start)
            yield Body(begin, size, response.headers.get("ETag", ""), digest, self._chunks(response))

    def _address(self, repo: str, revision: str, path: str) -> str:
        return f"{self.access.endpoint}/{_path(repo)}/resolve/{quote(revision, safe='')}/{quote(path)}"

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        try:
            async for chunk in response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise Interrupted(_cause(error)) from None

    async def _small(self, url: str, limit: int, what: str) -> bytes:
        for pause in PAUSES:
            try:
                return await self._whole(url, limit, what)
            except Interrupted as error:
                failure = str(error)
                await asyncio.sleep(pause)
        raise PullError(
            f"{what} cannot be fetched: {failure}.", "Check the connection and HF_ENDPOINT, then try again."
        )

    async def _whole(self, url: str, limit: int, what: str) -> bytes:
        async with self._get(url, {}, what) as (response, _):
            body = b""
            async for chunk in self._chunks(response):
                body += chunk
                if len(body) > limit:
                    raise PullError(f"{what} is larger than {limit // 1024} KiB.", "Check the repository.")
            return body

    @contextlib.asynccontextmanager
    async def _get(
        self, url: str, headers: Mapping[str, str], what: str
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, str]]:
        """Follows redirects; the token goes to the Hub's own origin and nowhere else."""
        if self._session is None:
            raise RuntimeError("a Hub is used as a context")
        home = _origin(self.access.endpoint)
        digest = ""
        for _ in range(HOPS):
            secret = self.access.token and _origin(url) == home
            own = {"Authorization": f"Bearer {self.access.token}"} if secret else {}
            try:
                response = await self._session.get(url, headers={**headers, **own}, allow_redirects=False)
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
                raise Interrupted(f"{urlsplit(url).hostname} cannot be reached: {_cause(error)}") from None
            async with response:
                digest = digest or _digest(response.headers.get("X-Linked-ETag", ""))
                if response.status not in REDIRECTS:
                    self._check(response, what, home)
                    yield response, digest
                    return
                url = _next(url, response.headers.get("Location", ""), what)
        raise PullError(f"The address of {what} leads from one place to another without end.", "Check HF_ENDPOINT.")

    def _check(self, response: aiohttp.ClientResponse, what: str, home: str) -> None:
        status = response.status
        if status in (200, 206):
            return
        if status in (401, 403):
            token = "refuses this token" if self.access.token else "wants to know who asks"
            raise PullError(
                f"There is no {what}, or it is private or gated: {home} {token} (HTTP {status}).",
                "Check the spelling; for a gated one accept its licence on its page, then set HF_TOKEN=hf_...",
            )
        if status == 404:
            raise ModelNotFound(f"{home} has no {what}.", "Check the spelling; upper and lower case count.")
        if status == 416:
            raise Interrupted("the server has fewer bytes than asked for")
        if status == 429 or status >= 500:
            raise Interrupted(f"{home} answers HTTP {status}")
        raise PullError(f"{home} answers HTTP {status} for {what}.", "Try again later.")


def _path(repo: str) -> str:
    if not names.valid_repo(repo):
        raise UsageError(f"{repo!r} is no repository.", "Write it as ORG/REPO.")
    return repo


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def _next(url: str, location: str, what: str) -> str:
    following = urljoin(url, location)
    parts = urlsplit(following)
    schemes = ("https",) if urlsplit(url).scheme == "https" else ("http", "https")
    if not location or parts.scheme not in schemes or not parts.hostname:
        raise PullError(
            f"The address of {what} leads to {location[:80]!r}, which is not followed.", "Check HF_ENDPOINT."
        )
    return following


def _digest(etag: str) -> str:
    match = re.fullmatch(r'(?:W/)?"?([0-9a-f]{64})"?', etag)
    return match[1] if match else ""


def _cause(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:200].rstrip(".")


def _extent(response: aiohttp.ClientResponse, start: int) -> tuple[int, int | None]:
    """Where the body begins, and the whole file's size. A server may answer a range with everything."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != start:
            raise Interrupted("the server sent another part than the one asked for")
        return start, None if match[2] == "*" else int(match[2])
    return 0, response.content_length


def _repository(repo: str, listing: Any) -> Repository:
    files = {}
    for one in listing["siblings"][:MOST_FILES]:
        path, lfs = one["rfilename"], one.get("lfs") or {}
        size = lfs.get("size", one.get("size"))
        digest = str(lfs.get("sha256") or lfs.get("oid") or "").removeprefix("sha256:")
        if isinstance(path, str) and all(map(names.plain_file_name, path.split("/"))):
            files[path] = File(
                path, size if isinstance(size, int) and size >= 0 else None, digest if _digest(digest) else ""
            )
    revision = listing.get("sha") or "main"
    if not re.fullmatch(r"[\w.-]{1,100}", revision):
        raise ValueError("no revision")
    return Repository(repo, revision, files, _bases(listing))


def _found(listing: Mapping[str, Any]) -> FoundRepository | None:
    repo, downloads = listing.get("id") or listing.get("modelId"), listing.get("downloads")
    if not isinstance(repo, str) or not names.valid_repo(repo):
        return None
    paths = [one["rfilename"] for one in (listing.get("siblings") or [])[:MOST_FILES]]
    files = tuple(path for path in paths if isinstance(path, str) and all(map(names.plain_file_name, path.split("/"))))
    return FoundRepository(repo, files, downloads if isinstance(downloads, int) else 0)


def _bases(listing: Mapping[str, Any]) -> tuple[str, ...]:
    """From the model card's metadata, then from the tags that the Hub derives of it."""
    card = listing.get("cardData") or {}
    base = card.get("base_model") if isinstance(card, dict) else None
    tags = [tag for tag in listing.get("tags") or [] if isinstance(tag, str) and tag.startswith("base_model:")]
    return repos([*(base if isinstance(base, list) else [base]), *(tag.rpartition(":")[2] for tag in tags)])


def repos(values: Iterable[Any]) -> tuple[str, ...]:
    """What names a repository, each once."""
    return tuple(dict.fromkeys(value for value in values if isinstance(value, str) and names.valid_repo(value)))
