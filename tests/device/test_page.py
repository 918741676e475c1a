"""The chat page in a real browser: it streams, survives a reload, stops, reads aloud, and works by
keyboard.
"""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device.feedback import Ring
from device.manifest.pictures import Size, check
from device.serve.page import headers, page
from tests.fakes.engine import FakeEngine
from tests.fakes.eyes import picture
from tests.fakes.knowing import HOT, NIGHT, PASSAGES, UNKNOWN, knowing_bundle, serving
from tests.fakes.service import call, service, wait_until_loaded
from toolchain.knowledge.passages import Passage

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
REFUSED = ("status of 400", "status of 404")
"""Chromium's own lines for a request that the service refused."""
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
def tab(browser: Any, port: int) -> Any:
    """A tab with the page of a service without documents."""
    yield from opened(browser, port)


def opened(browser: Any, port: int) -> Any:
    """Yield a tab with the page, in which every error of a script and every refused load fails."""
    context = browser.new_context(viewport={"width": 800, "height": 700})
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on(
        "console",
        lambda said: (
            wrong.append(said.text)
            if said.type == "error" and not any(each in said.text for each in REFUSED)
            else None
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

    def test_an_answer_is_rated_and_corrected_where_the_board_keeps_that(
        self, browser: Any, tmp_path: Path
    ) -> None:
        ring = Ring(tmp_path / "feedback", 1 << 20)
        with service(lambda: FakeEngine(word="warm ").model(), ring=ring) as number:
            wait_until_loaded(number)
            for tab in opened(browser, number):
                tab.get_by_text("This board keeps for its owner").wait_for()
                tab.get_by_label("Your question").fill("how hot is it?")
                tab.keyboard.press("Enter")
                tab.get_by_label("A wrong answer").click()
                tab.get_by_label("What would have been right?").fill("80 degrees")
                tab.get_by_role("button", name="Send").click()
                tab.get_by_label("What would have been right?").wait_for(state="detached")
        assert [(row["rating"], row.get("correction")) for row in ring.rows()] == [
            (-1, None),
            (-1, "80 degrees"),
        ]

    def test_no_answer_is_rated_where_the_board_keeps_nothing(self, tab: Any) -> None:
        tab.get_by_label("Your question").fill("how hot is it?")
        tab.keyboard.press("Enter")
        tab.locator("article.assistant small").filter(has_text="tokens/s").wait_for()
        assert tab.get_by_label("A good answer").count() == 0
        assert not tab.get_by_text("This board keeps for its owner").is_visible()

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


class TestSources:
    """Answers from documents: a real index, embedder and model behind the page."""

    pytestmark = in_browser

    def test_a_source_folds_out_under_its_answer_and_brings_its_passage(self, known: Any) -> None:
        answer = asked(known, HOT)
        assert answer.locator("p").inner_text() == PASSAGES[0].text
        assert answer.locator("small").inner_text().startswith("answered in ")
        source = answer.locator(f"{CITED} details")
        assert source.locator("summary").inner_text() == "manual/heat.md › Heat › Limits"
        assert not source.locator("blockquote").is_visible()
        source.locator("summary").press("Enter")
        source.locator("blockquote").filter(has_text=PASSAGES[0].text).wait_for()
        source.locator("summary").click()
        assert not source.locator("blockquote").is_visible()

    def test_what_was_found_as_well_stands_apart_under_it(self, known: Any) -> None:
        answer = asked(known, HOT)
        near = answer.locator(".near")
        assert near.inner_text().startswith("See also:")
        assert near.locator("summary").all_inner_texts() == [
            "manual/heat.md › Heat › Fan",
            "guide.pdf › page 7",
        ]
        near.locator("summary").last.click()
        near.locator("blockquote").filter(has_text=PASSAGES[2].text).wait_for()

    def test_what_the_documents_do_not_say_is_marked_and_the_nearest_is_named(
        self, known: Any
    ) -> None:
        answer = asked(known, UNKNOWN)
        assert "unknown" in (answer.get_attribute("class") or "")
        assert "Not in the documents" in answer.locator(CITED).inner_text()
        assert answer.locator(f"{CITED} summary").inner_text() == "guide.pdf › page 7"
        assert "unknown" not in (asked(known, HOT).get_attribute("class") or "")
        for scheme in ("light", "dark"):
            known.emulate_media(color_scheme=scheme)
            assert known.evaluate(CONTRAST.replace("#figures", ".sources")) >= 4.5

    def test_sources_stay_over_a_reload_and_are_not_sent_back(self, known: Any) -> None:
        asked(known, HOT)
        known.reload()
        answer = known.locator("article.assistant").last
        answer.locator(f"{CITED} summary").click()
        answer.locator(f"{CITED} blockquote").filter(has_text=PASSAGES[0].text).wait_for()
        with known.expect_request("**/v1/chat/completions") as sent:
            asked(known, NIGHT)
        assert all(
            set(each) == {"role", "content"} for each in sent.value.post_data_json["messages"]
        )

    def test_a_passage_of_another_release_is_not_shown_as_the_source(self, known: Any) -> None:
        asked(known, HOT)
        key = "demitasse.conversation"
        for number, said in (("2", "The documents have changed"), ("99", "no such passage")):
            known.evaluate(
                f"localStorage['{key}'] = localStorage['{key}']"
                f".replace(/knowledge.[0-9]+/, 'knowledge/{number}')"
            )
            known.reload()
            answer = known.locator("article.assistant").last
            answer.locator(f"{CITED} summary").click()
            answer.locator(f"{CITED} blockquote.wrong").filter(has_text=said).wait_for()

    def test_sources_that_point_elsewhere_are_never_asked_for(self, known: Any) -> None:
        for url in (
            "https://elsewhere.example/",
            "//elsewhere.example/1",
            "/metrics",
            "/v1/knowledge/1/../../models",
        ):
            known.route("**/v1/chat/completions", answering(ANSWERED.replace("URL", url)))
            answer = asked(known, "anything?")
            assert (
                answer.locator(f"{CITED} details").count() == 0
                and answer.locator("p").inner_text() == "ok"
            )

    def test_a_hostile_title_and_passage_are_text(self, browser: Any, tmp_path: Path) -> None:
        markup = "<img src=x onerror=document.title='owned'> & <b>"
        passage = Passage(text=markup, source="notes.md", heading=markup, questions=(HOT,))
        with serving(knowing_bundle(tmp_path / "bundle", [passage])) as number:
            tab = browser.new_context().new_page()
            tab.goto(f"http://127.0.0.1:{number}/")
            answer = asked(tab, HOT)
            assert answer.locator(f"{CITED} summary").inner_text() == f"notes.md › {markup}"
            answer.locator(f"{CITED} summary").click()
            answer.locator(f"{CITED} blockquote").filter(has_text=markup).wait_for()
            assert tab.locator("#log img, #log b").count() == 0 and tab.title() == "demitasse"
            tab.context.close()

    def test_a_passage_of_a_guarded_service_is_asked_for_with_the_token(
        self, browser: Any, knowing: Path
    ) -> None:
        with serving(knowing, token=TOKEN) as number:
            tab = browser.new_context().new_page()
            tab.on("dialog", lambda dialog: dialog.accept(TOKEN))
            tab.goto(f"http://127.0.0.1:{number}/")
            answer = asked(tab, HOT)
            answer.locator(f"{CITED} summary").click()
            answer.locator(f"{CITED} blockquote").filter(has_text=PASSAGES[0].text).wait_for()
            tab.context.close()

    def test_nothing_overflows_on_a_narrow_screen(self, known: Any) -> None:
        known.set_viewport_size({"width": 320, "height": 640})
        for fold in asked(known, HOT).locator("summary").all():
            fold.click()
        assert known.evaluate("document.documentElement.scrollWidth") <= 320


CITED = ".sources:not(.near)"
"""The list of the passages that an answer stands on."""
ANSWERED = (
    'data: {"choices": [{"delta": {"content": "ok", "annotations": [{"type": "url_citation", '
    '"url_citation": {"title": "t", "url": "URL"}}]}}], "timings": {}}\n\ndata: [DONE]\n\n'
)


class TestPictures:
    """The page of a service whose model sees; what it would send is caught."""

    pytestmark = in_browser

    def test_a_picture_is_scaled_and_goes_before_the_question(
        self, seeing: Any, sent: list[dict[str, Any]]
    ) -> None:
        seeing.locator("#file").set_input_files(
            {"name": "led.png", "mimeType": "image/png", "buffer": picture(1, side=2000)}
        )
        seeing.locator("#picked img").wait_for()
        seeing.get_by_label("Your question").fill("is it on?")
        seeing.keyboard.press("Enter")
        seeing.locator("article.assistant small").filter(has_text="answered in").wait_for()
        first, second = sent[0]["messages"][0]["content"]
        assert second == {"type": "text", "text": "is it on?"}
        scaled = base64.b64decode(first["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
        assert check(scaled) == Size(1024, 1024)
        assert seeing.locator("article.user img").count() == 1
        assert not seeing.locator("#picked").is_visible()

    def test_the_next_question_brings_the_picture_along_and_a_reload_shows_it(
        self, seeing: Any, sent: list[dict[str, Any]]
    ) -> None:
        seeing.locator("#file").set_input_files(
            {"name": "led.png", "mimeType": "image/png", "buffer": picture(1)}
        )
        seeing.locator("#picked img").wait_for()
        for number, question in enumerate(("is it on?", "and now?")):
            seeing.get_by_label("Your question").fill(question)
            seeing.keyboard.press("Enter")
            figures = seeing.locator("article.assistant small").nth(number)
            figures.filter(has_text="answered in").wait_for()
        kinds = [type(each["content"]) for each in sent[1]["messages"]]
        assert kinds == [list, str, str]
        seeing.reload()
        assert seeing.locator("article.user img").count() == 1

    def test_a_dropped_file_that_is_no_picture_is_said_to_be_none(self, seeing: Any) -> None:
        drop = """() => {
          const data = new DataTransfer();
          data.items.add(new File(["no picture"], "notes.txt", { type: "text/plain" }));
          document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true })); }"""
        seeing.evaluate(drop)
        wrong = seeing.locator("article.wrong")
        wrong.wait_for()
        assert "This file is no picture." in wrong.inner_text()
        assert not seeing.locator("#picked").is_visible()

    def test_a_picture_can_be_taken_away_again(self, seeing: Any) -> None:
        seeing.locator("#file").set_input_files(
            {"name": "led.png", "mimeType": "image/png", "buffer": picture(1)}
        )
        seeing.get_by_role("button", name="Take it away").click()
        assert not seeing.locator("#picked").is_visible()

    def test_a_model_that_reads_text_alone_shows_no_button(self, tab: Any) -> None:
        tab.locator("#figures").filter(has_text="version").wait_for()
        assert not tab.get_by_role("button", name="Picture").is_visible()


@pytest.fixture
def sent() -> list[dict[str, Any]]:
    """Requests that the page sent."""
    return []


@pytest.fixture
def seeing(tab: Any, sent: list[dict[str, Any]]) -> Any:
    """A tab with the page of a service whose model sees."""

    def answer(route: Any) -> None:
        sent.append(json.loads(route.request.post_data))
        chunk = {"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}], "timings": {}}
        body = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        route.fulfill(body=body, content_type="text/event-stream")

    health = {"status": "ok", "model": "eyes", "version": "1.0", "pictures": True}
    tab.route("**/health", lambda route: route.fulfill(json=health))
    tab.route("**/v1/chat/completions", answer)
    tab.reload()
    tab.get_by_role("button", name="Picture").wait_for()
    return tab


def answering(body: str) -> Any:
    """Return what answers a request in place of the service."""
    return lambda route: route.fulfill(body=body, content_type="text/event-stream")


def asked(tab: Any, question: str) -> Any:
    """Ask on the page and return the answer's article once it is whole."""
    before = tab.locator("article.assistant").count()
    tab.get_by_label("Your question").fill(question)
    tab.keyboard.press("Enter")
    tab.locator("article.assistant small").nth(before).filter(has_text="answered in").wait_for()
    return tab.locator("article.assistant").nth(before)


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return knowing_bundle(tmp_path_factory.mktemp("knowing") / "bundle")


@pytest.fixture(scope="module")
def known_port(knowing: Path) -> Iterator[int]:
    with serving(knowing) as number:
        yield number


@pytest.fixture
def known(browser: Any, known_port: int) -> Any:
    """A tab with the page of a service that answers from documents."""
    yield from opened(browser, known_port)


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
