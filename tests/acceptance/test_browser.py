"""The pages in a real browser: drawn from the server's own files, with nothing to complain of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from .stack import Stack, started

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra `dev` has it)")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium on this machine: apt-get install chromium"
)
#: A name beyond loopback: what pages do differently on this machine must not hide what they do elsewhere.
HOST = "corpusmill.example"


@dataclass(kw_only=True)
class Visit:
    """A page that was opened, what it asked for, and what went wrong."""

    page: Page
    policy: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with started(tmp_path_factory.mktemp("browser"), allowed_hosts=HOST) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Root, as in containers, may not use the sandbox.
    unsandboxed = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[f"--host-resolver-rules=MAP {HOST} 127.0.0.1", *unsandboxed]
        )
        yield opened
        opened.close()


def visit(browser: Browser, stack: Stack, path: str) -> Visit:
    """Opens a page and waits until it asks for nothing more."""

    def dismiss(dialog: Dialog) -> None:
        seen.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page = browser.new_page()
    seen = Visit(page=page, policy="")
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("console", lambda message: seen.complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("dialog", dismiss)
    answer = page.goto(f"http://{HOST}:{urlsplit(stack.url).port}{path}", wait_until="networkidle")
    assert answer is not None
    assert answer.status == 200
    seen.policy = answer.header_value("content-security-policy") or ""
    return seen


def sound(seen: Visit) -> None:
    """No complaint, nothing from elsewhere, a policy that keeps it so, and styled."""
    assert seen.complaints == []
    assert {urlsplit(url).hostname for url in seen.requests} == {HOST}
    assert "default-src 'self'" in seen.policy
    assert "script-src" not in seen.policy  # inline scripts stay refused by default-src
    assert seen.page.evaluate("[...document.styleSheets].every(sheet => sheet.cssRules.length > 0)")
    assert seen.page.evaluate("document.styleSheets.length") > 0


def test_the_front_page_says_what_is_running_and_shows_names_as_they_are(browser: Browser, stack: Stack) -> None:
    name = '<img src="x" onerror="alert(1)"><script>alert(2)</script>'
    stack.wait(stack.submit(task="classification", model="echo", name=name, documents=[{"text": "one"}])["id"])
    seen = visit(browser, stack, "/")
    sound(seen)
    text = seen.page.inner_text("main")
    assert name in text
    assert [part in text for part in ("database", "broker", "workers", "classification", "completed")] == [True] * 5
    for _ in range(30):  # a worker is counted from its first heartbeat on, which may come after its first job
        if not seen.page.locator("td.bad").count():
            break
        seen.page.wait_for_timeout(1_000)
        seen.page.reload()
    assert seen.page.locator("td.bad").count() == 0, seen.page.inner_text("main")


def test_the_documentation_lists_every_operation_and_tries_one(browser: Browser, stack: Stack) -> None:
    seen = visit(browser, stack, "/docs")
    paths = stack.http.get("/openapi.json").json()["paths"]
    operations = seen.page.locator(".opblock")
    operations.first.wait_for()
    assert operations.count() == sum(len(item) for item in paths.values())
    models = seen.page.locator(".opblock", has_text="/api/v1/models")
    models.locator(".opblock-summary-control").click()
    models.locator(".try-out__btn").click()
    models.locator(".execute").click()
    answer = models.locator(".live-responses-table .response-col_status")
    answer.last.wait_for()
    assert "200" in answer.last.inner_text()
    sound(seen)


def test_the_front_page_tells_nothing_of_jobs_where_a_key_is_needed(browser: Browser, tmp_path: Path) -> None:
    with started(tmp_path, api_key="a-key-of-the-operator", allowed_hosts=HOST) as guarded:
        body = {"task": "classification", "model": "echo", "name": "of no concern", "documents": [{"text": "one"}]}
        headers = {"Authorization": "Bearer a-key-of-the-operator"}
        assert guarded.http.post("/api/v1/jobs", json=body, headers=headers).status_code == 202
        seen = visit(browser, guarded, "/")
        sound(seen)
        assert "of no concern" not in seen.page.inner_text("body")
        assert "database" in seen.page.inner_text("main")
