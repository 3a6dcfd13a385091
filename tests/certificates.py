"""Certificates for tests, good ones and others, by the authority that `cloud-worker certs init` makes."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

from cloud_worker.authority import CLIENT, SERVER, Authority


class Pki:
    """An authority of its own in a folder of its own.

    Attributes:
        ca: the file of its certificate.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._authority = Authority.new(datetime.now(timezone.utc))
        self.ca = folder / "ca.crt"
        self.ca.write_bytes(self._authority.certificate)

    def server(self, host="127.0.0.1", **when):
        """Return certificate and key of a server."""
        return self._sign("cloud", [SERVER], [host], **when)

    def client(self, name="pi", **when):
        """Return certificate and key of an edge."""
        return self._sign(name, [CLIENT], [], **when)

    def _sign(self, name, uses, hosts, days=10, from_days=0):
        """Sign a pair that is good for `days`, the first of which is `from_days` from now."""
        now = datetime.now(timezone.utc) + timedelta(days=from_days)
        pair = self._authority.sign(name, uses, hosts, days, now)
        number = len(list(self._folder.iterdir()))
        files = self._folder / f"{number}.crt", self._folder / f"{number}.key"
        for file, data in zip(files, pair, strict=True):
            file.touch(mode=0o600)
            file.write_bytes(data)
        return files
