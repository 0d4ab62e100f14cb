"""Videos and edits: the official client against tiny models with random weights."""

import base64
from contextlib import ExitStack
from io import BytesIO

import openai
import pytest
from PIL import Image

from tests.serve.served import Served
from tests.tiny import tiny_path

pytestmark = pytest.mark.slow


def image(size=(64, 64), kind="PNG") -> bytes:
    file = BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(file, kind)
    return file.getvalue()


@pytest.fixture
def serve(tmp_path):
    """Serve a tiny pipeline until the test ends, and then stop as a user would."""
    with ExitStack() as closing:

        def start(name: str) -> Served:
            served = closing.enter_context(
                Served(tmp_path, str(tiny_path(name, tmp_path / "tiny")), "--max-pixels", "10000")
            )
            return served.ready()

        yield start


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
def test_a_video_is_asked_for_looked_after_fetched_and_forgotten(serve):
    served = serve("wan")
    client = served.client()
    asked = {"seed": "3", "num_inference_steps": "2", "fps": "8"}
    made = client.videos.create(prompt="waves", seconds="1", size="32x48", extra_body=asked)
    assert (made.object, made.size, made.seconds, made.model) == ("video", "32x48", "1.125", "wan")
    done = client.videos.poll(made.id)
    assert (done.status, done.progress) == ("completed", 100)
    content = client.videos.download_content(made.id).read()
    assert content[4:8] == b"ftyp"
    again = client.videos.create_and_poll(prompt="waves", seconds="1", size="32x48", extra_body=asked)
    assert client.videos.download_content(again.id).read() == content
    thumbnail = Image.open(BytesIO(client.videos.download_content(made.id, variant="thumbnail").read()))
    sheet = Image.open(BytesIO(client.videos.download_content(made.id, variant="spritesheet").read()))
    assert thumbnail.size == (32, 48)
    assert sheet.size == (4 * 32, 3 * 48)  # 9 frames
    assert [video.id for video in client.videos.list(limit=1)] == [again.id, made.id]
    assert [video.id for video in client.videos.list(order="asc").data] == [made.id, again.id]
    assert client.videos.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(made.id)
    for wrong in ({"size": "1000x1000"}, {"seconds": "0"}, {"extra_body": {"num_frames": 100_000}}, {"prompt": ""}):
        with pytest.raises(openai.BadRequestError):
            client.videos.create(**({"prompt": "waves"} | wrong))
    with pytest.raises(openai.BadRequestError, match="/v1/videos"):
        client.images.generate(prompt="waves")
    unfinished = client.videos.create(prompt="waves", size="32x48", extra_body={"num_inference_steps": "1000"})
    with pytest.raises(openai.ConflictError, match="The video is"):
        client.videos.download_content(unfinished.id)
    assert served.stop() == 0


def test_a_picture_is_edited_as_a_form(serve):
    served = serve("qwen_image_edit_plus")
    client = served.client()
    asked = {"seed": 3, "num_inference_steps": 2, "true_cfg_scale": 1.0, "height": 32, "width": 32}
    whole = client.images.edit(image=("a.png", image()), prompt="make it blue", extra_body=asked)
    stream = client.images.edit(
        image=[image()], prompt="make it blue", stream=True, partial_images=1, extra_body=asked
    )  # fmt: skip
    events = list(stream)
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    pictures = [Image.open(BytesIO(base64.b64decode(x.b64_json))) for x in (whole.data[0], events[-1])]
    assert pictures[0].tobytes() == pictures[1].tobytes()
    inline = "data:image/png;base64," + base64.b64encode(image()).decode()
    answer = served.http.post("/v1/images/edits", json={"image": inline, "prompt": "make it blue", **asked})
    assert (
        Image.open(BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))).tobytes() == pictures[0].tobytes()
    )
    job = served.http.get("/v1/jobs?limit=1").json()["data"][0]["id"]
    again = served.ended(served.http.post(f"/v1/jobs/{job}/again", json={}).json()["id"])["results"][0]
    assert Image.open(BytesIO(served.http.get(again["url"]).content)).tobytes() == pictures[0].tobytes()
    for wrong in (b"no image", image((200, 200)), image(kind="PPM"), b""):
        with pytest.raises(openai.BadRequestError, match="image"):
            client.images.edit(image=wrong, prompt="x")
    for address in ("http://127.0.0.1/x.png", "http://example.org/x.png", "/etc/passwd", "file:///etc/passwd"):
        answer = served.http.post("/v1/images/edits", json={"image": address, "prompt": "x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_image")
    with pytest.raises(openai.BadRequestError, match="mask"):
        client.images.edit(image=image(), mask=image(), prompt="x")
    with pytest.raises(openai.BadRequestError, match="/v1/images/edits"):
        client.images.generate(prompt="x")
    assert served.stop() == 0
