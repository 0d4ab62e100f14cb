"""The flags that change what is loaded, what goes in and what comes out: each changes exactly that."""

import http.server
import json
import shutil
import subprocess
import threading
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ditmesh.cli.generate import output
from ditmesh.cli.generate.job import describe_job, warmup_call
from ditmesh.cli.generate.options import Options
from ditmesh.job.classes import check_job
from ditmesh.job.draw import draw
from ditmesh.job.example import Images
from ditmesh.job.images import Inputs, find_inputs, open_inputs
from ditmesh.job.load import compile_blocks, load
from ditmesh.job.picture import to_bytes
from ditmesh.runtime.world import World
from tests.tiny import tiny_path
from tests.upstream.lora import save_lora

SMALL = {"height": 48, "width": 80, "steps": 2, "warmup": 0}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("tiny")


def job_of(example: str, model, **asked):
    return describe_job(Options(example, model_path=str(model), **(SMALL | asked)), World())


def drawn(job) -> np.ndarray:
    pipe = load(job, torch.float32)
    return draw(pipe, job, job.call, job.seed).films


def test_lora_weights_are_fused_or_kept_beside_and_draw_the_same(root, tmp_path):
    flux = tiny_path("flux", root)
    file = save_lora(flux, tmp_path)
    fused = job_of("flux", flux, lora_path=str(tmp_path))
    beside = job_of("flux", flux, lora_path=str(file), disable_fuse_lora=True)

    assert load(fused, torch.float32).get_list_adapters() == {}
    assert load(beside, torch.float32).get_list_adapters() == {"transformer": ["default_0"]}
    assert np.abs(drawn(fused) - drawn(beside)).max() < 1e-5
    assert np.abs(drawn(fused) - drawn(job_of("flux", flux))).max() > 1e-3


def test_lora_weights_of_another_model_are_refused(root, tmp_path):
    file = save_lora(tiny_path("flux", root), tmp_path)
    with pytest.raises(ValueError, match="no weights for this WanPipeline; it was made for another model: Target"):
        load(job_of("wan2.1_t2v", tiny_path("wan", root), lora_path=str(file)), torch.float32)


def test_an_example_has_lora_weights_for_its_number_of_steps(root, monkeypatch):
    asked = []
    monkeypatch.setattr("ditmesh.job.weights.find_file", lambda model, name, *_: asked.append((model, name)) or name)
    model = tiny_path("qwen_image", root)
    assert job_of("qwen_image_lightning", model, steps=4).lora.fuse
    job_of("qwen_image_lightning", model, steps=None)
    assert [(repository, "4steps" in name, "8steps" in name) for repository, name in asked] == [
        ("lightx2v/Qwen-Image-Lightning", True, False),
        ("lightx2v/Qwen-Image-Lightning", False, True),
    ]


def test_a_transformer_from_elsewhere_is_the_one_that_draws(root):
    wan, other = tiny_path("wan", root), tiny_path("wan_two", root)
    job = job_of("wan2.1_t2v", wan, transformer_path=str(other / "transformer_2"), num_frames=5)
    ours = load(job, torch.float32).transformer.state_dict()
    theirs = load(job_of("wan2.2_t2v", other, num_frames=5), torch.float32).transformer_2.state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
    whole = job_of("wan2.1_t2v", wan, transformer_path=str(other), num_frames=5)  # a saved pipeline: its transformer
    assert whole.parts[0].subfolder == "transformer"
    assert load(whole, torch.float32).transformer is not None


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # of torch's own compiler
def test_every_transformer_gets_its_repeated_blocks_compiled(root):
    job = check_job(job_of("wan2.2_t2v", tiny_path("wan_two", root), compile=True))
    pipe = load(job, torch.float32)
    compile_blocks(pipe, job)
    blocks = [*pipe.transformer.blocks, *pipe.transformer_2.blocks]
    assert all(block._compiled_call_impl is not None for block in blocks)


class Pipe:
    """Draws nothing, and remembers how it was called."""

    def __init__(self, **result):
        self.result, self.calls = result, []

    def __call__(self, **call):
        self.calls.append(call)
        return self.result

    def set_progress_bar_config(self, **_):
        pass


def test_untimed_runs_have_their_own_prompt_seed_and_steps(root):
    pipe = Pipe(images=np.zeros((1, 2, 2, 3)))
    asked = {"warmup": 1, "warmup_steps": 1, "warmup_prompt": "a dog", "warmup_seed": 7, "seed": 3, "prompt": "a cat"}
    job = job_of("flux", tiny_path("flux", root), **asked)
    draw(pipe, job, *warmup_call(Options("flux", **asked), job))
    draw(pipe, job, job.call, job.seed)
    told = [(call["prompt"], call["num_inference_steps"], call["generator"].initial_seed()) for call in pipe.calls]
    assert told == [("a dog", 1, 7), ("a cat", 2, 3)]


def test_what_a_pipeline_draws_without_its_generator_depends_on_the_seed_too(root):
    class Random(Pipe):
        def __call__(self, **_):
            return {"images": torch.rand(1, 2, 2, 3).numpy()}

    job = job_of("flux", tiny_path("flux", root))
    first, again = (draw(Random(), job, job.call, 5).films for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, draw(Random(), job, job.call, 6).films)


def test_layers_are_several_pictures_with_transparency(root, tmp_path):
    layers = np.random.default_rng(0).random((4, 6, 8, 4))
    films = draw(Pipe(images=[layers]), job_of("flux", tiny_path("flux", root)), {}, 0).films
    paths = output.save(films, tmp_path / "layers.png", 8)
    assert [path.name for path in paths] == [f"layers_{i}.png" for i in range(4)]
    with Image.open(paths[3]) as last:
        assert np.array_equal(np.asarray(last), to_bytes(layers[3]))


def test_a_film_keeps_its_sound(root, tmp_path):
    sound = torch.sin(torch.arange(24000) / 20).expand(1, 2, -1)
    pipe = Pipe(frames=np.random.default_rng(0).random((1, 24, 16, 16, 3)), audio=sound)
    pipe.vocoder = SimpleNamespace(config=SimpleNamespace(output_sampling_rate=24000))
    result = draw(pipe, job_of("flux", tiny_path("flux", root)), {}, 0)
    (path,) = output.save(result.films, tmp_path / "film.mp4", 24, result.sound, result.rate)
    told = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", path], capture_output=True, text=True).stderr
    assert "Audio: aac" in told
    assert "24000 Hz, stereo" in told
    assert "Duration: 00:00:01" in told


@pytest.mark.parametrize("damage", ["cut off", "garbage", "missing", "other shapes"])
def test_damaged_weights_are_told_in_a_line(damage, flux, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(flux, broken)
    (weights,) = (broken / "transformer").glob("*.safetensors")
    if damage == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "garbage":
        weights.write_bytes(b"x" * 1000)
    elif damage == "missing":
        weights.unlink()
    else:
        config = json.loads((broken / "transformer" / "config.json").read_text())
        config["joint_attention_dim"] *= 2
        (broken / "transformer" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"broken.* cannot be loaded: .*download or save them again") as refused:
        load(job_of("flux", str(broken)), torch.float32)
    assert "\n" not in str(refused.value)


def test_pickles_are_read_if_they_are_trusted(flux, tmp_path):
    pickled = tmp_path / "pickled"
    shutil.copytree(flux, pickled)
    (weights,) = (pickled / "transformer").glob("*.safetensors")
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    job = job_of("flux", str(pickled))
    with pytest.raises(ValueError, match=r"which run what they hold .* pass --allow-pickle"):
        load(job, torch.float32)
    load(replace(job, allow_pickle=True), torch.float32)


@pytest.fixture
def picture(tmp_path):
    Image.linear_gradient("L").resize((40, 20)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


REFUSED = {
    "nothing.png": "404",
    "large": "more than 1 MiB",
    "to_file": "Redirection to url 'file:.*is not allowed",
    "to_ftp": "unknown url type: ftp",
}


def test_images_come_from_files_and_the_web(picture, tmp_path, monkeypatch):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "b, c.png")

    closing = threading.Event()
    monkeypatch.setattr("ditmesh.job.images.BYTES_TO_FETCH", 2**20)
    (tmp_path / "large").write_bytes(bytes(2**20 + 1))

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path == "/drip":
                closing.wait(60)
            elif self.path in ("/to_file", "/to_ftp"):
                self.send_response(302)
                self.send_header("Location", f"{self.path[4:]}://127.0.0.1/{picture}")
                self.end_headers()
            else:
                super().do_GET()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/a.png"
    given = [f"{picture},{picture}", str(tmp_path / "b, c.png"), url]
    inputs = find_inputs(example_with(Images(many=True)), given, None)
    images = open_inputs(inputs, Images(many=True))["image"]
    for name, words in REFUSED.items():
        with pytest.raises(ValueError, match=f"{name} cannot be fetched: .*{words}"):
            open_inputs(Inputs((url.replace("a.png", name),)), Images())
    monkeypatch.setattr("ditmesh.job.images.SECONDS_TO_FETCH", 0.2)
    with pytest.raises(ValueError, match=r"drip cannot be fetched: it takes longer than 0\.2 s"):
        open_inputs(Inputs((url.replace("a.png", "drip"),)), Images())
    closing.set()
    server.shutdown()
    server.server_close()
    assert [(image.size, image.mode) for image in images] == [((40, 20), "RGB")] * 2 + [
        ((8, 8), "RGB"),
        ((40, 20), "RGB"),
    ]


def example_with(images):
    from dataclasses import replace

    from ditmesh.cli.examples import EXAMPLES

    return replace(EXAMPLES["flux"], images=images)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(None, None, (40, 20)), (10, None, (20, 10)), (None, 8, (8, 4)), (6, 6, (6, 6))]
)
def test_images_are_resized_first(picture, height, width, size):
    inputs = Inputs((str(picture),), str(picture), height, width)
    opened = open_inputs(inputs, Images(mask="mask_image"))
    assert (opened["image"].size, opened["mask_image"].size) == (size, size)
    assert opened["mask_image"].mode == "L"


@pytest.mark.parametrize(
    ("asked", "images", "words"),
    [
        (["a.png,a.png"], Images(), "names 2 images, and flux takes one"),
        (["there/is/none.png"], Images(), "no image there/is/none.png"),
        ([], Images(), "needs an image that nobody gave; add --image-path FILE"),
        (["a.png"], Images(mask="mask_image"), "add --mask-image-path FILE"),
    ],
    ids=["too many", "not there", "none", "no mask"],
)
def test_images_are_looked_for_before_anything_is_loaded(asked, images, words, picture, monkeypatch):
    monkeypatch.chdir(picture.parent)
    with pytest.raises(ValueError, match=words):
        find_inputs(example_with(images), asked, None)


@pytest.mark.parametrize(
    ("content", "limit", "words"),
    [
        (lambda whole: b"text", None, r"a\.png is no image that Pillow can read"),
        (lambda whole: whole[: len(whole) // 2], None, r"a\.png cannot be read: "),
        (lambda whole: whole, 500, r"a\.png is too large: "),
        (lambda whole: whole, 100, r"a\.png is too large: "),
    ],
    ids=["text", "cut off", "large", "a bomb"],
)
def test_a_file_that_is_no_image_is_named(content, limit, words, picture, monkeypatch):
    picture.write_bytes(content(picture.read_bytes()))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match=words):
        open_inputs(Inputs((str(picture),)), Images())
