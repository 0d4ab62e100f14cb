"""What `ditmesh serve` refuses before anything is loaded, and how it takes the flags of `generate`."""

from pathlib import Path

import pytest

from ditmesh.cli.generate.options import Options
from ditmesh.cli.serve.job import describe_service
from ditmesh.cli.serve.options import OF_ONE_RESULT, ServeOptions
from ditmesh.replicas.engines import read_replicas


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("nothing_of_the_kind", ["'nothing_of_the_kind' is no example, folder or hub id"]),
        ("demo --replicas 0", ["--replicas 0 is no range", "2..8"]),
        ("demo --replicas 4..2", ["--replicas 4..2 is no range"]),
        ("demo --engine rai", ["--engine rai", "did you mean 'ray'"]),
        ("demo --ray-address auto", ["--ray-address auto is for a cluster", "--engine ray"]),
        ("demo --parallel auto", ["--parallel auto", "--nproc 2"]),
        ("demo --host 0.0.0.0", ["--host 0.0.0.0 lets others ask", "--api-key KEY", "--insecure"]),
        ("demo --api-key a --api-key-file b", ["--api-key gives one and --api-key-file another"]),
        ("demo --api-key-file nowhere", ["--api-key-file nowhere cannot be read"]),
        ("demo --lora-dir nowhere", ["--lora-dir nowhere", "no such folder"]),
        ("demo --data-dir file", ["--data-dir file", "is a file"]),
        ("demo --parallel dp2.ulysses2", ["dp_size=2", "--replicas"]),
        ("demo --parallel ulysses99", ["at most 8"]),
        ("demo --rdt 0.1", ["--rdt is for a cache"]),
        ("weightless", ["weightless"]),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_line(refused, tmp_path, arguments, told):
    (tmp_path / "file").touch()
    lines = refused(*arguments.split(), verb="serve")
    assert len(lines) == 1
    assert all(text in lines[0] for text in told), lines[0]


def test_the_flags_of_generate_mean_the_same(tmp_path):
    options = ServeOptions(
        model="demo", parallel="ulysses2", cache=True, steps=12, height=64, attn="native", data_dir=tmp_path
    )
    service = describe_service(options)
    assert str(service.job.layout) == "ulysses2"
    assert service.job.cache.config.max_warmup_steps == 8
    assert (service.job.call["num_inference_steps"], service.job.call["height"]) == (12, 64)
    assert service.job.kernel == "native"
    assert {f for f in vars(options) if f in vars(Options("demo"))} == set(vars(Options("demo"))) - OF_ONE_RESULT


def test_a_model_is_an_example_a_hub_id_or_a_folder(flux, tmp_path):
    def served(model: str):
        return describe_service(ServeOptions(model=model, data_dir=tmp_path / "data"))

    folder = served(flux)
    assert (folder.job.model, folder.settings.name) == (flux, Path(flux).name)  # what clients see is no path
    assert served("demo").settings.name == "demo"
    assert served("demo").replicas == range(1, 2)
    assert read_replicas("2..4") == range(2, 5)
