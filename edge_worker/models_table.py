"""`edge-worker models`: what there is to train, and what each split point costs."""

import json
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
    widths = sorted(infos[0].bytes_per_image)
    table = Table(
        "split",
        "activations",
        *(f"{bits} bit" for bits in widths),
        *(f"{part}\n{what}" for what in ("parameters", "FLOPs") for part in ("front", "exit", "back")),
        title=f"{name}: bytes per image before compression, parameters, FLOPs per image forward",
    )
    for info in infos:
        table.add_row(
            info.split,
            "x".join(map(str, info.activation_shape)),
            *(format_size(info.bytes_per_image[bits]) for bits in widths),
            *(
                _count(getattr(info, f"{part}_{what}"))
                for what in ("parameters", "flops")
                for part in ("front", "exit", "back")
            ),
        )
    table_console().print(table)


def _count(number: float) -> str:
    for unit in ("", "k", "M"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}G"
