"""What a profile makes of a cloud that does not take everything; what edge and cloud measure is made up."""

from dataclasses import replace

import pytest

from common.errors import CapacityError, ConfigError
from common.wire.messages import BackProfile
from edge_worker import profile
from edge_worker.config import TrainConfig
from edge_worker.planner import FASTEST_BPS, Coded, Link, plans
from edge_worker.profile_edge import EdgeCost
from edge_worker.profile_file import read_profile

CONFIG = TrainConfig(
    model="resnet18", dataset="synthetic", train_limit=64, test_limit=20, batch_size=16, link_rate=1e6
)
SPLITS = ["layer1", "layer3", "layer4"]
BACK = BackProfile(
    step_s=0.1,
    gradient_step_s=0.2,
    gradient_bytes=1000,
    received_bytes=5000,
    receive_s=0.5,
    machine="a server",
    device="cpu",
    threads=2,
)


@pytest.fixture
def refused(monkeypatch):
    """The places that the cloud refuses; "" is the whole network."""
    places = set()

    def measure(_, config):
        widths = {bits: Coded(encode_s=0.0, bytes=100) for bits in (0, 8, 4, 2)}
        if config.strategy == "full-cloud":
            return EdgeCost(step_s=0.5, widths=widths, memory_bytes=1, threads=1, coding="png", records=("",))
        return EdgeCost(step_s=0.5, widths=widths, memory_bytes=1, threads=1, records=(config.split,))

    class Cloud:
        """Tells the same of each run."""

        def __init__(self, config):
            pass

        def ask(self, run, records):
            """Answer, or refuse."""
            if records[0] in places:
                raise CapacityError("too large")
            return BACK

        def latency_s(self):
            """Far away."""
            return 0.25

        def down_bps(self):
            """As an ADSL line."""
            return 8e6

    monkeypatch.setattr(profile, "apart", measure)
    monkeypatch.setattr(profile, "Asked", Cloud)
    return places


def test_what_a_cloud_refuses_is_left_out_and_said(refused, tmp_path, caplog):
    """The whole network and the first place: nothing is known of the cloud when they are refused."""
    refused |= {"", "layer1"}

    profile.profile(CONFIG, SPLITS, tmp_path / "profile.json")

    costs = read_profile(tmp_path / "profile.json").costs
    assert costs.images is None
    assert [each.split for each in costs.splits] == ["layer3", "layer4"]
    told = {each.strategy for each in plans(costs, Link(up_bps=1e6, down_bps=1e6))}
    assert told == {"hierarchical", "split-learning", "full-edge"}
    assert "full-cloud is left out: too large" in caplog.text
    assert "layer1 is left out: too large" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["profile.json"]


@pytest.mark.parametrize(
    ("settings", "link"),
    [
        ({"link_rate": None}, Link(up_bps=8e4, down_bps=8e6, latency_s=0.25)),
        ({"link_rate": None, "link_latency": 0.04}, Link(up_bps=8e4, down_bps=8e6, latency_s=0.04)),
        ({"link_rate": None, "link_latency": 0.0}, Link(up_bps=8e4, down_bps=8e6, latency_s=0.0)),
        ({"link_rate": None, "link_rate_down": 5e6}, Link(up_bps=8e4, down_bps=5e6, latency_s=0.25)),
        ({"link_rate": 1e6}, Link(up_bps=1e6, down_bps=FASTEST_BPS, latency_s=0.0)),
    ],
    ids=["measured", "latency told", "told to be none", "downlink told", "emulated"],
)
@pytest.mark.usefixtures("refused")
def test_the_link_is_the_one_that_there_is_unless_another_one_is_emulated(tmp_path, settings, link):
    measured = profile.profile(replace(CONFIG, **settings), SPLITS, tmp_path / "profile.json")

    assert measured.link == link


@pytest.mark.parametrize(
    ("strategies", "has"),
    [
        (["hierarchical"], (False, True, False)),
        (["split-learning", "full-edge"], (False, True, True)),
        (["full-cloud"], (True, False, False)),
        (["full-edge"], (True, False, True)),  # images tell of cloud and link
    ],
)
@pytest.mark.usefixtures("refused")
def test_what_no_strategy_needs_is_not_measured(tmp_path, strategies, has):
    costs = profile.profile(CONFIG, SPLITS, tmp_path / "profile.json", strategies).costs

    assert (costs.images is not None, bool(costs.splits), costs.whole is not None) == has


def test_where_all_is_refused_there_is_no_profile(refused, tmp_path):
    refused |= {"", *SPLITS}

    with pytest.raises(ConfigError, match="no split point could be measured"):
        profile.profile(CONFIG, SPLITS, tmp_path / "profile.json")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("strategy", ["full-cloud", "full-edge"])
def test_where_the_only_part_is_refused_there_is_no_profile(refused, tmp_path, strategy):
    refused |= {""}

    with pytest.raises(ConfigError, match="nothing could be measured with this cloud"):
        profile.profile(CONFIG, SPLITS, tmp_path / "profile.json", [strategy])

    assert list(tmp_path.iterdir()) == []
