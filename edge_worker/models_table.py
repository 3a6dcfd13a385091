"""`edge-worker models`: what there is to train, and what each split point costs."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import click
from rich.table import Table

from common.console import table_console
from common.models.catalogue import ModelSpec, model_names
from common.models.describe import SplitInfo, describe
from common.units import format_size


def show_models(
    name: str | None, stem: str, classifier: str, image_size: int, classes: int, as_json: bool
) -> None:
    """Print every model's split points, or those of the model `name` with their sizes.

    Raises:
        ModelError: the model, or an option of it, is unknown.
    """
    names = model_names() if name is None else (name,)
    described = {each: describe(_spec(each, name, stem, classifier, image_size, classes)) for each in names}
    if as_json:
        document = {each: [asdict(info) for info in infos] for each, infos in described.items()}
        click.echo(json.dumps(document, indent=2))
    elif name is None:
        _print_names(described)
    else:
        _print_splits(name, described[name])


def _spec(
    each: str, asked: str | None, stem: str, classifier: str, image_size: int, classes: int
) -> ModelSpec:
    if asked is None:
        # The list of all models: an option is for the families that have it.
        stem = stem if each.startswith("resnet") else "imagenet"
        classifier = classifier if each.startswith("vgg") else "small"
    return ModelSpec(
        name=each,
        num_classes=classes,
        input_shape=(3, image_size, image_size),
        stem=stem,
        classifier=classifier,
    )


def _print_names(described: dict[str, list[SplitInfo]]) -> None:
    table = Table("model", "parameters", "split points")
    for name, infos in described.items():
        parameters = infos[0].front_parameters + infos[0].back_parameters
        table.add_row(name, _count(parameters), " ".join(info.split for info in infos))
    table_console().print(table)
    click.echo("edge-worker models NAME shows what each split point costs")


def _print_splits(name: str, infos: list[SplitInfo]) -> None:
    """Print two tables, so that either fits a narrow terminal."""
    widths = sorted(infos[0].bytes_per_image)
    sent = _table(
        f"{name}: activations, and their bytes per image before compression",
        ("activations", *(f"{bits} bit" for bits in widths)),
    )
    costs = _table(
        f"{name}: parameters, and FLOPs per image forward",
        [f"{part}\n{short}" for short in ("params", "FLOPs") for part in ("front", "exit", "back")],
    )
    for info in infos:
        shape = "x".join(map(str, info.activation_shape))
        sent.add_row(info.split, shape, *(format_size(info.bytes_per_image[bits]) for bits in widths))
        costs.add_row(
            info.split,
            *(
                _count(getattr(info, f"{part}_{what}"))
                for what in ("parameters", "flops")
                for part in ("front", "exit", "back")
            ),
        )
    for table in (sent, costs):
        table_console().print(table)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title)
    for column in ("split", *columns):
        # Half a name or number is of no use.
        table.add_column(column, no_wrap=True, justify="left" if column == "split" else "right")
    return table


def _count(number: float) -> str:
    for unit in ("", "k", "M"):
        if number < 999.5:  # which three digits would round to 1e+03
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}G"
