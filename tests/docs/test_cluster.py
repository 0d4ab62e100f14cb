"""The recipes of docs/cluster.md are what the programs they are for can read, and their commands are ours."""

import configparser
import re
import shlex
import subprocess
from typing import Any

import pytest
import typer
import yaml

from ditmesh.cli.app import app
from ditmesh.config import ParallelismConfig
from tests.docs.test_docs import PAGES

PAGE = PAGES["cluster.md"]


def recipes(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def check_command(words: list[str]) -> dict[str, Any]:
    """What `ditmesh` reads from its command line; it refuses an unknown flag, and a value of another type."""
    verb = typer.main.get_command(app).commands[words[0]]
    return verb.make_context(words[0], words[1:], obj=words[1:]).params


def commands(text: str) -> list[list[str]]:
    """The command lines of ditmesh in a shell's text."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    found = [re.search(r"\bditmesh (?:t2i|serve|generate) .*", line) for line in lines]
    return [shlex.split(match[0])[1:] for match in found if match]


def test_every_command_is_one_of_ours() -> None:
    service = recipes("ini")[0]
    texts = [*recipes("bash"), re.search(r"ExecStart=(.*)", service)[1]]  # pyright: ignore
    pods = next(iter(yaml.safe_load_all(recipes("yaml")[0])))["spec"]["leaderWorkerTemplate"]
    texts += [pods["leaderTemplate"]["spec"]["containers"][0]["args"][0]]
    found = [words for text in texts for words in commands(text)]
    assert [words[0] for words in found].count("serve") >= 3
    assert [words[0] for words in found].count("t2i") == 2
    for words in found:
        given = check_command(words)
        if layout := given.get("parallel"):
            assert ParallelismConfig.parse(layout, 8).world_size == 8 or "--replicas" in words or "ulysses4" in layout
    [image] = [text for text in recipes("bash") if "docker run" in text]
    check_command(shlex.split(image.replace("\\\n", ""))[-8:])
    [torchrun] = [text for text in recipes("bash") if text.startswith("torchrun")]
    assert check_command(["generate", *shlex.split(torchrun.partition("ditmesh.generate")[2])])["example"] == "flux2"


def test_the_manifest_is_a_group_of_a_leader_and_workers() -> None:
    group, service = yaml.safe_load_all(recipes("yaml")[0])
    template = group["spec"]["leaderWorkerTemplate"]
    leader, worker = (template[x]["spec"]["containers"][0] for x in ("leaderTemplate", "workerTemplate"))
    assert (group["kind"], template["restartPolicy"]) == ("LeaderWorkerSet", "RecreateGroupOnPodRestart")
    assert service["spec"]["selector"] == template["leaderTemplate"]["metadata"]["labels"]
    assert service["spec"]["ports"][0]["targetPort"] == leader["ports"][0]["containerPort"]
    for pod, container in zip((template["leaderTemplate"], template["workerTemplate"]), (leader, worker), strict=True):
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert "--port 6379" in leader["args"][0]
    assert "LWS_LEADER_ADDRESS):6379" in worker["args"][0]


@pytest.mark.parametrize("script", recipes("bash"))
def test_every_script_is_one(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_service_file_and_the_image_are_read() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read_string(recipes("ini")[0])
    assert unit.sections() == ["Unit", "Service", "Install"]
    assert unit["Service"]["ReadWritePaths"] == unit["Service"]["WorkingDirectory"]
    [image] = recipes("dockerfile")
    known = {"FROM", "RUN", "ENV", "COPY", "USER", "WORKDIR", "EXPOSE", "ENTRYPOINT"}
    assert {line.split()[0] for line in image.splitlines()} == known
    [proxy] = recipes("nginx")
    assert proxy.count("{") == proxy.count("}") == 2
    assert all(line.rstrip().endswith((";", "{", "}")) for line in proxy.splitlines() if line.strip())
