"""Real processes with real certificates: whoever is not meant to come in is told so in one line."""

import json
import subprocess

import pytest

from benchmarks.processes import BIN, export, lines_of, run_edge, start_edge, wait_for, worker_env
from tests.certificates import Pki
from tests.integration.conftest import SMALL_RUN

RUN = [*SMALL_RUN, "--epochs", "1"]
PI, JETSON = "pi-token-0123456789", "jetson-token-0123456789"


def cloud_worker(*arguments):
    command = [BIN / "cloud-worker", *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=worker_env(), timeout=120)


def certs_init(folder, *arguments):
    done = cloud_worker("certs", "init", "--out", folder, "--host", "127.0.0.1", *arguments)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    """What `certs init` makes for a server and two edges."""
    return certs_init(tmp_path_factory.mktemp("certs"), "--edge", "pi", "--edge", "jetson")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    """The same by another authority."""
    return certs_init(tmp_path_factory.mktemp("strangers"), "--edge", "pi")


@pytest.fixture
def pki(tmp_path):
    """An authority that signs what `certs init` would not."""
    return Pki(tmp_path / "pki")


def flags(ca=None, cert=None, key=None):
    files = {"--tls-ca": ca, "--tls-cert": cert, "--tls-key": key}
    return [str(word) for name, file in files.items() if file is not None for word in (name, file)]


def server_flags(folder, mutual=True):
    server = folder / "server"
    return flags(server / "ca.crt" if mutual else None, server / "server.crt", server / "server.key")


def edge_flags(folder, name):
    edge = folder / "edges" / name
    return flags(edge / "ca.crt", edge / "edge.crt", edge / "edge.key")


def secret_file(path, text):
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def refused(done, *words):
    """Exit code 1 and one line that says why, below the log's."""
    assert done.returncode == 1, done.stderr
    *log, line = done.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    for word in words:
        assert word in line
    assert "Error" not in "".join(log), done.stderr
    assert "handshake" not in "".join(log).lower(), done.stderr  # gRPC's own lines stay away
    assert done.stdout == ""


def finished(done, run_dir):
    """Exit code 0, and the whole network is evaluated."""
    assert done.returncode == 0, done.stderr
    assert json.loads((run_dir / "summary.json").read_text())["cloud_accuracy"] is not None


# -------------------------------------------------------------------- certificates


def test_with_its_certificate_an_edge_trains_exports_and_keeps_its_session_to_itself(clouds, certs, tmp_path):
    cloud, run_dir, out = clouds(*server_flags(certs)), tmp_path / "edge", tmp_path / "network.safetensors"

    finished(run_edge(cloud.address, run_dir, *RUN, *edge_flags(certs, "pi"), timeout_s=250), run_dir)

    # The certificate is the one of the run, unless another one is given.
    refused(export(run_dir, out, *edge_flags(certs, "jetson")), "was opened by another edge", "--run-dir")
    assert not out.exists()
    assert export(run_dir, out).returncode == 0
    assert out.exists()
    listed = json.loads(cloud_worker("sessions", "list", "--json", "--run-dir", cloud.run_dir).stdout)
    assert [(each["owner"], each["finished"]) for each in listed] == [("pi", True)]


def test_an_edge_that_is_not_the_owner_cannot_take_over_a_run(clouds, certs, tmp_path):
    """Not even with a copy of the run's directory, and the owner goes on."""
    cloud, run_dir, copy = clouds(*server_flags(certs)), tmp_path / "edge", tmp_path / "copy"
    owner = start_edge(cloud.address, run_dir, *SMALL_RUN, *edge_flags(certs, "pi"))
    wait_for(lambda: lines_of(run_dir) > 2, "the first batches")
    copy.mkdir()
    (copy / "run.json").write_bytes((run_dir / "run.json").read_bytes())

    refused(
        run_edge(cloud.address, copy, *SMALL_RUN, *edge_flags(certs, "jetson"), timeout_s=120),
        "the cloud refused: session",
        "was opened by another edge",
    )

    _, err = owner.communicate(timeout=250)
    assert owner.returncode == 0, err


def test_handshakes_that_fail_end_an_edge_in_one_line(clouds, certs, strangers, pki, tmp_path):
    """Long before --connect-timeout, with what to do; nothing is left in the run's directory."""
    cloud, run_dir = clouds(*server_flags(certs)), tmp_path / "edge"
    ca = certs / "edges" / "pi" / "ca.crt"
    stranger = strangers / "edges" / "pi"
    cases = [
        ([], "speaks TLS, and this side plaintext; give --tls-ca"),
        (
            flags(stranger / "ca.crt"),
            "is not trusted: unable to get local issuer certificate; --tls-ca must be",
        ),
        (flags(ca), "it wants a certificate from this side; give --tls-cert and --tls-key"),
        (flags(ca, stranger / "edge.crt", stranger / "edge.key"), "has not signed it; give another one"),
    ]
    for arguments, words in cases:
        done = run_edge(cloud.address, run_dir, *RUN, *arguments, "--connect-timeout", "10min", timeout_s=120)
        refused(done, words)
    assert not (run_dir / "run.json").exists()
    assert cloud.process.poll() is None


def test_certificates_that_have_ended_are_refused_on_either_side(clouds, pki, tmp_path):
    past = {"days": 1, "from_days": -10}
    ended, cert, key = pki.client(**past), *pki.client()
    cloud = clouds(*flags(pki.ca, *pki.server()))

    done = run_edge(cloud.address, tmp_path / "edge", *RUN, *flags(pki.ca, *ended), timeout_s=120)
    refused(done, f"--tls-cert {ended[0]}: certificate has expired; give another one")

    assert cloud.stop() == 0
    cloud = clouds(*flags(pki.ca, *pki.server(**past)))
    done = run_edge(cloud.address, tmp_path / "edge", *RUN, *flags(pki.ca, cert, key), timeout_s=120)
    refused(done, "is not trusted: certificate has expired; renew the cloud's certificate")
    assert "edges will refuse it then" in cloud.log.read_text()


def test_a_certificate_for_another_name_and_a_plaintext_cloud_are_refused(clouds, pki, tmp_path):
    cloud = clouds(*flags(None, *pki.server(host="gpu.example")))
    done = run_edge(cloud.address, tmp_path / "edge", *RUN, *flags(pki.ca), timeout_s=120)
    refused(done, "certificate is not valid for '127.0.0.1'", "call it by a name that the certificate has")

    assert cloud.stop() == 0
    done = run_edge(clouds().address, tmp_path / "edge", *RUN, *flags(pki.ca), timeout_s=120)
    refused(done, "does not speak TLS; start it with --tls-cert and --tls-key, or leave out --tls-ca")


def test_an_edge_in_training_says_why_and_goes_on_once_the_cloud_is_right_again(
    clouds, certs, strangers, tmp_path
):
    """Somebody else's server at the address is an outage, not the end of a run."""
    cloud, run_dir = clouds(*server_flags(certs)), tmp_path / "edge"
    edge = start_edge(cloud.address, run_dir, *SMALL_RUN, *edge_flags(certs, "pi"), "--link-rate", "300kbit")
    wait_for(lambda: lines_of(run_dir) > 2, "the first batches")
    cloud.kill()
    impostor = clouds(*server_flags(strangers, mutual=False), listen=cloud.address)
    log = []
    assert edge.stderr is not None
    for line in edge.stderr:
        log.append(line)
        if "is not trusted" in line:
            break
    impostor.kill()

    clouds(*server_flags(certs), listen=cloud.address)
    _, err = edge.communicate(timeout=250)

    assert edge.returncode == 0, "".join(log) + err
    assert "unable to get local issuer certificate" in log[-1]


# -------------------------------------------------------------------- tokens


def test_tokens_let_their_edges_in_and_nobody_else(clouds, certs, tmp_path):
    """Here under TLS, where the edges have no certificates."""
    tokens = secret_file(tmp_path / "tokens", f"# ours\npi {PI}\njetson {JETSON}\n")
    cloud = clouds("--tokens", str(tokens), *server_flags(certs, mutual=False))
    run_dir, ca = tmp_path / "edge", flags(certs / "edges" / "pi" / "ca.crt")

    def token(text):
        return [*ca, "--token-file", str(secret_file(tmp_path / "token", text + "\n"))]

    done = run_edge(cloud.address, run_dir, *RUN, *ca, timeout_s=120)
    refused(done, "the cloud refused: this cloud asks for a token; give --token-file")
    done = run_edge(cloud.address, run_dir, *RUN, *token("other-token-0123456789"), timeout_s=120)
    refused(done, "the cloud refused: this cloud does not know the token")
    assert not list(cloud.run_dir.glob("*/session.json"))

    finished(run_edge(cloud.address, run_dir, *RUN, *token(PI), timeout_s=250), run_dir)

    out = tmp_path / "network.safetensors"
    refused(export(run_dir, out, *token(JETSON)), "was opened by another edge")
    assert export(run_dir, out, *token(PI)).returncode == 0
    assert PI not in cloud.log.read_text()
    assert cloud_worker("health", cloud.address, *ca).returncode == 0


# -------------------------------------------------------------------- in clear


def test_plaintext_beyond_loopback_is_warned_about_on_both_sides(clouds, tmp_path):
    cloud = clouds("--insecure", listen="0.0.0.0:0")
    port = cloud.address.rpartition(":")[2]

    # 0.0.0.0 is this machine, and does not look like it.
    done = run_edge(f"0.0.0.0:{port}", tmp_path / "edge", *RUN, timeout_s=250)

    finished(done, tmp_path / "edge")
    assert f"no TLS to 0.0.0.0:{port}: labels and activations travel in clear" in done.stderr
    assert "no TLS on 0.0.0.0:0: labels and activations travel in clear" in cloud.log.read_text()


# -------------------------------------------------------------------- health, and sessions


def test_health_is_asked_for_over_tls_too(clouds, certs, strangers):
    cloud = clouds(*server_flags(certs))

    assert (
        cloud_worker("health", cloud.address, *server_flags(certs)).stdout == f"{cloud.address} is serving\n"
    )
    refused(cloud_worker("health", cloud.address), "speaks TLS, and this side plaintext; give --tls-ca")
    refused(cloud_worker("health", cloud.address, *server_flags(strangers)), "is not trusted")


def test_a_session_is_removed_once_no_server_runs(clouds, tmp_path):
    cloud, run_dir = clouds(), tmp_path / "edge"
    finished(run_edge(cloud.address, run_dir, *RUN, timeout_s=250), run_dir)
    session = json.loads((run_dir / "run.json").read_text())["session_id"]

    refused(
        cloud_worker("sessions", "rm", "--run-dir", cloud.run_dir, session),
        "a server runs on",
        "stop it first",
    )
    assert cloud.session_dir(session).is_dir()
    assert cloud.stop() == 0
    done = cloud_worker("sessions", "rm", "--run-dir", cloud.run_dir, session)

    assert done.returncode == 0, done.stderr
    assert not cloud.session_dir(session).exists()
