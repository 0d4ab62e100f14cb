"""The page in a real browser: asked by keyboard, watched, shown narrow and wide, by day and by night."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.serve.served import KEY, Served

pytestmark = pytest.mark.slow

WAIT = 120_000  # ms; a busy machine is no failure
UNDER_WAY = ("queued", "in_progress", "paused")
EVIL = "<img src=x onerror=document.title='gone'> a red circle"


@pytest.fixture
def page(served: Served, browser: Browser) -> Iterator[Page]:
    """The page, with the key entered; nothing in it may fail or come from elsewhere."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(WAIT)
    expect.set_options(timeout=WAIT)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: request.url.startswith((served.url, "data:")) or wrong.append(request.url))
    page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    page.goto(served.url)
    page.get_by_label("Key", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_text("That key is wrong.")).to_be_visible()
    page.get_by_label("Key", exact=True).fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("ready")
    yield page
    assert wrong == []
    page.close()


def test_a_picture_is_asked_for_by_keyboard_and_drawn_again(served: Served, page: Page):
    expect(page.locator("#facts")).to_contain_text("ulysses2")
    ended = [job for job in served.http.get("/v1/jobs?limit=24").json()["data"] if job["status"] not in UNDER_WAY]
    before = sum(max(1, len(job["results"])) for job in ended)  # of other tests
    expect(page.locator(".picture")).to_have_count(before)
    page.get_by_label("Prompt").focus()
    page.keyboard.type(EVIL)
    for label, value in (("Width", "64"), ("Height", "64"), ("Steps", "2"), ("Seed", "9")):
        page.get_by_label(label, exact=True).focus()
        page.keyboard.type(value)
    page.keyboard.press("Control+Enter")
    expect(page.locator(".picture")).to_have_count(before + 1)
    card = page.locator(".picture").first
    expect(card.locator(".made")).to_contain_text("seed\u00a09")
    expect(card.locator(".prompt")).to_have_text(EVIL)
    assert page.title() == "demo · ditmesh"
    card.get_by_role("button", name="Enlarge").click()
    expect(page.locator("#large-facts")).to_contain_text("seed9steps2")
    with page.expect_download() as saved:
        page.locator("#large").get_by_role("link", name="Save").click()
    again = {"prompt": EVIL, "seed": 9, "num_inference_steps": 2, "size": "64x64", "response_format": "url"}
    url = served.http.post("/v1/images/generations", json=again).json()["data"][0]["url"]
    assert saved.value.path().read_bytes() == served.http.get(url).content
    page.locator("#large").get_by_role("button", name="Variation").click()
    page.keyboard.press("Escape")
    expect(page.locator("#large")).to_be_hidden()
    expect(page.locator(".picture")).to_have_count(before + 3)  # the client's own picture is shown as well
    expect(page.locator(".picture .made").first).not_to_contain_text("seed\u00a09 ")
    page.locator(".picture").first.get_by_role("button", name="Enlarge").click()
    page.locator("#large").get_by_role("button", name="Forget").click()
    expect(page.locator(".picture")).to_have_count(before + 2)


def test_what_is_under_way_moves_and_is_paused_and_cancelled(page: Page):
    page.get_by_label("Prompt").fill("a long one")
    page.get_by_label("Steps").fill("300")
    page.get_by_role("button", name="Draw").click()
    row = page.locator("#queue li")
    expect(row).to_contain_text("step")
    expect(page.get_by_role("status")).to_contain_text("drawing 1")
    expect(page.locator("#replicas")).to_contain_text("drawing")
    assert page.locator("#replicas tbody tr").count() == 2
    expect(row.locator("img[src^='data:image']")).to_be_visible()
    row.get_by_role("button", name="Pause").click()
    expect(row).to_contain_text("paused")
    row.get_by_role("button", name="Resume").click()
    expect(row).to_contain_text("step")
    row.get_by_role("button", name="Cancel").click()
    expect(row).to_have_count(0)
    page.get_by_label("Width").fill("3")
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_role("alert").first).to_contain_text("width: 3 pixels are fewer")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read_wherever_it_is_shown(served: Served, browser: Browser, scheme):
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page.set_default_timeout(WAIT)
    page.add_init_script(f"sessionStorage.setItem('ditmesh-key', {KEY!r})")
    page.goto(served.url)
    expect(page.get_by_role("status")).to_have_text("ready", timeout=WAIT)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for selector in ("body", "#prompt", ".main", "label", ".facts dt", "h2"):
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector
    # Everything that can be done is reached by the tabulator, in the order in which it is read.
    names = []
    for _ in range(12):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.name || document.activeElement.textContent.trim()"))
    order = ["prompt", "width", "height", "num_inference_steps", "n", "seed", "More", "Draw"]
    assert [name for name in names if name in order] == order
    page.close()


CONTRAST = """selector => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (x) => (x /= 255) <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const element = document.querySelector(selector);
  const ground = (under) => {
    const found = getComputedStyle(under).backgroundColor;
    return rgb(found)[3] === 0 && under.parentElement ? ground(under.parentElement) : found;
  };
  const [a, b] = [light(rgb(getComputedStyle(element).color)), light(rgb(ground(element)))];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""
