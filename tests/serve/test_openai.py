"""The official client, unchanged, gets from the server what it knows, errors included."""

import base64
import json
import subprocess
import sys
from io import BytesIO
from itertools import pairwise

import httpx
import openai
import pytest
from PIL import Image

from tests.serve.served import Served, rows

pytestmark = pytest.mark.slow

JSON = {"content-type": "application/json"}
PROMPT, SMALL = "a small blue square", {"num_inference_steps": 2, "height": 64, "width": 64}


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return served.client()


def drawn(answer) -> list[bytes]:
    return [base64.b64decode(picture.b64_json) for picture in answer.data]


def test_a_picture_is_that_of_generate_byte_for_byte(client, tmp_path):
    asked = {"seed": 7, "num_inference_steps": 3, "true_cfg_scale": 2.0, "negative_prompt": "red"}
    picture = drawn(client.images.generate(prompt=PROMPT, size="64x96", extra_body=asked))[0]
    flags = ["--seed", "7", "--steps", "3", "--width", "64", "--height", "96", "--negative-prompt", "red"]
    flags += ["--extra-input-kwargs", "{'true_cfg_scale': 2.0}", "--parallel", "ulysses2", "--save-path", "x.png"]
    command = [sys.executable, "-m", "ditmesh", "generate", "demo", "--prompt", PROMPT, *flags]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    assert picture == (tmp_path / "x.png").read_bytes()


def test_a_seed_decides_and_each_picture_tells_its_own(client):
    two = client.images.generate(prompt=PROMPT, n=2, extra_body=SMALL | {"seed": 3})
    again = client.images.generate(prompt=PROMPT, n=2, extra_body=SMALL | {"seed": [two.data[1].seed, 3]})
    assert drawn(two) == drawn(again)[::-1]
    assert len(set(drawn(two))) == 2
    open_seed = client.images.generate(prompt=PROMPT, extra_body=SMALL)
    assert drawn(open_seed) == drawn(
        client.images.generate(prompt=PROMPT, extra_body=SMALL | {"seed": open_seed.data[0].seed})
    )


def test_formats_sizes_and_facts_of_an_answer(client):
    answer = client.images.generate(
        prompt=PROMPT, model="demo", size="96x64", output_format="webp", output_compression=40, quality="low",
        extra_body={"seed": 1},
    )  # fmt: skip
    image = Image.open(BytesIO(drawn(answer)[0]))
    assert (image.format, image.size) == ("WEBP", (96, 64))
    assert (answer.output_format, answer.size, answer.quality) == ("webp", "96x64", "low")
    facts = json.loads(image.getexif()[0x010E])
    assert (facts["prompt"], facts["seed"], facts["settings"]["num_inference_steps"]) == (PROMPT, 1, 14)
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def test_a_url_needs_no_key_and_no_other_path_goes_without(served, client):
    url = client.images.generate(prompt=PROMPT, response_format="url", extra_body=SMALL | {"seed": 2}).data[0].url
    content = httpx.get(url).content
    assert content == drawn(client.images.generate(prompt=PROMPT, extra_body=SMALL | {"seed": 2}))[0]
    for link in (url.replace("until=1", "until=2"), url[:-1] + "g", url.partition("?")[0]):
        assert httpx.get(link).status_code == 401
    for path in ("/v1/models", "/v1/jobs", "/v1/server", "/metrics", "/version", "/openapi.json", "/v1/nothing"):
        assert httpx.get(served.url + path).status_code == 401
        assert httpx.get(served.url + path, headers={"authorization": "Bearer x"}).json()["error"]["code"]
    assert httpx.get(f"{served.url}/health").status_code == httpx.get(f"{served.url}/").status_code == 200


def test_a_stream_shows_what_is_on_the_way_and_ends_with_the_same_picture(client):
    asked = SMALL | {"seed": 4, "num_inference_steps": 6}
    events = list(client.images.generate(prompt=PROMPT, stream=True, partial_images=2, extra_body=asked))
    partial = [event for event in events if event.type == "image_generation.partial_image"]
    assert [event.partial_image_index for event in partial] == [0, 1]
    assert all(Image.open(BytesIO(base64.b64decode(event.b64_json))).size == (64, 64) for event in partial)
    assert events[-1].type == "image_generation.completed"
    assert events[-1].usage.output_tokens == 16
    assert base64.b64decode(events[-1].b64_json) == drawn(client.images.generate(prompt=PROMPT, extra_body=asked))[0]


def test_lora_weights_are_chosen_by_name_for_one_request(client):
    def ask(**more):
        return drawn(client.images.generate(prompt=PROMPT, extra_body=SMALL | {"seed": 5} | more))[0]

    plain, warm = ask(), ask(lora={"name": "warm", "scale": 0.5})
    assert Image.open(BytesIO(plain)).tobytes() != Image.open(BytesIO(warm)).tobytes()
    assert ask(lora=["warm"]) != warm
    assert ask() == plain
    assert Image.open(BytesIO(warm)).text["lora"] == "warm x 0.5"


@pytest.mark.parametrize(
    ("kind", "asked", "param"),
    [
        (openai.BadRequestError, {"prompt": ""}, "prompt"),
        (openai.BadRequestError, {"prompt": "x" * 40_000}, "prompt"),
        (openai.BadRequestError, {"n": 11}, "n"),
        (openai.BadRequestError, {"size": "0x64"}, "size"),
        (openai.BadRequestError, {"size": "99999x99999"}, "size"),
        (openai.BadRequestError, {"size": "8x8"}, "height"),
        (openai.BadRequestError, {"background": "transparent"}, "background"),
        (openai.BadRequestError, {"output_compression": 50}, "output_compression"),
        (openai.BadRequestError, {"style": "vivid"}, "style"),
        (openai.BadRequestError, {"partial_images": 2}, "partial_images"),
        (openai.BadRequestError, {"extra_body": {"seed": -1}}, "seed"),
        (openai.BadRequestError, {"extra_body": {"seed": [1, 2]}}, "seed"),
        (openai.BadRequestError, {"extra_body": {"num_inference_steps": 10**9}}, "num_inference_steps"),
        (openai.BadRequestError, {"quality": "low", "extra_body": {"num_inference_steps": 2}}, "quality"),
        (openai.BadRequestError, {"extra_body": {"max_sequence_length": "long"}}, "max_sequence_length"),
        (openai.BadRequestError, {"extra_body": {"latents": [0.5]}}, "latents"),
        (openai.BadRequestError, {"extra_body": {"lora": {"name": "warm", "path": "/etc/passwd"}}}, None),
        (openai.BadRequestError, {"extra_body": {"image": "data:image/png;base64,AAAA"}}, None),
        (openai.NotFoundError, {"extra_body": {"lora": "../../warm"}}, None),
        (openai.NotFoundError, {"model": "another"}, "model"),
        (openai.UnprocessableEntityError, {"extra_body": {"max_sequence_length": 100_000}}, None),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_the_clients_own_errors(client, kind, asked, param):
    with pytest.raises(kind) as refused:
        client.images.generate(**({"prompt": PROMPT} | asked))
    assert refused.value.body["message"]
    assert set(refused.value.body) == {"message", "type", "param", "code"}
    if param is not None:
        assert refused.value.param == param


def test_every_wrong_request_is_answered_in_one_shape(served, client):
    post = served.http.post
    path = "/v1/images/generations"
    answers = {
        404: [
            served.http.get("/v1/nothing"),
            served.http.get("/v1/files/file-1/content"),
            served.http.get("/v1/jobs/x"),
        ],
        405: [served.http.get(path), served.http.put("/v1/models")],
        413: [
            post(path, json={"prompt": "x" * 2**21}),
            post(path, content=(b"x" * 2**16 for _ in range(40)), headers=JSON),
        ],
        415: [post(path, content=b'{"prompt": "x"}'), post("/v1/batches", data={"a": "b"})],
        400: [post(path, content=text, headers=JSON) for text in (b"{", b"[1]", b"[" * 10**5)],
    }
    for odd in (
        b'{"prompt": "half \\ud800"}',
        b'{"prompt": "x", "guidance_scale": NaN}',
        b'{"prompt": "x", "seed": 1e999}',
    ):
        answers[400].append(post(path, content=odd, headers=JSON))
    answers[400] += [post("/v1/images/edits", json={"prompt": PROMPT}), post("/v1/videos", data={"prompt": PROMPT})]
    answers[400] += [
        post("/v1/files", data={"purpose": "batch"}),
        post(path, data={"prompt": PROMPT}, files={"image": b"x"}),
    ]
    for status, found in answers.items():
        for answer in found:
            assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error"), (
                answer.text
            )
    assert served.http.get(path).headers["allow"] == "POST"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_models_health_and_numbers(served, client):
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("black-forest-labs/another")
    assert served.http.get("/version").json().keys() >= {"ditmesh", "torch", "diffusers"}
    numbers = served.http.get("/metrics").text
    for name in (
        "requests_queued",
        "requests_running",
        "replicas_alive 1.0",
        "replica_restarts",
        "stage_seconds_bucket",
    ):
        assert f"ditmesh_{name}" in numbers
    assert 'ditmesh_requests_total{kind="image",status="completed"}' in numbers
    assert len(served.ranks()) == 2


def test_a_client_that_leaves_frees_the_ranks(served):
    for stream in (False, True):
        asked = {"prompt": PROMPT, "num_inference_steps": 1000, "stream": stream}
        with pytest.raises(httpx.ReadTimeout):
            served.http.post("/v1/images/generations", json=asked, timeout=1)
        newest = served.http.get("/v1/jobs?limit=1").json()["data"][0]
        assert served.ended(newest["id"])["error"] == "its client left"
    served.until(lambda: served.http.get("/v1/server").json()["running"] == 0)
    served.client().images.generate(prompt=PROMPT, extra_body=SMALL)


def test_a_full_queue_says_when_to_come_back(served, client):
    long = {"prompt": PROMPT, "num_inference_steps": 500}
    jobs = [served.http.post("/v1/jobs", json=long | {"n": n}).json()["id"] for n in (1, 4)]
    served.until(lambda: served.job(jobs[0])["status"] == "in_progress")
    waits = []
    for n in (3, 8):
        with pytest.raises(openai.RateLimitError) as refused:
            client.images.generate(prompt=PROMPT, n=n)
        assert refused.value.code == "queue_full"
        waits.append(int(refused.value.response.headers["retry-after"]))
    assert 1 <= waits[0] < waits[1]  # the more has to be drawn before there is room, the later
    for id in jobs:
        assert served.http.post(f"/v1/jobs/{id}/cancel").json()["status"] == "cancelled"
    client.images.generate(prompt=PROMPT, extra_body=SMALL)
    assert served.http.post(f"/v1/jobs/{jobs[0]}/cancel").status_code == 409


def test_a_job_pauses_goes_on_and_is_forgotten_with_its_files(served, client):
    asked = SMALL | {"prompt": PROMPT, "seed": 8, "num_inference_steps": 40}
    id = served.http.post("/v1/jobs", json=asked).json()["id"]
    served.http.post(f"/v1/jobs/{id}/pause")
    served.until(lambda: served.job(id)["status"] == "paused")
    served.http.post(f"/v1/jobs/{id}/resume")
    done = served.ended(id)
    whole = drawn(client.images.generate(prompt=PROMPT, extra_body={x: y for x, y in asked.items() if x != "prompt"}))[
        0
    ]
    assert served.http.get(done["results"][0]["url"]).content == whole
    again = served.ended(served.http.post(f"/v1/jobs/{id}/again", json={"num_inference_steps": 2}).json()["id"])
    assert (again["asked"]["seed"], again["steps"]) == (8, 2)
    vary = served.ended(served.http.post(f"/v1/jobs/{again['id']}/again", json={"seed": None}).json()["id"])
    assert (vary["asked"]["seed"] != 8, vary["steps"]) == (True, 2)
    assert served.http.delete(f"/v1/files/{done['results'][0]['file']}").status_code == 409
    assert served.http.delete(f"/v1/jobs/{id}").json()["deleted"]
    assert served.http.get(f"/v1/jobs/{id}").status_code == 404
    assert not (served.folder / "data" / "files" / done["results"][0]["file"]).exists()


def test_a_batch_of_fifty_rows_with_two_bad_ones(client):
    bodies = [{"prompt": PROMPT, "num_inference_steps": 1, "height": 16, "width": 16, "seed": i} for i in range(49)]
    bodies[10]["n"] = 0
    file = client.files.create(file=("rows.jsonl", rows(*bodies) + b"no json\n"), purpose="batch")
    assert client.files.retrieve(file.id).filename == "rows.jsonl"
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/images/generations", completion_window="24h", metadata={"for": "tests"}
    )
    while batch.status == "in_progress":
        batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.metadata) == ("completed", {"for": "tests"})
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (50, 48, 2)
    good = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    bad = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
    assert {row["custom_id"] for row in good} == {f"row-{i}" for i in range(49)} - {"row-10"}
    assert sorted((row["custom_id"] or "", row["response"]["status_code"]) for row in bad) == [
        ("", 400),
        ("row-10", 400),
    ]
    one = next(row for row in good if row["custom_id"] == "row-7")["response"]["body"]["data"][0]
    alone = client.images.generate(prompt=PROMPT, size="16x16", extra_body={"num_inference_steps": 1, "seed": 7})
    assert base64.b64decode(one["b64_json"]) == drawn(alone)[0]
    assert batch.id in [one.id for one in client.batches.list()]
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.batches.create(input_file_id=file.id, endpoint="/v1/images/generations", completion_window="24h")


def test_a_batch_is_cancelled_between_its_rows(client):
    file = client.files.create(file=rows(*[{"prompt": PROMPT, "num_inference_steps": 30}] * 20), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/images/generations", completion_window="24h")
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    while batch.status != "cancelled":
        batch = client.batches.retrieve(batch.id)
    assert batch.request_counts.completed < 20


def test_a_list_is_read_page_by_page(served):
    first = served.http.get("/v1/jobs?limit=2").json()
    second = served.http.get("/v1/jobs", params={"limit": 2, "after": first["data"][-1]["id"]}).json()
    times = [job["created_at"] for job in first["data"] + second["data"]]
    assert all(newer >= older for newer, older in pairwise(times))
    assert first["has_more"]
