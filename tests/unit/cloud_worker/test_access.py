"""Who a caller is: by certificate, by token, or anyone."""

from types import SimpleNamespace

import pytest

from cloud_worker.access import ANYONE, Access, read_tokens
from common.errors import ConfigError, UnknownCallerError

PI, JETSON = "pi-token-0123456789", "jetson-token-0123456789"


@pytest.fixture
def tokens(tmp_path):
    """Write a file of tokens; returns its path."""

    def write(text):
        path = tmp_path / "tokens"
        path.touch(mode=0o600)
        path.write_text(text)
        return path

    return write


def caller(*authorizations, names=()):
    """What gRPC knows of a caller."""
    return SimpleNamespace(
        invocation_metadata=lambda: [
            ("user-agent", "x"),
            *(("authorization", value) for value in authorizations),
        ],
        auth_context=lambda: {"x509_common_name": [name.encode() for name in names]} if names else {},
    )


# -------------------------------------------------------------------- tokens


def test_a_caller_is_named_by_the_token(tokens):
    access = Access(tokens=read_tokens(tokens(f"# ours\npi {PI}\n\n  jetson   {JETSON}  \n")))

    assert access.identify(caller(f"Bearer {PI}")) == "pi"
    assert access.identify(caller(f"Bearer {JETSON}")) == "jetson"


def test_a_name_may_have_two_tokens_while_one_is_replaced(tokens):
    access = Access(tokens=read_tokens(tokens(f"pi {PI}\npi {JETSON}\n")))

    assert access.identify(caller(f"Bearer {PI}")) == access.identify(caller(f"Bearer {JETSON}")) == "pi"


@pytest.mark.parametrize(
    "shown", [["Bearer other-token-0123456789"], [PI], [f"Basic {PI}"], ["Bearer "], 2 * [f"Bearer {PI}"]]
)
def test_any_other_token_is_refused_without_showing_it(tokens, shown):
    access = Access(tokens=read_tokens(tokens(f"pi {PI}\n")))

    with pytest.raises(UnknownCallerError, match=r"^this cloud does not know the token; give --token-file"):
        access.identify(caller(*shown))


def test_no_token_is_refused_with_what_is_missing(tokens):
    access = Access(tokens=read_tokens(tokens(f"pi {PI}\n")))

    with pytest.raises(UnknownCallerError, match=r"^this cloud asks for a token; give --token-file$"):
        access.identify(caller())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pi\n", r"line 1, must be NAME TOKEN, the token of 16 to 512"),
        (f"# ours\npi {PI}\njetson short\n", r"line 3, must be NAME TOKEN"),
        (f"pi {PI} extra\n", r"line 1, must be NAME TOKEN"),
        (f"pi {PI}\njetson {PI}\n", r"line 2, gives jetson the token of pi; each edge needs one of its own$"),
        ("# nobody yet\n", r"holds no token; add lines of NAME TOKEN$"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_without_showing_a_token(tokens, text, words):
    with pytest.raises(ConfigError, match=words) as raised:
        read_tokens(tokens(text))

    assert PI not in str(raised.value)
    assert "short" not in str(raised.value)


def test_tokens_that_all_users_may_read_are_warned_about(tokens, caplog):
    path = tokens(f"pi {PI}\n")
    read_tokens(path)
    assert caplog.messages == []
    path.chmod(0o644)

    read_tokens(path)

    assert caplog.messages == [f"--tokens {path} can be read by every user of this machine; chmod 600 it"]


# -------------------------------------------------------------------- certificates, and nobody


def test_a_caller_is_named_by_the_certificate():
    assert Access(certificates=True).identify(caller(names=["pi"])) == "pi"


@pytest.mark.parametrize("names", [[], [""], ["pi", "jetson"]])
def test_a_certificate_that_does_not_name_one_edge_is_refused(names):
    """Without a name it would be anyone, and could have the sessions of all others without one."""
    with pytest.raises(UnknownCallerError, match=r"^the client certificate must have one common name"):
        Access(certificates=True).identify(caller(names=names))


def test_where_nobody_is_asked_everyone_is_anyone():
    """Also whoever shows a token: it has not been checked."""
    assert Access().identify(caller(f"Bearer {PI}", names=["pi"])) == ANYONE
