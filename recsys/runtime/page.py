"""The page beside a run that learns: the HTTP service in this process, for as long as the run is under way."""

import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from recsys.embedded.process import LOOPBACK, listening
from recsys.runtime.online import Beside, UnderWay
from recsys.runtime.services import Say
from recsys.runtime.settings import OnlineSettings
from recsys.serving import Lookup, Ranker
from recsys.serving.app import build_app
from recsys.serving.clicks import Clicks
from recsys.serving.hosting import hosted
from recsys.serving.retriever import RetrievalConfig

_AGE_SECONDS = 1.0  # of item vectors: somebody is watching


def page_beside(settings: OnlineSettings, port: int | None, say: Say, *, opens: bool = True) -> Beside:
    """The page on a port of loopback (None: a free one), said and, where there is a browser, opened."""

    @contextmanager
    def beside(under_way: UnderWay) -> Iterator[None]:
        url, model = under_way.redis_url, settings.layout.model
        clicks = None if under_way.clicks is None else Clicks(under_way.clicks, _final_kinds(settings))
        retrieval = RetrievalConfig(max_age_seconds=_AGE_SECONDS)
        app = build_app(Lookup.connect(url, model), Ranker.connect(url, model), retrieval=retrieval, clicks=clicks)
        listener = listening(LOOPBACK, port)
        address = f"http://{LOOPBACK}:{listener.getsockname()[1]}/"
        with hosted(app, listener):
            say(f"the loop, live: {address}   (until Ctrl-C)")
            if clicks is None:
                say("events are read from files: the page shows lists, and takes no clicks")
            if opens:
                _open(address)
            yield

    return beside


def _final_kinds(settings: OnlineSettings) -> list[str]:
    """The kinds of action that settle a label at once."""
    return [name for name, kind in settings.join.actions.items() if kind.final]


def _open(address: str) -> None:
    """Show it to who has a browser with windows: one of the terminal would take that over."""
    with suppress(webbrowser.Error):
        browser = webbrowser.get()
        if isinstance(browser, webbrowser.BackgroundBrowser) or not isinstance(browser, webbrowser.GenericBrowser):
            browser.open(address)
