"""What the planner reckons from a profile: by hand, and by what must hold whatever the profile says."""

import dataclasses
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_worker.costs import (
    FASTEST_BPS,
    ChainCost,
    Coded,
    Costs,
    ImagesCost,
    Link,
    SplitCost,
    WholeCost,
    consistent,
)
from edge_worker.planner import SLOWEST_BPS, best_of, changes, none_fits, plans, rank, verdict

MB = 1_000_000
EARLY = SplitCost(
    split="layer1",
    step_s=0.2,
    memory_bytes=100 * MB,
    bits=4,
    widths={8: Coded(encode_s=0.03, bytes=200_000), 4: Coded(encode_s=0.02, bytes=100_000)},
    cloud_s=0.4,
    chain=ChainCost(
        forward_s=0.05,
        learn_s=0.1,
        memory_bytes=110 * MB,
        cloud_s=0.5,
        gradient_bytes=250_000,
    ),
)
LATE = dataclasses.replace(
    EARLY,
    split="layer3",
    step_s=0.5,
    memory_bytes=200 * MB,
    widths={8: Coded(encode_s=0.02, bytes=20_000), 4: Coded(encode_s=0.01, bytes=10_000)},
    cloud_s=0.2,
)
COSTS = Costs(
    batches=10,
    epochs=5,
    spool_memory=0,
    whole=WholeCost(step_s=1.0, memory_bytes=300 * MB),
    images=ImagesCost(
        coding="webp",
        step_s=0.04,
        bytes=50_000,
        reference_bytes=1000,
        cloud_s=0.6,
        memory_bytes=50 * MB,
    ),
    splits=(EARLY, LATE),
)
LINK = Link(up_bps=4e6, down_bps=8e6, latency_s=0.01)


def plan(name, link=LINK, costs=COSTS):
    return next(each for each in plans(costs, link) if each.name == name)


@pytest.mark.parametrize(
    ("name", "epoch_s", "bottleneck", "bytes_up"),
    [
        # 8 * 100 kB / 4 Mbit/s = 0.2 s, as the edge; the cloud takes 0.4 s. Once in five epochs the line
        # fills: 0.2 + 0.2 + 0.02 s.
        ("hierarchical layer1, 4 bits", 4.0 + 0.42 / 5, "cloud", 1_000_000),
        # Its encoding takes 10 ms more than that of the width that was measured. At an epoch's end the edge
        # waits for 0.04 s of the link, 0.2 s of the cloud and 0.02 s of delay.
        ("hierarchical layer3, 8 bits", 5.1 + 0.26, "edge", 200_000),
        # 0.05 + 0.02 + 0.1 on the edge, 0.2 + 0.25 on the link, 0.5 at the cloud, 0.02 of delay; but for the
        # last gradient's 0.25 s on the link and 0.1 s on the edge.
        ("split-learning layer1, 4 bits", 11.4 - 0.35, "cloud", 1_000_000),
        # 0.1 s on the link hide behind the cloud's 0.6 s; 0.04 + 0.1 + 0.02 s fill the line.
        ("full-cloud --images resend", 6.0 + 0.16 / 5, "cloud", 500_000),
        ("full-cloud --images once", 6.0 + 0.16 / 5, "cloud", 108_000),
        ("full-edge", 10.0, "edge", 0),
    ],
)
def test_what_an_epoch_takes_by_hand(name, epoch_s, bottleneck, bytes_up):
    found = plan(name)

    assert found.epoch_s == pytest.approx(epoch_s)
    assert found.bottleneck == bottleneck
    assert found.bytes_up == pytest.approx(bytes_up)
    assert found.bytes_down == (2_500_000 if "split-learning" in name else 0)


def test_what_waits_for_the_cloud_s_second_checkpoint_is_in_the_edge_s_memory_up_to_a_limit():
    """Two epochs of ten batches of 100, 200 or 50 kB, or of 50 and 1; or one epoch."""
    roomy, narrow = (dataclasses.replace(COSTS, spool_memory=room * MB) for room in (128, 3))
    names = (
        "hierarchical layer1, 4 bits",
        "hierarchical layer1, 8 bits",
        "full-cloud --images once",
        "full-edge",
    )

    assert [plan(name, costs=roomy).memory_bytes / MB for name in names] == [102, 104, 50.51, 300]
    assert [plan(name, costs=narrow).memory_bytes / MB for name in names] == [102, 103, 50.51, 300]
    short = dataclasses.replace(roomy, epochs=1)
    assert [plan(name, costs=short).memory_bytes / MB for name in names] == [101, 102, 50.5, 300]


def test_fewer_bits_take_the_edge_no_less_than_it_was_measured_with():
    """It may be the front that took so long, and not the encoder beside it."""
    slow = dataclasses.replace(
        EARLY, widths={4: Coded(encode_s=0.3, bytes=1), 2: Coded(encode_s=0.01, bytes=1)}
    )

    found = plan("hierarchical layer1, 2 bits", costs=dataclasses.replace(COSTS, splits=(slow,)))

    assert found.edge_s == pytest.approx(10 * slow.step_s)


def measured(*times, sizes=None, chains=None):
    """Split points from input to output with these times of the cloud, record sizes and chains."""
    sizes, chains = sizes or [1000] * len(times), chains or times
    return [
        dataclasses.replace(
            EARLY,
            split=f"layer{number}",
            cloud_s=seconds,
            widths={4: Coded(encode_s=0.02, bytes=size)},
            chain=None if chain is None else dataclasses.replace(EARLY.chain, cloud_s=chain),
        )
        for number, (seconds, size, chain) in enumerate(zip(times, sizes, chains, strict=True), start=1)
    ]


@pytest.mark.parametrize(
    ("times", "sizes", "reckoned_with"),
    [
        ((0.4, 0.3, 0.2), None, (0.4, 0.3, 0.2)),
        ((0.4, 0.6, 0.2), None, (0.5, 0.5, 0.2)),
        ((0.4, 0.35, 0.3, 1.0), None, (0.4, 0.35, 0.35, 0.35)),  # one accident spoils no other time
        ((0.4, 0.6, 0.2), (1000, 1001, 1000), (0.4, 0.6, 0.2)),  # what is to decode is more
        ((0.4, 0.6, 0.5, 0.7), (1000, 2000, 2000, 500), (0.4, 0.6, 0.6, 0.6)),
    ],
)
def test_a_back_takes_no_longer_than_one_that_it_is_a_part_of(times, sizes, reckoned_with):
    costs = dataclasses.replace(COSTS, splits=tuple(measured(*times, sizes=sizes)))

    found = {each.name: each.cloud_s / costs.batches for each in plans(costs, LINK)}

    places = range(1, len(times) + 1)
    for strategy in ("hierarchical", "split-learning"):
        assert [found[f"{strategy} layer{n}, 4 bits"] for n in places] == pytest.approx(reckoned_with)


def test_a_chain_that_was_not_measured_leaves_the_others_theirs():
    found = consistent(measured(0.4, 0.3, 0.2, chains=(0.5, None, 0.7)))

    assert [each.chain and each.chain.cloud_s for each in found] == [0.6, None, 0.6]


@given(times=st.lists(st.floats(0.001, 10.0), min_size=1, max_size=8))
def test_times_that_agree_stay_as_they_were_measured(times):
    once = consistent(measured(*times))

    assert all(later.cloud_s <= earlier.cloud_s for earlier, later in pairwise(once))
    assert consistent(once) == once
    assert consistent(measured(*sorted(times, reverse=True))) == measured(*sorted(times, reverse=True))


def test_an_epoch_of_one_batch_takes_as_long_as_its_gradient_is_under_way():
    """200 s down, 0.2 s up; it is not known that an evaluation would take as long."""
    slow = dataclasses.replace(LINK, down_bps=1e4)
    found = plan("split-learning layer1, 4 bits", slow, dataclasses.replace(COSTS, batches=1.0))

    assert found.epoch_s == pytest.approx(200.2)


def test_a_small_batch_waits_for_a_round_trip_as_a_full_one_does():
    far = dataclasses.replace(LINK, latency_s=0.5)
    near = dataclasses.replace(LINK, latency_s=0.0)
    costs = dataclasses.replace(COSTS, batches=1.25)
    name = "split-learning layer1, 4 bits"

    assert plan(name, far, costs).epoch_s - plan(name, near, costs).epoch_s == pytest.approx(2 * 1.0)


def test_images_that_go_up_once_are_spread_over_the_epochs():
    """At 0.4 Mbit/s a batch of images takes the link 1 s, one of numbers 0.02 s."""
    slow = dataclasses.replace(LINK, up_bps=0.4e6)

    fill_s = 0.6 + 0.04 + 0.02
    assert plan("full-cloud --images resend", slow).epoch_s == pytest.approx(10.0 + fill_s / 5)
    assert plan("full-cloud --images once", slow).epoch_s == pytest.approx((10.0 + 4 * 6.0 + fill_s) / 5)
    single = dataclasses.replace(COSTS, epochs=1)
    assert plan("full-cloud --images once", slow, single).epoch_s == pytest.approx(10.0 + fill_s)


def test_an_epoch_with_half_a_batch_takes_half_of_its_time():
    half = dataclasses.replace(COSTS, batches=9.5)

    assert plan("full-edge", costs=half).epoch_s == pytest.approx(9.5)


def test_what_the_edge_could_not_measure_is_no_choice():
    names = {each.name for each in plans(dataclasses.replace(COSTS, whole=None), LINK)}

    assert "full-edge" not in names
    assert "full-cloud --images once" in names


def test_the_fastest_comes_first_and_of_equals_the_lighter_one():
    names = [each.name for each in rank(COSTS, LINK)]

    assert names[:3] == [
        "hierarchical layer1, 4 bits",
        "hierarchical layer1, 8 bits",
        "hierarchical layer3, 4 bits",
    ]
    assert names[-1] == "split-learning layer1, 8 bits"
    assert len(names) == 3 + 2 * 2 * 2


def test_what_does_not_fit_into_the_edge_s_memory_is_left_out():
    fitting = {each.name for each in rank(COSTS, LINK, edge_memory=100 * MB)}

    assert "full-edge" not in fitting
    assert not any("layer3" in name for name in fitting)
    assert "hierarchical layer1, 4 bits" in fitting
    assert rank(COSTS, LINK, edge_memory=1) == []


def test_the_rates_at_which_the_best_choice_changes():
    """All on the edge until the link carries what a late cut sends; then an early cut, which spares it."""
    turns = changes(COSTS, down_over_up=2.0, latency_s=0.01)

    seen = [(choice.strategy, choice.split) for _, choice in turns]
    assert list(dict.fromkeys(seen)) == [
        ("full-edge", None),
        ("hierarchical", "layer3"),
        ("hierarchical", "layer1"),
    ]
    first = {key: rate for (rate, _), key in reversed(list(zip(turns, seen, strict=True)))}
    # 8 * 10 kB in the 1 s of full-edge; 8 * 100 kB in the 0.5 s of layer3.
    assert list(first.values())[::-1] == pytest.approx([SLOWEST_BPS, 80e3, 1.6e6], rel=0.03)
    # More bits as soon as they take no more time.
    assert turns[-1][1].name == "hierarchical layer1, 8 bits"


def test_nothing_that_fits_changes_nothing():
    assert changes(COSTS, down_over_up=1.0, latency_s=0.0, edge_memory=1) == []


def test_where_edge_and_link_are_equally_fast_a_faster_link_gains_less_and_less():
    """8 * 20 kB take the edge's 0.51 s at 314 kbit/s: below, the link is the slowest, above it the edge."""
    times = [
        plan("hierarchical layer3, 8 bits", Link(up_bps=rate, down_bps=rate)).epoch_s
        for rate in (290e3, 300e3, 310e3, 313e3, 314e3, 315e3, 320e3, 330e3)
    ]

    assert times == sorted(times, reverse=True)
    # The link is behind by 10 * 0.0233 s of the 0.71 s that fill the line, then.
    first = 0.51 + 0.2
    assert times[1] == pytest.approx(10 * 160 / 300 + (first + 4 * (first - 10 * (160 / 300 - 0.51))) / 5)


@given(
    rate=st.floats(SLOWEST_BPS, FASTEST_BPS),
    faster=st.floats(1.0, 100.0),
    latency_s=st.floats(0, 1),
)
def test_a_faster_link_makes_nothing_slower_and_nothing_is_faster_than_its_slowest_part(
    rate, faster, latency_s
):
    slow = {each.name: each for each in plans(COSTS, Link(up_bps=rate, down_bps=rate, latency_s=latency_s))}
    rate *= faster
    fast = {each.name: each for each in plans(COSTS, Link(up_bps=rate, down_bps=rate, latency_s=latency_s))}

    for name, each in slow.items():
        assert fast[name].epoch_s <= each.epoch_s * (1 + 1e-12)
        assert each.epoch_s >= max(each.edge_s, each.link_s, each.cloud_s) * (1 - 1e-12)


def test_the_verdict_says_what_holds_the_best_choice_up():
    assert verdict(rank(COSTS, LINK)) == "best: hierarchical layer1, 4 bits; the cloud is what takes time"


def test_the_verdict_says_plainly_where_the_method_loses():
    """A slow link and an early cut: images are smaller than activations."""
    early = dataclasses.replace(COSTS, splits=(EARLY,), whole=WholeCost(step_s=9.0, memory_bytes=0))
    slow = dataclasses.replace(LINK, up_bps=0.4e6)

    assert verdict(rank(early, slow)) == (
        "full-cloud --images once is faster here than the method: its best choice, hierarchical layer1, "
        "4 bits, takes 2.90 times as long, and the link is what holds it up"
    )


def test_the_verdict_names_every_strategy_that_is_faster_than_the_method():
    slow = dataclasses.replace(LINK, up_bps=0.4e6)
    early = dataclasses.replace(COSTS, splits=(EARLY,))

    assert verdict(rank(early, slow)) == (
        "full-cloud --images once is faster here than the method: its best choice, hierarchical layer1, "
        "4 bits, takes 2.90 times as long, and the link is what holds it up; full-edge is faster, too"
    )


def test_a_strategy_that_gains_next_to_nothing_is_not_called_faster():
    whole = WholeCost(step_s=0.999 * plan("hierarchical layer1, 4 bits").epoch_s / 10, memory_bytes=0)

    assert verdict(rank(dataclasses.replace(COSTS, whole=whole), LINK)) == (
        "best: full-edge; the method's best choice, hierarchical layer1, 4 bits, takes no longer"
    )


def test_what_is_said_where_nothing_or_no_split_fits():
    assert none_fits(rank(COSTS, LINK), 1 << 20) == (
        "nothing fits into --edge-memory 1MiB: the least is 47.68MiB, of full-cloud --images once"
    )
    assert "no split of the network fits" in verdict(rank(COSTS, LINK, edge_memory=60 * MB))


def test_where_more_bits_take_no_more_time_they_are_what_is_best():
    """The cloud is the slowest there, whatever goes up."""
    fast = Link(up_bps=1e9, down_bps=1e9)
    ranked = rank(dataclasses.replace(COSTS, epochs=1000), fast)

    assert best_of(ranked).name == "hierarchical layer1, 8 bits"
    assert "hierarchical layer1, 8 bits" in verdict(ranked)
