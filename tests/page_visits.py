"""What is done on the page of a run that learns: by program, and by hand in a browser."""

import re
import time
from collections.abc import Callable
from typing import Any

import httpx
from browser import Tab

_SECONDS = 40.0


def until(ask: Callable[[], Any], seconds: float = _SECONDS) -> Any:
    """The answer once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < deadline, "nothing has come of it"
        time.sleep(0.1)
    return found


def by_program(address: str) -> None:
    """What the page does, asked by hand: show, like, wait; and what is refused."""
    with httpx.Client(base_url=address, trust_env=False, timeout=20) as http:
        until(lambda: http.get("v1/users").status_code == 200)
        said = http.get("v1/users").json()
        user = said["users"][0]
        assert said["can_click"] is True and user in range(1, 41)
        asked = {"user": user, "k": 5, "log": True}
        before = http.post("v1/recommend", json=asked).json()
        request, liked = before["requests"][0], before["items"][0]
        assert len(before["requests"]) == len(before["items"]) == 5
        answer = http.post("v1/actions", json={"request_id": request, "kind": "like"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["time_ms"] > 880_000_000_000
        after = until(lambda: liked in (now := http.post("v1/recommend", json=asked).json())["liked"] and now)
        assert after["versions"]["version"] > before["versions"]["version"] and liked not in after["items"]
        again = http.post("v1/actions", json={"request_id": request, "kind": "like"})
        assert (again.status_code, again.json()["code"]) == (400, "bad_request")
        assert "was not shown lately, or was acted on" in again.json()["error"]
        wrong = http.post("v1/actions", json={"request_id": before["requests"][1], "kind": "share"})
        assert wrong.json()["error"] == "unknown kind of action 'share'; known: like, skip"
        look = until(  # the run looks at itself now and then: its account comes after the list
            lambda: (
                (now := http.get("v1/progress").json()["progress"]) and now["publications"] * now["examples"] and now
            )
        )
        assert look["lag_events"] >= 0


def browse(tab: Tab, address: str) -> None:
    """Like by keyboard, skip by mouse; look at it on a phone, in the dark, and at where it loads from."""
    tab.open(address)
    items = "[...document.querySelectorAll('#list li')].map(li => li.dataset.item)"
    tab.until("document.querySelectorAll('#list li button').length === 20", _SECONDS)
    order = []
    for _ in range(4):
        tab.press("Tab")
        order.append(tab.js("document.activeElement.id || document.activeElement.getAttribute('aria-label')"))
    assert (order[0], order[2], order[3].partition(" ")[0]) == ("user", "live", "like")
    before, liked = tab.js(items), tab.js("document.activeElement.closest('li').dataset.item")
    tab.press("Enter")
    seconds = float(tab.until("document.getElementById('delay').dataset.seconds", _SECONDS))
    after = tab.js(items)
    assert 0 < seconds < _SECONDS and liked in before and liked not in after and after != before
    assert re.search(r"\d s after you liked “Film \d+” \(version \d+ → \d+\)", tab.js("delay.textContent"))
    assert "The list has changed" in tab.js("document.querySelector('[role=status][aria-live=polite]').textContent")
    assert tab.js("document.activeElement.dataset.kind") == "like"  # the keyboard is still in the list

    skipped = tab.js("document.querySelector('#list li').dataset.item")
    tab.js("document.querySelector('#list .skip').click()")
    tab.until("delay.textContent.includes('you skipped')", _SECONDS)
    assert skipped not in tab.js(items)
    for name in ("auc", "lag_events", "rows", "delay_ms"):
        assert re.fullmatch(r"[\d.,]+", tab.until(f"document.querySelector('dd[data-name={name}]')?.textContent"))
    assert tab.js("document.querySelectorAll('#likes li').length") > 0
    assert tab.js("[...document.querySelectorAll('input')].every(one => one.labels.length === 1)")
    assert tab.js(f"performance.getEntriesByType('resource').every(one => one.name.startsWith('{address}'))")

    for scheme in ("light", "dark"):
        tab.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for where, behind in (("body", "body"), (".why", "#list li"), (".like", ".like"), ("dt", "body")):
            assert contrast(tab, where, behind) >= 4.5, (scheme, where)
    tab.send("Emulation.setDeviceMetricsOverride", width=320, height=600, deviceScaleFactor=2, mobile=True)
    assert tab.js("document.documentElement.scrollWidth") <= 320
    assert tab.js("[...document.querySelectorAll('button')].every(one => one.offsetHeight >= 44 || one.hidden"
                  " || !one.offsetParent)")  # fmt: skip
    tab.js("document.getElementById('user').value = 'nobody'; document.querySelector('#who button').click()")
    tab.until("document.querySelectorAll('#list li').length === 10 && likes.children.length === 0", _SECONDS)


def contrast(tab: Tab, where: str, behind: str) -> float:
    """Of a text and what it stands on, by WCAG 2.2: 1 to 21."""
    light = []
    for selector, name in ((where, "color"), (behind, "backgroundColor")):
        said = tab.js(f"getComputedStyle(document.querySelector('{selector}')).{name}")
        parts = [int(part) / 255 for part in re.findall(r"\d+", said)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(light) + 0.05) / (min(light) + 0.05)
