"""BEIR's public datasets by name: fetched by beir's own downloader, then read like any folder in BEIR's format.

The downloader keeps an error page as scifact.zip, half of a file or half of an extraction. It therefore works in a
separate folder; the archive is checked before extraction, and the complete result is moved into place.
"""

import contextlib
import hashlib
import io
import lzma
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from pydantic import Field

from engines.base import is_installed
from engines.spelling import expected
from engines.storage import cache_folder, resolve, shadowed
from harness.benchmarks.base import BenchmarkError, BenchmarkSource, BenchmarkUnavailable, require
from harness.benchmarks.beir import BeirFolder
from harness.benchmarks.lines import beginning
from harness.records import Benchmark

URL = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets"
MD5 = {  # checksums of the archives, from the table in beir 2.2.0's README
    "arguana": "8ad3e3c2a5867cdced806d6503f29b99",
    "climate-fever": "8b66f0a9126c521bae2bde127b4dc99d",
    "cqadupstack": "4e41456d7df8ee7760a7f866133bda78",
    "dbpedia-entity": "c2a39eb420a3164af735795df012ac2c",
    "fever": "5a818580227bfb4b35bb6fa46d9b6c03",
    "fiqa": "17918ed23cd04fb15047f73e6c3bd9d9",
    "hotpotqa": "f412724f78b0d91183a0e86805e16114",
    "msmarco": "444067daf65d982533ea17ebd59501e4",
    "nfcorpus": "a89dba18a62ef92f7d323ec890a0d38d",
    "nq": "d4d3d2e48787a744b6f6e691ff534307",
    "quora": "18fb154900ba42a600f84b839c173167",
    "scidocs": "38121350fc3a4d2f48850f6aff52e4a9",
    "scifact": "5f7d1de60b170fc8027bb7898e2efca1",
    "trec-covid": "ce62140cb23feb9becf6270d0d1fe6d1",
    "webis-touche2020": "46f650ba5a527fc69e0a6521c5a23563",
}
# The errors of zipfile have no common base: encrypted members, unknown methods, and invalid offsets, names and streams.
BROKEN = (
    *(OSError, ValueError, RuntimeError, OverflowError, EOFError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)
MOST_MEMBERS = 10_000
MOST_TIMES = 50  # limit of unpacked to packed size: text has 3 to 10, a zip bomb 1,000 and more
EVALUATED_ON = {"msmarco": "dev"}  # the test split has the 43 queries of TREC Deep Learning (beir issue 143)


class BeirArchive(BenchmarkSource):
    """A public dataset of BEIR, downloaded once."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9_-]*)?$")  # cqadupstack/android
    split: str | None = None  # None: the split of BEIR's table
    folder: Path | None = None  # folder of the datasets; None: the cache folder
    url: str = URL  # folder that holds NAME.zip
    md5: str | None = None  # checksum of the archive; None: the checksum in MD5 if the url is BEIR's
    remove_self: bool | None = None  # None: true for the names in beir.REMOVE_SELF
    analysis: str = "english"

    def preflight(self) -> Sequence[str]:
        folder, archive = self._folder(), self.name.partition("/")[0]
        if not (folder / archive).is_dir():
            if self.url == URL and archive not in MD5:
                raise BenchmarkError(f"BEIR has no public dataset {archive!r}; {expected(archive, MD5)}")
            if not is_installed("beir"):
                require("beir", extra="mteb")
        return () if self.folder is None else shadowed(self.folder, self.config_folder)

    def load(self) -> Benchmark:
        self.preflight()
        archive = self.name.partition("/")[0]
        folder = self._folder()
        if not (folder / archive).is_dir():
            self._download(archive, folder)
        source = BeirFolder(
            path=folder / self.name,
            name=self.name,
            split=self.split or EVALUATED_ON.get(self.name, "test"),
            remove_self=self.remove_self,
            analysis=self.analysis,
            queries=self.queries,
        )
        return source.load()

    def _folder(self) -> Path:
        return cache_folder("beir") if self.folder is None else resolve(self.folder, self.config_folder)

    def _download(self, archive: str, folder: Path) -> None:
        util = require("beir.util", extra="mteb")
        url = f"{self.url.rstrip('/')}/{archive}.zip"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{archive}-", dir=folder) as staging:
            packed = Path(staging) / f"{archive}.zip"
            with _quiet_in_a_pipe():
                try:
                    util.download_url(url, str(packed))
                    check(packed, url, self.md5 or (MD5[archive] if self.url == URL else None))
                    util.download_and_unzip(url, staging)  # finds the archive there and extracts it
                except BROKEN as error:
                    reason = " ".join(str(error).split())[:200]
                    raise BenchmarkUnavailable(
                        f"{url} cannot be downloaded ({reason}); check the network, or put the dataset into {folder}"
                    ) from error
            if not (Path(staging) / archive).is_dir():
                raise BenchmarkError(f"{url}: the archive holds no folder {archive!r}; check `url` and `name`")
            with contextlib.suppress(OSError):  # another process was faster; it has the same content
                (Path(staging) / archive).rename(folder / archive)


def check(packed: Path, url: str, md5: str | None) -> None:
    """Raise BenchmarkError for an archive that is damaged, unexpected, a zip bomb, or leaves its folder."""
    if not zipfile.is_zipfile(packed):
        with packed.open("rb") as file:
            start = beginning(file.read(60).decode("utf-8", "replace"))
        raise BenchmarkError(f"{url} is not a complete zip archive, it begins with {start}; check `url` or try again")
    with packed.open("rb") as file:
        checksum = hashlib.file_digest(file, "md5").hexdigest()
    if md5 is not None and checksum != md5:
        raise BenchmarkError(f"{url} has md5 {checksum}, expected {md5}; it was changed or cut short on the way")
    try:
        with zipfile.ZipFile(packed) as archive:
            members = archive.infolist()
    except BROKEN as error:
        raise BenchmarkError(f"{url} is a broken zip archive ({error}); try again") from None
    for member in members:
        if _leaves_its_folder(member.filename):
            name = beginning(member.filename)
            raise BenchmarkError(f"{url}: member {name} would leave the folder; nothing was extracted")
    unpacked = sum(member.file_size for member in members)  # zipfile never unpacks more than file_size
    size = packed.stat().st_size
    if len(members) > MOST_MEMBERS or unpacked > MOST_TIMES * size:
        raise BenchmarkError(
            f"{url}: {len(members):,} members of {unpacked:,} bytes in an archive of {size:,} bytes; expected at most "
            f"{MOST_MEMBERS:,} members and {MOST_TIMES} times the archive's size; nothing was extracted"
        )


def _leaves_its_folder(name: str) -> bool:
    return (
        PurePosixPath(name).is_absolute()
        or bool(PureWindowsPath(name).anchor)
        or ".." in PureWindowsPath(name).parts  # splits at both kinds of slash
    )


@contextlib.contextmanager
def _quiet_in_a_pipe() -> Iterator[None]:
    """Silence beir's progress bar unless stderr is a terminal."""
    with contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO()):
        yield
