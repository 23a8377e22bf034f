"""The skill explorer in a real browser: Chromium without a window, pages from the disk, true clicks and keys."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_metra.common.skills import OneHotPrior, SpherePrior
from sb3_metra.evaluation.report import write_report
from sb3_metra.evaluation.runs import read_curves
from tests.test_report import Follow, point
from tests.toys import made_once

webdriver = pytest.importorskip("selenium.webdriver", reason='needs selenium: pip install "sb3-metra[tests]"')
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs a browser: apt-get install chromium chromium-driver"
)
NAMES = ("circle", "discrete", "line", "space")
OPTIONS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page for each kind of skill; that of the circle has films and curves."""
    return made_once(tmp_path_factory, "pages", write_pages)


def write_pages(folder: Path) -> None:
    rows = [f"{1000 * i},{i},{1 / (i + 1)}" for i in range(5)]
    head = "time/total_timesteps,eval/policy_state_coverage,train/phi_loss"
    (folder / "progress.csv").write_text("\n".join([head, *rows]))
    write_report(Follow(SpherePrior(2)), point(render=True), folder / "circle.html", curves=read_curves(folder))
    write_report(Follow(OneHotPrior(5)), point(max_episode_steps=20), folder / "discrete.html")
    write_report(Follow(SpherePrior(1)), point(max_episode_steps=20), folder / "line.html")
    write_report(Follow(SpherePrior(4)), point(max_episode_steps=20), folder / "space.html")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser with a profile of its own, which looks for nothing on the network and ends with this file's tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_AVOID_STATS", "true")
        patch.setenv("SE_OFFLINE", "true")
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for option in [*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(executable_path=DRIVER))
    driver.get("about:blank")
    driver.get_log("performance")  # of the browser's own first page
    yield driver
    driver.quit()


@pytest.fixture
def visit(chromium: Any, pages: Path) -> Iterator[Callable[..., Any]]:
    """
    Open a page on a screen of a size; at the end nothing may have been complained about or fetched.

    Its motion is ``"reduce"`` or ``"no-preference"``, as a reader prefers; by default no frame follows the first, for
    without a GPU drawing takes long.
    """

    def visit(
        name: str, width: int = 1280, height: int = 900, dark: bool = False, motion: str = "", fragment: str = ""
    ) -> Any:
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        wishes = {"color-scheme": "dark" if dark else "light", "reduced-motion": motion}
        features = [{"name": f"prefers-{name}", "value": value} for name, value in wishes.items()]
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        chromium.get("about:blank")
        frozen = {"source": "" if motion else "window.requestAnimationFrame = () => 0"}
        script = chromium.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", frozen)
        chromium.get((pages / f"{name}.html").as_uri() + fragment)
        WebDriverWait(chromium, 10).until(lambda b: b.execute_script("return document.documentElement.dataset.skill"))
        chromium.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
        return chromium

    yield visit
    assert chromium.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    fetched = [event["params"]["request"]["url"] for event in sent if event["method"] == "Network.requestWillBeSent"]
    assert {url.partition(":")[0] for url in fetched} <= {"file", "data", "about"}


def chosen(browser: Any) -> dict[str, Any]:
    """What the page shows as the selected skill, in each of its parts."""
    return browser.execute_script(
        "const ids = (where) => [...document.querySelectorAll(where)].map((g) => g.id);"
        "return {title: document.getElementById('name').innerText, tag: document.getElementById('tag').innerText,"
        " place: ids('#place .selected'), phi: ids('#phi .selected'),"
        " line: document.querySelector('#place .lit .line').getAttribute('d')}"
    )


def all_show(browser: Any, index: int, name: str) -> bool:
    """Whether all parts of a page show the same skill, with its path lit up."""
    state = chosen(browser)
    path = browser.execute_script(f"return document.querySelector('#place-{index} path').getAttribute('d')")
    return state == {
        "title": name,
        "tag": f"skill {name}",
        "place": [f"place-{index}"],
        "phi": [f"phi-{index}"],
        "line": path,
    }


def actions(browser: Any) -> ActionChains:
    """A mouse that does not take its time, and keys."""
    return ActionChains(browser, duration=0)


def click(browser: Any, element: Any, x: float, y: float) -> None:
    """Move to a point of an element, counted from its middle to the right and downwards, and click."""
    actions(browser).move_to_element_with_offset(element, round(x), round(y)).click().perform()


@pytest.mark.parametrize(
    ("degrees", "index"),
    [(-91, 18), *(pytest.param(*x, marks=pytest.mark.slow) for x in [(90, 6), (47, 3), (178, 12)])],
)
def test_a_click_on_the_dial_selects_the_skill_at_that_angle(visit: Callable, degrees: float, index: int) -> None:
    browser = visit("circle")
    assert all_show(browser, 0, "0°")
    dial = browser.find_element(By.ID, "dial")
    radius, angle = 0.3 * dial.size["width"], math.radians(degrees)
    click(browser, dial, radius * math.cos(angle), -radius * math.sin(angle))
    assert all_show(browser, index, f"{15 * index}°")
    assert dial.get_attribute("aria-valuenow") == str(index)
    assert dial.get_attribute("aria-valuetext") == f"{15 * index}°, {index + 1} of 24"


def test_arrow_keys_turn_the_dial(visit: Callable) -> None:
    browser = visit("circle")
    dial = browser.find_element(By.ID, "dial")
    for key, index in [(Keys.ARROW_RIGHT, 1), (Keys.ARROW_UP, 2), (Keys.ARROW_LEFT, 1), (Keys.END, 23), (Keys.HOME, 0)]:
        dial.send_keys(key)
        assert all_show(browser, index, f"{15 * index}°")
    dial.send_keys(Keys.ARROW_DOWN)
    assert all_show(browser, 23, "345°")  # all the way round
    assert browser.switch_to.active_element.get_attribute("id") == "dial"
    assert browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_every_control_is_reached_with_the_tabulator(visit: Callable) -> None:
    browser = visit("circle")
    reached = []
    for _ in range(12):
        actions(browser).send_keys(Keys.TAB).perform()
        active = browser.switch_to.active_element
        reached.append(active.get_attribute("id") or active.get_attribute("aria-label"))
    assert {"play", "time", "speed", "dial", "code"} <= set(reached)
    assert any("Where 24 skills go" in name for name in reached)


def test_a_click_on_a_path_selects_it_and_hovering_lights_it_up(visit: Callable) -> None:
    browser = visit("circle")
    plot = browser.find_element(By.CSS_SELECTOR, "#place svg")
    # in the units of the drawing, 420 by 400: where skill 6, straight up, is after half its way
    place = browser.execute_script(
        "const p = document.querySelector('#place-6 path'); const at = p.getPointAtLength(p.getTotalLength() / 2);"
        "return [at.x, at.y]"
    )
    scale = plot.size["width"] / 420
    x, y = (place[0] - 210) * scale, (place[1] - 200) * scale
    actions(browser).move_to_element_with_offset(plot, round(x), round(y)).perform()
    lit = browser.execute_script("return [...document.querySelectorAll('.hovered')].map((g) => g.id)")
    assert lit == ["place-6", "phi-6"]
    click(browser, plot, x, y)
    assert all_show(browser, 6, "90°")
    plot.send_keys(Keys.ARROW_RIGHT)
    assert all_show(browser, 7, "105°")
    assert plot.get_attribute("aria-activedescendant") == "place-7"


def frame(browser: Any) -> int:
    return int(browser.execute_script("return document.getElementById('screen').dataset.frame || -1"))


def marker(browser: Any) -> float:
    return float(browser.execute_script("return document.querySelector('#place .dot').getAttribute('cx')"))


def test_play_advances_film_and_marker_together(visit: Callable) -> None:
    browser = visit("circle", motion="no-preference")
    play = browser.find_element(By.ID, "play")
    WebDriverWait(browser, 10).until(lambda b: frame(b) > 3)  # a page begins to play by itself
    play.click()
    assert play.get_attribute("aria-label") == "Play"
    first, place = frame(browser), marker(browser)
    picture = "return document.getElementById('screen').toDataURL()"
    before = browser.execute_script(picture)
    play.click()
    WebDriverWait(browser, 10).until(lambda b: frame(b) > first + 5)
    assert marker(browser) > place  # skill 0 goes to the right
    assert browser.execute_script(picture) != before
    WebDriverWait(browser, 10).until(lambda b: abs(frame(b) - 50) > 8)  # or a click there would change nothing
    actions(browser).move_to_element(browser.find_element(By.ID, "time")).click().perform()  # its middle
    assert play.get_attribute("aria-label") == "Play"
    assert frame(browser) == pytest.approx(50, abs=2)
    assert browser.find_element(By.ID, "clock").text.startswith(f"{frame(browser)} / 100")
    right = browser.execute_script("return +document.querySelector('#place-0 circle').getAttribute('cx')")
    start = browser.execute_script("return document.querySelector('#place-0 path').getPointAtLength(0).x")
    assert marker(browser) == pytest.approx(start + (right - start) * frame(browser) / 100, abs=1.0)


def test_nothing_moves_by_itself_for_who_prefers_that(visit: Callable) -> None:
    browser = visit("discrete", motion="reduce")
    first, place = frame(browser), marker(browser)
    time.sleep(0.3)  # six frames
    assert (frame(browser), marker(browser)) == (first, place)
    play = browser.find_element(By.ID, "play")
    assert play.get_attribute("aria-label") == "Play"
    play.click()
    WebDriverWait(browser, 10).until(lambda b: frame(b) > first)


def test_without_films_the_path_is_played(visit: Callable) -> None:
    browser = visit("discrete", motion="no-preference")
    WebDriverWait(browser, 10).until(lambda b: frame(b) > 3)
    colors = browser.execute_script(
        "const c = document.getElementById('screen');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return new Set(Array.from({length: d.length / 4}, (_, i) => d.slice(4 * i, 4 * i + 3).join())).size"
    )
    assert colors > 2


@pytest.mark.parametrize(("name", "skill", "index"), [("discrete", "3", 3), ("line", "+1", 1)])
def test_buttons_choose_discrete_skills(visit: Callable, name: str, skill: str, index: int) -> None:
    browser = visit(name)
    button = browser.find_element(By.CSS_SELECTOR, f"#dial [aria-label='skill {skill}']")
    button.click()
    assert all_show(browser, index, skill)
    assert button.get_attribute("aria-checked") == "true"
    button.send_keys(Keys.ARROW_LEFT)
    checked = browser.execute_script(
        "return [...document.querySelectorAll('[aria-checked=true]')].map((b) => b.tabIndex)"
    )
    assert checked == [0]
    assert chosen(browser)["place"] == [f"place-{index - 1}"]
    assert browser.switch_to.active_element.get_attribute("aria-checked") == "true"


def test_sliders_find_the_nearest_recorded_skill(visit: Callable, pages: Path) -> None:
    browser = visit("space")
    sliders = browser.find_elements(By.CSS_SELECTOR, "#dial input")
    assert len(sliders) == 4
    sliders[2].send_keys(Keys.HOME)  # z3 = -1
    for slider in (sliders[0], sliders[1], sliders[3]):
        slider.send_keys(Keys.END)
    asked = np.array([1.0, 1.0, -1.0, 1.0]) / 2
    page = (pages / "space.html").read_text("utf-8").partition('id="data">')[2].partition("</script>")[0]
    vectors = np.array([skill["vector"] for skill in json.loads(page)["skills"]])
    index = int((vectors @ asked).argmax())
    assert all_show(browser, index, f"#{index + 1}")
    said = browser.find_element(By.CSS_SELECTOR, "#dial .said").text
    assert said.startswith(f"Scaled to the unit sphere; the nearest recorded skill is #{index + 1}, at a cosine of 0.")
    assert [o.text for o in browser.find_elements(By.CSS_SELECTOR, "#dial output")] == ["0.5", "0.5", "−0.5", "0.5"]  # noqa: RUF001
    browser.find_element(By.CSS_SELECTOR, "[aria-label='Next recorded skill']").click()
    assert chosen(browser)["title"] == f"#{(index + 1) % 32 + 1}"


@pytest.mark.parametrize(
    ("name", "width", "height"),
    [
        *((name, 360, 740) for name in NAMES),
        ("circle", 1280, 900),
        *(pytest.param("circle", *size, marks=pytest.mark.slow) for size in ((390, 844), (768, 1024))),
        *(
            pytest.param(name, *size, marks=pytest.mark.slow)
            for name in NAMES[1:]
            for size in ((390, 844), (768, 1024), (1280, 900))
        ),
    ],
)
def test_no_screen_scrolls_sideways(visit: Callable, name: str, width: int, height: int) -> None:
    browser = visit(name, width, height)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    small = browser.execute_script(
        "return [...document.querySelectorAll('button')].filter((b) => b.offsetParent && b.offsetHeight < 32).length"
    )
    assert small == 0  # of what fingers have to hit


def test_dark_mode_applies(visit: Callable) -> None:
    def brightness(dark: bool) -> list[int]:
        browser = visit("circle", dark=dark)
        colors = browser.execute_script(
            "const { backgroundColor, color } = getComputedStyle(document.body);"
            "return [backgroundColor, color].map((c) => c.match(/\\d+/g))"
        )
        return [sum(int(value) for value in color[:3]) for color in colors]

    (day, ink), (night, chalk) = brightness(False), brightness(True)
    assert day > 650 > 200 > ink
    assert night < 100 < 600 < chalk


def test_curves_follow_the_pointer(visit: Callable) -> None:
    browser = visit("circle")
    curves = browser.find_elements(By.CSS_SELECTOR, "#curves .curve")
    assert [curve.find_element(By.TAG_NAME, "h3").text for curve in curves] == ["policy state coverage", "loss of φ"]
    assert [curve.find_element(By.TAG_NAME, "output").text for curve in curves] == ["4", "0.2"]
    svg = curves[0].find_element(By.TAG_NAME, "svg")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", svg)
    scale = svg.size["width"] / 300
    actions(browser).move_to_element_with_offset(svg, round((48 + 234 * 0.5 - 150) * scale), 0).perform()
    assert [curve.find_element(By.TAG_NAME, "output").text for curve in curves] == ["2 at 2k", "0.333 at 2k"]


def test_a_link_can_point_to_a_skill(visit: Callable) -> None:
    browser = visit("circle", fragment="#skill=5")
    assert all_show(browser, 5, "75°")
    browser.find_element(By.ID, "dial").send_keys(Keys.ARROW_RIGHT)
    assert browser.current_url.endswith("#skill=6")
