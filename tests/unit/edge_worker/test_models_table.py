"""`edge-worker models`."""

import json

import pytest
from click.testing import CliRunner

from common.models.catalogue import ModelSpec, build, model_names
from edge_worker.cli import main


def models(*arguments):
    return CliRunner().invoke(main, ["models", *arguments])


def test_json_has_every_model_with_all_that_a_split_point_costs():
    document = json.loads(models("--json").stdout)

    assert tuple(document) == model_names()
    for infos in document.values():
        for info in infos:
            assert set(info["bytes_per_image"]) == {"2", "4", "8", "32"}
            assert all(
                info[f"{part}_{what}"] >= 0
                for part in ("front", "exit", "back")
                for what in ("parameters", "flops")
            )


def test_options_change_the_network_that_is_described():
    """A CIFAR stem keeps the resolution: sixteen times the bytes at the same place."""
    (own,), (cifar,) = (
        [info for info in json.loads(done.stdout)["resnet18"] if info["split"] == "layer2"]
        for done in (models("resnet18", "--json"), models("resnet18", "--stem", "cifar", "--json"))
    )

    assert cifar["bytes_per_image"]["8"] == 16 * own["bytes_per_image"]["8"] == 32768
    assert cifar["activation_shape"] == [128, 16, 16]
    spec = ModelSpec(name="resnet18", num_classes=10, input_shape=(3, 32, 32), stem="cifar")
    assert cifar["front_parameters"] + cifar["back_parameters"] == sum(
        parameter.numel() for parameter in build(spec, 0).parameters()
    )


@pytest.mark.parametrize(
    "arguments", [["vgg19_bn", "--image-size", "224", "--classifier", "imagenet"], ["resnet50"]]
)
def test_tables_have_a_row_for_each_split_point_and_fit_80_columns(arguments):
    """Off a terminal too: a name that is cut or wrapped cannot be given to --split."""
    done = models(*arguments, "--classes", "1000")

    assert done.exit_code == 0
    rows = [line.split("│")[1].strip() for line in done.stdout.splitlines() if line.startswith("│")]
    assert rows == 2 * [
        info["split"] for info in json.loads(models(*arguments, "--json").stdout)[arguments[0]]
    ]
    assert "…" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_list_of_all_models_fits_80_columns():
    assert max(map(len, models().stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet19"], ["resnet19", "resnet18"]),
        (["vgg16", "--image-size", "8"], ["8", "32"]),
        (["vgg16", "--stem", "cifar"], ["stem", "cifar"]),
    ],
)
def test_what_cannot_be_is_one_line(capsys, arguments, words):
    with pytest.raises(SystemExit) as ended:
        main(["models", *arguments])

    err = capsys.readouterr().err
    assert ended.value.code == 1
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert all(word in err for word in words), err
