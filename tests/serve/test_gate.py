"""Who may come in, what is fetched for them, and what they may name: each refusal by itself, without a server."""

import asyncio
import http.server
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse

from ditmesh.serve import fetching
from ditmesh.serve.fetching import fetch, is_public
from ditmesh.serve.gate import Gate, signed
from ditmesh.serve.settings import Settings, check_settings, find_loras
from ditmesh.serve.store import Store

SECRET = b"of the tests"
SETTINGS = Settings("demo", Path("data"), most_bytes=1000)


async def hello(scope, receive, send):
    while (message := await receive()).get("more_body"):
        assert message["type"] == "http.request"
    await PlainTextResponse("hello")(scope, receive, send)


def ask(settings: Settings, path: str = "/v1/jobs", method: str = "GET", **options) -> httpx.Response:
    async def once():
        transport = httpx.ASGITransport(Gate(hello, settings, SECRET))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org", "127.0.0.1.example.org"])
def test_others_are_let_in_only_with_a_key_or_on_purpose(host):
    with pytest.raises(ValueError, match="--api-key KEY, or --insecure"):
        check_settings(replace(SETTINGS, host=host))
    check_settings(replace(SETTINGS, host=host, api_key="k"))
    check_settings(replace(SETTINGS, host=host, insecure=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1", "[::1]"])
def test_this_machine_needs_none(host):
    assert check_settings(replace(SETTINGS, host=host)).api_key is None
    assert Settings("demo", Path("data")).host == "127.0.0.1"


@pytest.mark.parametrize("key", ["", "  ", "ä", "a\nb"])
def test_a_key_that_no_header_can_hold_is_refused(key):
    with pytest.raises(ValueError, match="--api-key"):
        check_settings(replace(SETTINGS, api_key=key))


def test_the_key_is_asked_for_and_not_told():
    keyed = replace(SETTINGS, api_key="secret")
    assert "secret" not in repr(keyed)
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer secret2"},
        {"authorization": "Basic x"},
    ):
        answer = ask(keyed, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert ask(keyed, headers={"authorization": "Bearer secret"}).text == "hello"
    for path in ("/", "/health", "/ready", "/page/page.js"):
        assert ask(keyed, path).text == "hello"


def test_a_link_is_good_for_its_path_its_method_and_its_time():
    keyed, path = replace(SETTINGS, api_key="secret"), "/v1/files/file-1/content"
    later = int(time.time()) + 60
    link = signed(SECRET, path, later)
    assert ask(keyed, link).text == "hello"
    wrong = [signed(b"other", path, later), signed(SECRET, path, 1), link.replace("file-1", "file-2"), link + "0"]
    assert [ask(keyed, one).status_code for one in wrong] == [401] * 4
    assert ask(keyed, link, "DELETE").status_code == 401


def test_pages_of_others_are_kept_out():
    assert ask(SETTINGS, headers={"origin": "http://127.0.0.1:8000"}).text == "hello"
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9000"):
        assert ask(SETTINGS, method="POST", headers={"origin": origin}).json()["error"]["code"] == "foreign_origin"
    # A name of somebody else that leads to this machine is how a page would read what it may not.
    assert ask(SETTINGS, headers={"host": "evil.example"}).status_code == 403
    assert ask(replace(SETTINGS, insecure=True), headers={"host": "a.example"}).text == "hello"
    assert ask(SETTINGS, headers={"host": "localhost:8000"}).text == ask(SETTINGS, headers={"host": "[::1]"}).text


def test_a_body_is_bounded_whether_or_not_it_tells_its_length():
    assert ask(SETTINGS, method="POST", content=b"x" * 1000).text == "hello"
    assert ask(SETTINGS, method="POST", content=b"x" * 1001).status_code == 413

    async def parts():
        for _ in range(11):
            yield b"x" * 100

    with pytest.raises(Exception, match="larger than the 1000 bytes"):  # the application's own handler answers it
        ask(SETTINGS, method="POST", content=parts())


def test_every_answer_says_what_a_browser_may_do_with_it():
    for answer in (ask(SETTINGS), ask(replace(SETTINGS, api_key="k"))):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.9.9", "192.168.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "64:ff9b::7f00:1", "2002:7f00:1::", "ff02::1",
    ],
)  # fmt: skip
def test_no_address_of_this_network_is_public(address):
    assert not is_public(address)


def test_public_addresses_are():
    assert is_public("93.184.215.14")
    assert is_public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://example.org/x", "http://", "http://user:pw@example.org/", "http://[::1",
        "http://a b/",
        "http://127.0.0.1/x.png", "http://localhost:8000/", "http://0x7f000001/", "http://2130706433/", "http://[::1]/",
    ],
)  # fmt: skip
def test_a_url_that_is_none_or_leads_home_is_not_fetched(url, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("it was connected to"))
    with pytest.raises(ValueError, match="the picture's"):
        fetch(url, 1000)


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        where = {"/home": "http://10.0.0.1/x", "/round": "/round", "/on": "/picture"}.get(self.path)
        self.send_response(302 if where else 200)
        if where:
            self.send_header("location", where)
        self.end_headers()
        if not where:
            self.wfile.write(self.headers["host"].encode() if self.path == "/picture" else b"x" * 2000)

    def log_message(self, *_):
        pass


@pytest.fixture
def web(monkeypatch):
    """A server that a public name seems to lead to, as long as it is asked for but once."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    asked: list[str] = []

    def resolve(host, port, **_):
        asked.append(host)
        address = {"pictures.example": "93.184.215.14"}.get(host, host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def reach(address, timeout):
        assert address[0] == "93.184.215.14"
        link = socket.socket()
        link.settimeout(timeout)
        link.connect(("127.0.0.1", server.server_port))
        return link

    monkeypatch.setattr(fetching.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(fetching.socket, "create_connection", reach)
    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_host_is_looked_up_once_and_wherever_it_leads_on_as_well(web):
    assert fetch("http://pictures.example/picture", 1000) == b"pictures.example"
    assert web == ["pictures.example"]
    assert fetch("http://pictures.example/on", 1000) == b"pictures.example"
    with pytest.raises(ValueError, match=r"'10.0.0.1' is at no public address"):
        fetch("http://pictures.example/home", 1000)
    with pytest.raises(ValueError, match="leads on more than 3 times"):
        fetch("http://pictures.example/round", 1000)
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        fetch("http://pictures.example/large", 1000)


def test_only_names_of_ours_reach_the_file_system(tmp_path):
    store = Store(tmp_path)
    (tmp_path / "outside").write_text("x")
    for id in (
        "../outside",
        "../../etc/passwd",
        "jobs.sqlite",
        "",
        "file-" + "0" * 23 + "/",
        "file-" + "0" * 24 + "\n",
    ):
        assert store.file(id) is None
        with pytest.raises(AssertionError):
            store.path(id)
    file = store.keep_file(b"x", "../../evil", "batch", "text/plain")
    assert store.path(file.id).parent == tmp_path / "files"
    with pytest.raises(ValueError, match="another server keeps its jobs there"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


def test_lora_weights_are_named_by_their_folder_alone(tmp_path):
    (tmp_path / "warm.safetensors").touch()
    (tmp_path / "warm.bin").touch()
    assert find_loras(tmp_path) == {"warm": tmp_path / "warm.safetensors"}
    for folder in (tmp_path / "nowhere", Path(__file__).parent):
        with pytest.raises(ValueError, match="--lora-dir"):
            find_loras(folder)
    assert find_loras(None) == {}


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("ditmesh.serve.settings.find_spec", lambda module: None if module == "uvicorn" else module)
    with pytest.raises(ValueError, match=r"needs uvicorn, .* pip install 'ditmesh\[serve\]'"):
        check_settings(SETTINGS)
