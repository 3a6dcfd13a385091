"""What a profile makes of a cloud that does not take everything; what edge and cloud measure is made up."""

from collections import Counter
from dataclasses import replace

import pytest

from common.errors import CapacityError, CloudError, ConfigError, SessionError, UnknownCallerError
from common.wire.messages import BackProfile
from edge_worker import profile, profiler
from edge_worker.apart import BrokenOffError
from edge_worker.config import TrainConfig
from edge_worker.costs import FASTEST_BPS, Coded, Link
from edge_worker.planner import plans
from edge_worker.profile_edge import EdgeCost, measure_edge
from edge_worker.profile_file import read_profile

CONFIG = TrainConfig(
    model="resnet18", dataset="synthetic", train_limit=64, test_limit=20, batch_size=16, link_rate=1e6
)
LINK = Link(up_bps=1e6, down_bps=1e6)
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


class FarCloud:
    """Is there, far away, behind an ADSL line."""

    def __init__(self, config):
        pass

    def check(self):
        """Refuse nothing."""

    def latency_s(self):
        """Of one way."""
        return 0.25

    def down_bps(self):
        """As fast as it comes."""
        return 8e6


@pytest.fixture
def refused(monkeypatch):
    """Places that the cloud refuses, "" for the whole network; strategy and place that the edge cannot."""
    places = set()

    def measure(function, config, *others):
        if function is not measure_edge:
            return function(config, *others)
        if f"{config.strategy} {config.split}" in places:
            raise BrokenOffError("its process was killed by signal 9")
        widths = {bits: Coded(encode_s=0.0, bytes=100) for bits in (0, 8, 4, 2)}
        if config.strategy == "full-cloud":
            return EdgeCost(step_s=0.5, widths=widths, memory_bytes=1, threads=1, coding="png", records=("",))
        return EdgeCost(step_s=0.5, widths=widths, memory_bytes=1, threads=1, records=(config.split,))

    class Cloud(FarCloud):
        """Tells the same of each run."""

        def ask(self, run, records):
            """Answer, or refuse."""
            if records[0] in places:
                raise CapacityError("too large")
            return replace(BACK, others=2 if records[0] == "layer3" else 0)

    monkeypatch.setattr(profile, "apart", measure)
    monkeypatch.setattr(profiler, "apart", measure)
    monkeypatch.setattr(profiler, "Asked", Cloud)
    return places


def test_what_a_cloud_refuses_is_left_out_and_said(refused, tmp_path, caplog):
    """The whole network and the first place: nothing is known of the cloud when they are refused."""
    refused |= {"", "layer1"}

    profile.profile(CONFIG, SPLITS, tmp_path / "profile.json")

    costs = read_profile(tmp_path / "profile.json").costs
    assert costs.images is None
    assert [each.split for each in costs.splits] == ["layer3", "layer4"]
    told = {each.strategy for each in plans(costs, LINK)}
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


@pytest.mark.usefixtures("refused")
def test_gradients_are_measured_only_where_they_are_asked_for(tmp_path):
    costs = profile.profile(CONFIG, SPLITS, tmp_path / "profile.json", ["hierarchical"]).costs

    assert [each.chain for each in costs.splits] == [None] * 3
    assert {each.strategy for each in plans(costs, LINK)} == {"hierarchical"}


def test_a_front_that_breaks_off_with_gradients_is_still_one_with_an_exit(refused, tmp_path, caplog):
    refused |= {"split-learning layer3"}

    costs = profile.profile(CONFIG, SPLITS, tmp_path / "profile.json").costs

    assert [each.split for each in costs.splits] == SPLITS
    assert [each.chain is None for each in costs.splits] == [False, True, False]
    there = {each.split for each in plans(costs, LINK) if each.strategy == "split-learning"}
    assert there == {"layer1", "layer4"}
    assert "split-learning at layer3 is left out: its process was killed" in caplog.text


@pytest.mark.usefixtures("refused")
def test_a_cloud_that_serves_others_meanwhile_is_said_once(tmp_path, caplog):
    profile.profile(CONFIG, [*SPLITS, "layer2"], tmp_path / "profile.json")

    assert caplog.text.count("the cloud served others meanwhile, 2 at once") == 1


@pytest.mark.usefixtures("refused")
def test_a_cloud_that_refuses_everyone_is_known_before_anything_is_measured(tmp_path, monkeypatch):
    def check(self):
        raise UnknownCallerError("no such token")

    monkeypatch.setattr(profiler.Asked, "check", check)
    monkeypatch.setattr(profiler, "measure_edge", None)

    with pytest.raises(UnknownCallerError, match="no such token"):
        profile.profile(CONFIG, SPLITS, tmp_path / "profile.json")


@pytest.mark.parametrize("error", [SessionError, UnknownCallerError, CloudError])
@pytest.mark.usefixtures("refused")
def test_what_no_other_place_would_fare_better_with_ends_a_profile(tmp_path, monkeypatch, error):
    def ask(self, run, records):
        raise error("not with this cloud")

    monkeypatch.setattr(profiler.Asked, "ask", ask)
    with pytest.raises(error, match="not with this cloud"):
        profile.profile(CONFIG, SPLITS, tmp_path / "profile.json")


@pytest.mark.usefixtures("refused")
def test_a_place_that_is_named_twice_is_measured_once(tmp_path):
    measured = profile.profile(CONFIG, ["layer3", "layer3"], tmp_path / "profile.json")

    assert [each.split for each in measured.costs.splits] == ["layer3"]


@pytest.mark.usefixtures("refused")
def test_places_are_measured_from_input_to_output_however_they_are_named(tmp_path):
    measured = profile.profile(CONFIG, ["layer4", "layer1", "layer2.0"], tmp_path / "profile.json")

    places = ["layer1", "layer2.0", "layer4"]
    assert [each.split for each in measured.costs.splits] == measured.settings["splits"] == places


@pytest.mark.usefixtures("refused")
def test_a_place_that_is_missing_in_the_first_round_comes_in_its_order(tmp_path, monkeypatch):
    asked = Counter()

    def ask(self, run, records):
        asked[records[0]] += 1
        if (records[0], asked[records[0]]) == ("layer1", 1):
            raise CapacityError("too large")
        return BACK

    monkeypatch.setattr(profiler.Asked, "ask", ask)

    measured = profile.profile(CONFIG, SPLITS, tmp_path / "profile.json", rounds=2)

    assert [each.split for each in measured.costs.splits] == SPLITS


@pytest.mark.usefixtures("refused")
def test_of_several_rounds_a_profile_has_the_median_of_those_that_have_a_part(tmp_path, monkeypatch, caplog):
    """Of three rounds the cloud is slow in one, and refuses a place in another."""
    caplog.set_level("INFO")
    asked = Counter()

    def ask(self, run, records):
        asked[records[0]] += 1
        if (records[0], asked[records[0]]) == ("layer3", 2):
            raise CapacityError("too large")
        return replace(BACK, step_s=0.4 if asked[records[0]] == 3 else 0.1)

    monkeypatch.setattr(profiler.Asked, "ask", ask)

    measured = profile.profile(CONFIG, SPLITS, tmp_path / "profile.json", rounds=3)

    costs = measured.costs
    assert (measured.rounds, measured.apart) == (3, pytest.approx(3.0))
    assert [each.split for each in costs.splits] == SPLITS
    assert [each.cloud_s for each in costs.splits] == pytest.approx([0.1, 0.25, 0.1])
    assert (costs.images.cloud_s, costs.whole.step_s) == (0.1, 0.5)
    assert "the rounds are apart by up to 300 %: the cloud's step" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["profile.json"]


@pytest.mark.usefixtures("refused")
def test_of_several_rounds_a_profile_has_the_median_of_the_link(tmp_path, monkeypatch):
    """In one round it was busy: it took ten times as long for as much."""
    seconds = iter((5.0, 0.5, 0.4))
    monkeypatch.setattr(
        profiler.Asked, "ask", lambda *_: replace(BACK, receive_s=next(seconds)), raising=True
    )
    measured = profile.profile(
        replace(CONFIG, link_rate=None), [], tmp_path / "profile.json", ["full-cloud"], rounds=3
    )

    assert measured.link == Link(up_bps=8e4, down_bps=8e6, latency_s=0.25)
    assert measured.apart == pytest.approx(11.5)


@pytest.mark.usefixtures("refused")
def test_what_more_rounds_have_left_is_not_taken_up_later(tmp_path):
    for name in ("profile.json.unfinished2", "profile.json.unfinished3"):
        (tmp_path / name).touch()
    profile.profile(CONFIG, SPLITS, tmp_path / "profile.json")

    assert [path.name for path in tmp_path.iterdir()] == ["profile.json"]


@pytest.mark.usefixtures("refused")
def test_rounds_that_were_stopped_go_on_with_the_place_that_was_not_measured(tmp_path, monkeypatch):
    asked = []

    def ask(self, run, records):
        asked.append(records[0])
        if len(asked) == 7:  # the whole and three places; the whole and one
            raise KeyboardInterrupt
        return BACK

    monkeypatch.setattr(profiler.Asked, "ask", ask)
    with pytest.raises(KeyboardInterrupt):
        profile.profile(CONFIG, SPLITS, tmp_path / "profile.json", rounds=2)
    assert not (tmp_path / "profile.json").exists()

    profile.profile(CONFIG, SPLITS, tmp_path / "profile.json", rounds=2)

    assert asked[4:] == ["", "layer1", "layer3", "", "", "layer3", "layer4"]


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
