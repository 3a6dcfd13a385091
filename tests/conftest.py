"""Real images for the tests that want them."""

import os
import signal
import tarfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real images: $HEADWATER_DATA, or ../shared/data beside the repository.

    Where it is absent the test is skipped, or fails if HEADWATER_NO_SKIP=1 says that it must be there.
    """
    folder = Path(os.environ.get("HEADWATER_DATA") or REPOSITORY.parent / "shared" / "data")
    if folder.is_dir():
        return folder
    missing = f"no images in {folder}; name their folder with HEADWATER_DATA"
    if os.environ.get("HEADWATER_NO_SKIP") == "1":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def tiny_imagenet(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack 20 classes of Tiny ImageNet; returns the folder above train/ and val/."""
    folder = tmp_path_factory.mktemp("tiny-imagenet-20")
    with tarfile.open(data_dir / "tiny-imagenet-20" / "tiny-imagenet-20.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def pytest_configure() -> None:
    """Have Ctrl-C end the programs under test also where these tests run as a shell's background job."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
