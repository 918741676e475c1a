"""The chat page in a real browser: it streams, survives a reload, stops, reads aloud, and works by
keyboard.
"""

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from device.serve.page import headers, page
from tests.fakes.engine import FakeEngine
from tests.fakes.service import call, service, wait_until_loaded

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    "",
)
in_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt install chromium"),
]
TOKEN = "sixteen-characters"
REFUSED = "status of 400"
"""Chromium's own line for a request that the service refused."""
LIGHT, DARK = "rgb(251, 249, 246)", "rgb(23, 20, 18)"


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(word="warm ", context=4096)


@pytest.fixture
def port(engine: FakeEngine) -> Iterator[int]:
    with service(engine.model) as number:
        wait_until_loaded(number)
        yield number
        engine.go.set()


@pytest.fixture
def tab(browser, port: int):  # type: ignore[no-untyped-def]
    """A tab with the page, in which every error of a script and every refused load is a failure."""
    context = browser.new_context(viewport={"width": 800, "height": 700})
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on(
        "console",
        lambda said: (
            wrong.append(said.text) if said.type == "error" and REFUSED not in said.text else None
        ),
    )
    tab.set_default_timeout(10_000)
    tab.goto(f"http://127.0.0.1:{port}/")
    yield tab
    context.close()
    assert wrong == []


def test_it_is_one_small_file_that_loads_nothing_from_elsewhere() -> None:
    html = page().decode()
    assert len(html.encode()) <= 60_000
    assert re.findall(r"https?://|//\w+\.\w+|@import|url\(", html) == []


def test_its_headers_let_it_talk_to_its_own_service_alone() -> None:
    with service(lambda: FakeEngine().model(), token=TOKEN) as number:
        status, fields, _ = call(number, "/")
    policy = fields["content-security-policy"]
    assert status == 200, "the page itself asks for no token"
    assert (
        "default-src 'none'" in policy
        and "connect-src 'self'" in policy
        and "frame-ancestors 'none'" in policy
    )
    assert "unsafe" not in policy and policy == headers(page())["content-security-policy"]


class TestInABrowser:
    pytestmark = in_browser

    def test_an_answer_streams_and_stays_over_a_reload(self, tab: Any, engine: FakeEngine) -> None:
        tab.get_by_label("Your question").fill("how hot is it?")
        tab.keyboard.press("Enter")
        answer = tab.locator("article.assistant p")
        tab.locator("article.assistant small").filter(has_text="tokens/s").wait_for()
        assert answer.inner_text().split() == ["warm"] * 32
        assert "tiny" in tab.locator("h1").inner_text()
        tab.reload()
        assert tab.locator("article").count() == 2
        assert tab.locator("article.user p").inner_text() == "how hot is it?"

    def test_the_next_question_brings_the_conversation_along(
        self, tab: Any, engine: FakeEngine
    ) -> None:
        for question in ("first?", "second?"):
            tab.get_by_label("Your question").fill(question)
            tab.get_by_role("button", name="Ask").click()
            tab.locator("#log[aria-busy=false]").wait_for()
        assert (
            engine.prompts[1].count(b"warm") == 32
            and b"first?" in engine.prompts[1]
            and b"second?" in engine.prompts[1]
        )
        tab.get_by_role("button", name="New conversation").click()
        assert tab.locator("article").count() == 0

    def test_escape_stops_an_answer_and_the_engine(self, tab: Any, engine: FakeEngine) -> None:
        engine.go.clear()
        tab.get_by_label("Your question").fill("tell me everything")
        tab.keyboard.press("Enter")
        assert engine.began.wait(10)
        assert tab.get_by_role("button", name="Stop").is_visible()
        tab.keyboard.press("Escape")
        assert engine.ended.wait(10)
        tab.locator("#log[aria-busy=false]").wait_for()
        assert tab.get_by_label("Your question").input_value() == "tell me everything", (
            "what got no answer is back in the field"
        )
        assert tab.locator("article").count() == 0

    def test_what_the_model_says_is_text_and_never_markup(
        self, tab: Any, engine: FakeEngine
    ) -> None:
        engine.word = "<img src=x onerror=alert(1)>\n```\nls -l\n```\n"
        tab.get_by_label("Your question").fill("<b>bold</b>")
        tab.keyboard.press("Enter")
        tab.locator("article.assistant small").filter(has_text="tokens/s").wait_for()
        assert tab.locator("#log img, #log b").count() == 0
        assert tab.locator("article.assistant pre").first.inner_text() == "ls -l"

    def test_an_error_is_shown_and_the_question_is_not_lost(
        self, tab: Any, engine: FakeEngine
    ) -> None:
        tab.get_by_label("Your question").fill("x" * 5000)
        with tab.expect_response("**/v1/chat/completions") as answered:
            tab.get_by_role("button", name="Ask").click()
        assert answered.value.status == 400
        assert "the context holds" in tab.locator("article.wrong").inner_text()
        assert len(tab.get_by_label("Your question").input_value()) == 5000

    def test_light_and_dark_follow_the_system_and_the_button(self, tab: Any) -> None:
        paper = "getComputedStyle(document.body).backgroundColor"
        for scheme, colour in (("light", LIGHT), ("dark", DARK)):
            tab.emulate_media(color_scheme=scheme)
            assert tab.evaluate(paper) == colour
        tab.get_by_role("button", name="Switch between light and dark").click()
        assert tab.evaluate(paper) == LIGHT
        tab.reload()
        assert tab.evaluate(paper) == LIGHT, "the choice is kept"

    def test_it_is_usable_by_keyboard_and_screen_reader(self, tab: Any) -> None:
        assert tab.evaluate("document.activeElement.id") == "question"
        order = []
        for _ in range(4):
            tab.keyboard.press("Tab")
            order.append(tab.evaluate("document.activeElement.id"))
        assert set(order) >= {"send", "theme", "fresh"}
        assert tab.get_by_role("log").get_attribute("aria-live") == "polite"
        unnamed = (
            "[...document.querySelectorAll('button, textarea')].filter(e => "
            "!(e.textContent.trim() || e.ariaLabel || e.labels?.length))"
        )
        assert tab.evaluate(f"{unnamed}.length") == 0
        assert tab.evaluate(CONTRAST) >= 4.5, "WCAG 2.2 AA for text"

    def test_a_guarded_service_asks_for_its_token(self, browser: Any) -> None:
        with service(lambda: FakeEngine(word="warm ").model(), token=TOKEN) as number:
            wait_until_loaded(number)
            tab = browser.new_context().new_page()
            tab.on("dialog", lambda dialog: dialog.accept(TOKEN))
            tab.goto(f"http://127.0.0.1:{number}/")
            tab.get_by_label("Your question").fill("hello?")
            tab.keyboard.press("Enter")
            tab.locator("article.assistant small").filter(has_text="tokens/s").wait_for()
            tab.context.close()


CONTRAST = """(() => {
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = rgb => {
    const [r, g, b] = rgb.match(/[0-9.]+/g).map(v => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b; };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const ratio = e => {
    const ink = light(getComputedStyle(e).color);
    return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05); };
  return Math.min(...[document.body, document.querySelector('#figures')].map(ratio));
})()"""
"""The least contrast of the page's two inks on its paper."""
