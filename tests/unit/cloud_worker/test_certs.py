"""What `cloud-worker certs init` leaves on the disk, judged by `ssl` and by cryptography's own verifier."""

import ssl
import sys
from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from cloud_worker.certs import init_certs
from cloud_worker.cli import main
from common.errors import CheckpointError, ConfigError


@pytest.fixture
def made(tmp_path):
    """The certificates of a server with a name and an address, and of one edge."""
    init_certs(tmp_path, ["gpu.example.org", "192.0.2.7"], ["pi"], days=100)
    return tmp_path


def load(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def verifier(folder, at=None):
    policy = PolicyBuilder().store(Store([load(folder / "ca" / "ca.crt")]))
    return policy if at is None else policy.time(at)


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_servers_certificate_stands_for_its_hosts_and_for_this_machine(made):
    server = load(made / "server" / "server.crt")

    for host in ("gpu.example.org", "localhost"):
        verifier(made).build_server_verifier(x509.DNSName(host)).verify(server, [])
    with pytest.raises(VerificationError):
        verifier(made).build_server_verifier(x509.DNSName("other.example.org")).verify(server, [])
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(address) for address in names.get_values_for_type(x509.IPAddress)} == {
        "192.0.2.7",
        "127.0.0.1",
        "::1",
    }


def test_an_edges_certificate_names_it_and_serves_nobody(made):
    edge = load(made / "edges" / "pi" / "edge.crt")

    assert [name.value for name in edge.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["pi"]
    uses = edge.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]


def test_keys_are_for_their_owner_and_belong_to_their_certificates(made):
    keys = sorted(made.rglob("*.key"))

    assert [key.name for key in keys] == ["ca.key", "edge.key", "server.key"]
    for key in keys:
        assert key.stat().st_mode & 0o777 == 0o600
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(key.with_suffix(".crt"), key)


def test_certificates_end_after_the_days_asked_for_and_the_authority_after_ten_years(made):
    now = datetime.now(timezone.utc)

    for path, days in (("server/server.crt", 100), ("edges/pi/edge.crt", 100), ("ca/ca.crt", 3652)):
        certificate = load(made / path)
        assert abs(certificate.not_valid_after_utc - now - timedelta(days=days)) < timedelta(minutes=5)
        assert certificate.not_valid_before_utc < now - timedelta(hours=12)  # clocks differ


def test_no_certificate_outlives_its_authority(tmp_path):
    """Nine years on, 825 days are more than the authority has left."""
    now = datetime.now(timezone.utc)
    init_certs(tmp_path, ["gpu"], [], days=825, now=now - timedelta(days=9 * 365))

    init_certs(tmp_path, [], ["pi"], days=825, now=now)

    authority, edge = load(tmp_path / "ca" / "ca.crt"), load(tmp_path / "edges" / "pi" / "edge.crt")
    assert edge.not_valid_after_utc == authority.not_valid_after_utc
    with pytest.raises(ConfigError, match=r"^the authority ended on \d{4}-\d\d-\d\d; make a new one"):
        init_certs(tmp_path, [], ["jetson"], days=825, now=now + timedelta(days=1000))


def test_an_edge_is_added_later_and_nothing_else_changes(made):
    before = snapshot(made)

    lines = init_certs(made, [], ["pi", "jetson"], days=100)

    after = snapshot(made)
    assert {path: after[path] for path in before} == before
    assert {path.parent.name for path in after.keys() - before.keys()} == {"jetson"}
    assert (made / "edges" / "jetson" / "ca.crt").read_bytes() == (made / "ca" / "ca.crt").read_bytes()
    assert any("--tls-cert jetson/edge.crt --tls-key jetson/edge.key" in line for line in lines)


def test_another_host_is_refused_rather_than_left_out(made):
    before = snapshot(made)

    with pytest.raises(ConfigError, match=r"server\.crt is there already, and not for b\.example; move"):
        init_certs(made, ["gpu.example.org", "b.example"], ["jetson"], days=100)

    assert snapshot(made) == before


@pytest.mark.parametrize(
    ("hosts", "edges", "days", "words"),
    [
        ([], ["pi"], 100, "--host is missing"),
        (["gpu:50051"], [], 100, "--host wants the name or IP address .* without port, got 'gpu:50051'"),
        (["gpu"], ["../pi"], 100, r"--edge wants up to 64 letters.* got '\.\./pi'"),
        (["gpu"], ["Headwater cloud"], 100, "--edge wants .* got 'Headwater cloud'"),
        (["gpu"], [], 0, "--days must be 1 to 3652, which the authority lasts, got 0"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_no_trace(tmp_path, hosts, edges, days, words):
    with pytest.raises(ConfigError, match=f"^{words}"):
        init_certs(tmp_path / "certs", hosts, edges, days)

    assert not (tmp_path / "certs").exists()


def test_without_the_authoritys_key_nothing_is_signed(made):
    """Its owner keeps it elsewhere, as well they may."""
    (made / "ca" / "ca.key").unlink()

    with pytest.raises(CheckpointError, match=r"cannot read .*ca\.key: No such file"):
        init_certs(made, [], ["jetson"], days=100)


def test_a_missing_package_is_named(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for name in ("cloud_worker.certs", "cloud_worker.authority"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    with pytest.raises(SystemExit) as ended:
        main(["certs", "init", "--out", str(tmp_path), "--host", "gpu"])

    assert ended.value.code == 1
    assert capfd.readouterr().err.startswith("Error: certificates are made with the package cryptography")
