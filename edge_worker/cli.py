"""`edge-worker`: the command line of the edge."""

import sys
from dataclasses import replace
from pathlib import Path

import click

from common.address import ADDRESS
from common.errors import ConfigError, HeadwaterError
from common.flags import Commands, options_of
from common.logs import set_up_logging
from common.strategies import STRATEGIES, strategies_in
from common.units import DURATION, RATE, SIZE, Rate
from edge_worker.access import Access
from edge_worker.config import AUTO, TrainConfig


@click.group(cls=Commands, context_settings={"auto_envvar_prefix": "HEADWATER_EDGE"})
@click.version_option(package_name="headwater")
def main() -> None:
    """Train the front of a network where the data is, and let a cloud train its back at the same time."""


PROFILE = click.Path(path_type=Path, dir_okay=False)
DEFAULT_PROFILE = Path("profile.json")

what_fits = click.option(
    "--edge-memory",
    type=SIZE,
    help="With --split auto or --bits auto: leave out what takes more memory on the edge.",
)


@main.command()
@click.option(
    "--profile",
    type=PROFILE,
    help="What `edge-worker profile` wrote, for --split auto and --bits auto  [default: measured first]",
)
@what_fits
@options_of(TrainConfig)
def train(config: TrainConfig, given: frozenset[str], profile: Path | None, edge_memory: int | None) -> None:
    """Train the front here and stream its activations to the cloud.

    The same --run-dir again resumes an interrupted run with the settings it was started with; a finished one
    prints its table.
    """
    # Imported here, as in the other commands: `--help` need not wait for torch.
    from edge_worker.auto import settle_choice
    from edge_worker.display import print_summary
    from edge_worker.run import train as run

    set_up_logging(config.log_level)
    outcome = run(config, given, lambda new: settle_choice(new, profile, edge_memory))
    if outcome.summary is None:
        if outcome.stopped_after is None:
            click.echo("stopped before the cloud answered; the same command starts again", err=True)
        else:
            click.echo(
                f"stopped after batch {outcome.stopped_after}; "
                f"go on with: edge-worker train --run-dir {config.run_dir}",
                err=True,
            )
        sys.exit(128 + outcome.signal)
    print_summary(outcome.summary)


@main.command()
@click.argument("name", required=False)
@click.option("--stem", default="imagenet", show_default=True, help="imagenet or cifar, for ResNets.")
@click.option("--classifier", default="small", show_default=True, help="small or imagenet, for VGGs.")
@click.option("--image-size", default=32, show_default=True, help="Side of the images in pixels.")
@click.option("--classes", default=10, show_default=True, help="Number of classes.")
@click.option("--json", is_flag=True, help="One JSON document instead of tables.")
def models(name: str | None, stem: str, classifier: str, image_size: int, classes: int, json: bool) -> None:
    """List models, or the split points of the model NAME with their sizes."""
    from edge_worker.models_table import show_models

    show_models(name, stem, classifier, image_size, classes, as_json=json)


@main.command()
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/edge"),
    show_default=True,
    help="A finished run.",
)
@click.option("--cloud", type=ADDRESS, help="HOST:PORT of its cloud  [default: the one it trained with]")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write."
)
@options_of(Access)
def export(access: Access, given: frozenset[str], run_dir: Path, cloud: str | None, out: Path) -> None:
    """Write the whole trained network as one safetensors file for plain torchvision.

    Certificates and token are those that the run trained with, unless they are given.
    """
    from edge_worker.export import export_network

    for line in export_network(run_dir, cloud, access, out):
        click.echo(line)


some_strategies = click.option(
    "--strategies", default=",".join(STRATEGIES), show_default=True, help="Which, with commas between them."
)


@main.command()
@some_strategies
@click.option("--splits", default="", help="Places to measure, such as layer1,layer2  [default: all]")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Measure all so many times and take the median: 3 where others share a machine.",
)
@click.option("--out", type=PROFILE, default=DEFAULT_PROFILE, show_default=True, help="The file to write.")
@options_of(TrainConfig)
def profile(
    config: TrainConfig, given: frozenset[str], strategies: str, splits: str, rounds: int, out: Path
) -> None:
    """Measure what training would cost here, at the cloud and on the link.

    Takes the flags of `train`, and trains some batches at every split point, on both sides; nothing is kept
    but the file, which `plan` reads, and `train` and `compare` with --profile. The same command goes on where
    it was stopped, from FILE.unfinished.
    """
    from edge_worker.profile import profile as measure
    from edge_worker.profile_file import check_folder

    set_up_logging(config.log_level)
    check_folder(out)
    names = [name for each in splits.split(",") if (name := each.strip())]
    if "split" in given and config.split != AUTO and not names:
        click.echo(
            f"--split {config.split} is not heeded here; --splits names the places to measure", err=True
        )
    measure(config, names, out, strategies_in(strategies), rounds)
    click.echo(f"wrote {out}; see what it says with: edge-worker plan --profile {out}")


@main.command()
@click.option(
    "--profile", type=PROFILE, default=DEFAULT_PROFILE, show_default=True, help="What `profile` wrote."
)
@click.option("--link-rate", type=RATE, help="An uplink of this rate  [default: the profile's]")
@click.option(
    "--link-rate-down",
    type=RATE,
    help="A downlink of this rate  [default: as --link-rate, else the profile's]",
)
@click.option("--link-latency", type=DURATION, help="A one-way latency  [default: the profile's]")
@click.option(
    "--edge-memory", type=SIZE, help="Leave out what takes more memory on the edge, without a GPU's own."
)
@click.option("--json", is_flag=True, help="One JSON document instead of a table.")
def plan(
    profile: Path,
    link_rate: float | None,
    link_rate_down: float | None,
    link_latency: float | None,
    edge_memory: int | None,
    json: bool,
) -> None:
    """Rank strategies, split points and widths by the time of an epoch, as a profile has it.

    Contacts nobody: give --link-rate to see what another link would do.
    """
    from edge_worker.plan_table import show_plan
    from edge_worker.profile_file import link_of, read_profile

    measured = read_profile(profile)
    link = link_of(measured.link, link_rate, link_rate_down, link_latency)
    show_plan(measured, link, edge_memory, as_json=json)


@main.command()
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="For the report."
)
@some_strategies
@click.option(
    "--images", type=click.Choice(["resend", "once"]), help="How they go up with full-cloud  [default: both]"
)
@click.option(
    "--link-rate", type=RATE, multiple=True, help="Emulate an uplink of this rate; may be repeated."
)
@click.option("--link-rate-down", type=RATE, help="A downlink of this rate  [default: as fast as the uplink]")
@click.option("--profile", type=PROFILE, help="What `edge-worker profile` wrote  [default: measured first]")
@what_fits
@options_of(TrainConfig, without=("strategy", "images", "link_rate", "link_rate_down", "run_dir"))
def compare(
    config: TrainConfig,
    given: frozenset[str],
    out: Path,
    strategies: str,
    images: str | None,
    link_rate: tuple[Rate, ...],
    link_rate_down: Rate | None,
    profile: Path | None,
    edge_memory: int | None,
) -> None:
    """Train the same work by each strategy over each link, and write a report.

    Takes the flags of `train`; --split auto and --bits auto are chosen for each link. Measures first, to set
    what the plan expects beside what it took, unless --profile names what was measured with the same flags.
    The same --out again goes on where it was stopped.
    """
    try:
        from edge_worker.compare import Comparison
        from edge_worker.compare import compare as run
        from edge_worker.report import print_report
    except ModuleNotFoundError as error:
        if error.name not in ("matplotlib", "jinja2"):
            raise
        raise ConfigError(
            f"compare needs {error.name}, which is not installed; install with the extra `report`, as with: "
            "pip install '.[report]'"
        ) from error
    set_up_logging(config.log_level)
    ways = (images,) if images is not None else ("resend", "once")
    config = replace(config, link_rate_down=link_rate_down)
    comparison = Comparison(
        config=config,
        strategies=strategies_in(strategies),
        images=ways,
        rates=link_rate,
        out=out,
        profile=profile,
        edge_memory=edge_memory,
    )
    ended = run(comparison)
    if ended.report:
        print_report(ended.report)
        click.echo(f"wrote {out / 'report.html'}, and beside it .json, .csv and .png")
    if ended.signal:
        click.echo("stopped; the same command goes on", err=True)
        sys.exit(128 + ended.signal)
    if ended.failed:
        raise HeadwaterError(
            f"{ended.failed} of {len(ended.report['cells'])} cells failed, as the report says; "
            "the same command tries them again, and leaves alone what is trained"
        )
