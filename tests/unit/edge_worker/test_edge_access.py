"""The edge's token: read from a file, never shown."""

import pytest

from common.errors import ConfigError
from edge_worker.access import Access, endpoint

TOKEN = "0123456789abcdef"


def token_of(path):
    return endpoint("127.0.0.1:1", Access(token_file=path))._token


def test_a_token_is_what_the_file_holds_but_for_space_around_it(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"\n  {TOKEN}\n")

    assert token_of(file) == TOKEN
    assert token_of(None) is None


@pytest.mark.parametrize("text", ["", "short", f"pi {TOKEN}", f"{TOKEN}\n{TOKEN}", TOKEN + "ü", 600 * "x"])
def test_what_is_no_token_is_refused_without_showing_it(tmp_path, text):
    file = tmp_path / "token"
    file.write_text(text)

    with pytest.raises(ConfigError, match=rf"^--token-file {file} must hold one token, 16 to 512") as raised:
        token_of(file)

    assert not text or text not in str(raised.value)


def test_a_token_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"^cannot read --token-file .*/nowhere: No such file"):
        token_of(tmp_path / "nowhere")


def test_a_token_that_all_users_may_read_is_warned_about(tmp_path, caplog):
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o604)

    token_of(file)

    assert caplog.messages == [f"--token-file {file} can be read by every user of this machine; chmod 600 it"]
