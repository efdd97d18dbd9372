"""The Prefect UI as users see it, in a real Chromium: our forms, a run, its artifacts.

With `SCREENSHOTS` set to a folder, screenshots are written there (`make screenshots`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

from prefect_linkerd.server.own_server import UNUSED
from prefect_linkerd.server.prefect_server import PrefectServer
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from tests.support.installed import DEFAULT, InstalledMesh, on
from tests.support.meshes import PASSPHRASE
from tests.support.prefect_servers import Server, runs_in_one_process
from tests.support.processes import uncopied_folder
from tests.support.waiting import eventually

on_a_mesh = pytest.mark.parametrize("mesh", [on(DEFAULT)], indirect=True, scope="package")

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
NAME = "production"
PATIENCE = 120_000.0
"""Milliseconds that a page may take to load on a busy machine."""


FOLLOW = """path => {
    history.pushState({}, '', path);
    dispatchEvent(new PopStateEvent('popstate', {state: history.state}));
}"""
NOWHERE, NOT_FOUND = "/nowhere", "Page not found"

REPORT = "table, [class*=markdown], [class*=prose]"
CUT_OFF = """report => [...document.querySelectorAll('body *')]
    .filter(it => it.closest(report) || it.querySelector(report))
    .filter(it => it.clientWidth > 1 && it.scrollWidth > it.clientWidth + 1)
    .map(it => `${it.tagName} ${it.className}: ${it.innerText.slice(0, 200)}`)"""
"""Elements in or around a report whose content is wider than they are.

Except those for screen readers only; Prefect itself shortens names and ids around a report.
"""


class Browser:
    """One page on one server."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page = page
        self.server = server
        self._url = server.running.url
        self._pictures = os.environ.get("SCREENSHOTS")

    def open(self, path: str, text: str, *, height: int = 900) -> None:
        """Loads a page and waits for a text on it."""
        self.page.set_viewport_size({"width": 1280, "height": height})
        self.page.goto(f"{self._url}/{path}")
        self.says(text)

    def follow(self, path: str, text: str, *, height: int = 900) -> None:
        """Goes to a page of the open UI as its own links do, without reloading anything."""
        self.page.set_viewport_size({"width": 1280, "height": height})
        # Leave first: text of an earlier page of the same kind must not be mistaken for this one's.
        self.page.evaluate(FOLLOW, NOWHERE)
        self.page.get_by_text(NOT_FOUND, exact=True).wait_for()
        self.page.evaluate(FOLLOW, f"/{path}")
        self.says(text)

    def picture(self, name: str) -> None:
        if self._pictures:
            # Let fonts and animations settle.
            self.page.wait_for_timeout(1500)
            self.page.screenshot(path=Path(self._pictures) / f"{name}.png")

    def says(self, text: str) -> None:
        self.page.get_by_text(text).first.wait_for()

    def saves(self, button: str) -> None:
        """Presses a form's button, again while the server is busy (SQLite has a single writer)."""
        for _ in range(5):
            with self.page.expect_response("**/api/block_documents/") as answer:
                self.page.get_by_role("button", name=button, exact=True).click()
            if answer.value.status != HTTPStatus.SERVICE_UNAVAILABLE:
                break
        assert answer.value.ok, answer.value.text()

    @property
    def text(self) -> str:
        return self.page.inner_text("body")

    def cut_off(self) -> list[str]:
        """What in the page's report is cut off because it is too wide."""
        self.page.locator(REPORT).first.wait_for()
        found: list[str] = self.page.evaluate(CUT_OFF, REPORT)
        return found


@pytest.fixture
def server(
    mesh: InstalledMesh, tmp_path_factory: pytest.TempPathFactory, helm_path: str
) -> Iterator[Server]:
    """A server set up for the mesh by one command, and a process worker."""
    folder = tmp_path_factory.mktemp("ui")
    fields = json.loads(mesh.config.model_dump_json())
    fields["name"] = NAME
    fields["trust_anchor"]["passphrase"] = PASSPHRASE.get_secret_value()
    (folder / "mesh.yaml").write_text(json.dumps(fields))
    settings = UNUSED | {"PREFECT_SERVER_UI_ENABLED": "true"}
    with PrefectServer(folder / "prefect", settings=settings) as running:
        server = Server(running)
        server.command("prefect_linkerd.deployments.register", "--mesh", str(folder / "mesh.yaml"))
        runs_in_one_process(server.api, "verify_mesh")
        environment = os.environ | running.environment
        environment["PATH"] = os.pathsep.join([str(Path(helm_path).parent), environment["PATH"]])
        with (folder / "worker.log").open("w") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "prefect", "worker", "start", "--pool", "linkerd"],
                env=environment,
                cwd=uncopied_folder(folder / "worker"),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            yield server
        finally:
            worker.terminate()
            worker.wait(30)


@pytest.fixture
def browser(server: Server, tmp_path: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path="/usr/bin/chromium",
            headless=True,
            args=FLAGS,
            viewport={"width": 1280, "height": 900},
        )
        chromium.set_default_timeout(PATIENCE)
        # Logos are on the internet, which may be unreachable: show blank ones, not broken ones.
        blank = "<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>"
        chromium.route(
            re.compile("^https:"),
            lambda route: route.fulfill(body=blank, content_type="image/svg+xml"),
        )
        yield Browser(chromium.pages[0], server)
        chromium.close()


def fields_of(schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The fields that a schema's form shows, nested sections included; blocks are only chosen."""
    for field in schema["properties"].values():
        yield field
        for reference in (field, *field.get("allOf", ())):
            target = definitions.get(reference.get("$ref", "").rsplit("/", 1)[-1], {})
            if "properties" in target and "block_type_slug" not in target:
                yield from fields_of(target, definitions)


@on_a_mesh
def test_a_person_verifies_a_mesh_in_the_ui(server: Server, browser: Browser) -> None:
    deployments = server.deployments()
    # Deployments are ready once the worker has reported.
    eventually(lambda: {d["status"] for d in server.deployments().values()} == {"READY"})
    # The page lists the first ten.
    browser.open("deployments", "linkerd-bootstrap")
    browser.says("Ready")
    assert "Not Ready" not in browser.text
    browser.picture("deployments")
    for name, deployment in deployments.items():
        _looks_at_the_form(browser, name, deployment)
    run = _starts_verify_mesh(browser, deployments["verify_mesh"]["id"])
    _sees_the_run(browser, run)
    _looks_at_the_block(browser)
    _makes_blocks(browser)
    browser.open("automations", f"linkerd: rotate_issuer of mesh {NAME}")
    browser.says(f"linkerd: rotate_anchor of mesh {NAME}")
    browser.picture("automations")
    browser.follow("events", "Event Feed")
    verdict = {"event": {"prefix": ["linkerd.mesh."]}}
    assert eventually(lambda: server.ask("events/filter", filter=verdict)["events"])
    # The schedules of prefect.yaml create runs.
    scheduled = eventually(
        lambda: server.ask(
            "flow_runs/filter", flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}}
        )
    )
    assert {run["auto_scheduled"] for run in scheduled} == {True}


def _looks_at_the_form(browser: Browser, name: str, deployment: dict[str, Any]) -> None:
    browser.follow(f"deployments/deployment/{deployment['id']}/run", "Run Name", height=2400)
    schema = deployment["parameter_openapi_schema"]
    fields = list(fields_of(schema, schema.get("definitions") or {}))
    browser.says(next(iter(schema["properties"])))
    # The form has loaded once its last field has.
    browser.page.get_by_text("Validate parameters").wait_for()

    def missing() -> list[str]:
        shown = browser.text.replace("`", "")
        wanted = [field["title"] for field in fields]
        # Markdown markup is not shown literally.
        for field in fields:
            words = field["description"].replace("`", "").replace("<", "").split()[:4]
            wanted.append(" ".join(words))
        return [text for text in wanted if text.replace("`", "") not in shown]

    # Descriptions are Markdown, which the page renders bit by bit.
    assert eventually(lambda: not missing()), f"{name}: {missing()}"
    shown = browser.text
    for broken in ('Property is type "None"', "Unsupported", "JSON Schema"):
        assert broken not in shown, f"{name}: {broken}"
    if name in ("rotate_anchor", "upgrade"):
        browser.picture(f"form-{name.replace('_', '-')}")


def _starts_verify_mesh(browser: Browser, deployment: str) -> str:
    """Fills in and submits the form; returns the run's id."""

    def started() -> list[dict[str, Any]]:
        wanted = {"name": {"any_": ["by hand"]}}
        return browser.server.ask("flow_runs/filter", flow_runs=wanted)

    # A busy browser may lose a click; a user would click again.
    for _ in range(4):
        _submits_the_form(browser, deployment)
        with contextlib.suppress(AssertionError):
            eventually(started, timeout=30)
            break
    return str(started()[0]["id"])


def _submits_the_form(browser: Browser, deployment: str) -> None:
    page = browser.page
    browser.open(f"deployments/deployment/{deployment}/run", "Run Name", height=1400)
    chooser = page.locator("button.p-select-button__control").first
    chooser.wait_for()
    page.wait_for_load_state("networkidle")
    chooser.press("ArrowDown")
    page.locator(".p-select-option").get_by_text(NAME, exact=True).click()
    page.get_by_label("Run Name").or_(page.locator("input.p-text-input__control").first).fill(
        "by hand"
    )
    browser.picture("form-verify-mesh")
    page.get_by_role("button", name="Submit").click()


def _sees_the_run(browser: Browser, run: str) -> None:
    ended = ("COMPLETED", "FAILED", "CRASHED")
    server, page = browser.server, browser.page
    eventually(lambda: server.get(f"flow_runs/{run}")["state"]["type"] in ended, timeout=300)
    state = server.get(f"flow_runs/{run}")["state"]
    assert state["type"] == "COMPLETED", state
    browser.follow(f"runs/flow-run/{run}", "Task Runs")
    browser.says("publish")
    browser.picture("run")
    page.get_by_text("Artifacts", exact=True).first.click()
    browser.says(f"linkerd-{NAME}-verify-checks")
    found = server.ask("artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
    by_key = {artifact["key"]: artifact["id"] for artifact in found}
    assert by_key.keys() == {
        f"linkerd-{NAME}-{it}" for it in ("verify", "verify-checks", "certificates")
    }

    for ui, mark in (("", ""), ("v2/", "-v2")):
        _reads_the_reports(browser, f"{ui}artifacts/artifact", by_key, mark)


def _reads_the_reports(browser: Browser, path: str, by_key: dict[str, str], mark: str) -> None:
    """Reads every report in one of the two UIs: nothing is cut off."""
    go = browser.open if mark else browser.follow
    go(f"{path}/{by_key[f'linkerd-{NAME}-verify']}", "Certificates")
    for text in ("checks passed", "Secret/linkerd/linkerd-identity-issuer", "CNI is not enabled"):
        browser.says(text)
    assert not browser.cut_off()
    browser.picture(f"report{mark}")
    go(f"{path}/{by_key[f'linkerd-{NAME}-verify-checks']}", "result")
    browser.says("l5d-")
    assert not browser.cut_off()
    browser.picture(f"checks{mark}")
    go(f"{path}/{by_key[f'linkerd-{NAME}-certificates']}", "Secret/linkerd/")
    picture = browser.page.locator("img[src^='data:image/svg+xml']").first
    picture.wait_for()
    # The picture is drawn, not the icon of a broken image.
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 900
    assert not browser.cut_off()
    browser.picture(f"certificates{mark}")


def _looks_at_the_block(browser: Browser) -> None:
    server = browser.server
    [document] = [d for d in server.ask("block_documents/filter") if d["name"] == NAME]
    browser.open(f"blocks/block/{document['id']}/edit", "Linkerd version", height=2400)
    shown = browser.text
    for title in ("Cluster access", "Trust anchor", "Passphrase", "Upgrades", "Advanced"):
        assert title in shown, title
    # Unchanged sections stay collapsed.
    assert "Maintenance window" not in shown
    assert PASSPHRASE.get_secret_value() not in browser.page.content()


def _makes_blocks(browser: Browser) -> None:
    """As README says, in both of Prefect's UIs: only the block's name is required."""
    page, server = browser.page, browser.server
    for ui, start, button in (("v1", "", "Create"), ("v2", "v2/", "Save")):
        browser.open(f"{start}blocks/catalog/linkerd-mesh/create", "Linkerd version", height=1700)
        page.wait_for_load_state("networkidle")
        titles = ["credentials", "Cluster access", "Linkerd version", "Trust anchor", "Advanced"]
        places = [browser.text.index(title) for title in titles]
        assert places == sorted(places)
        assert "Lifetimes" not in browser.text.split("Advanced")[0]
        # A label that reads only "(Optional)" would belong to a choice without a title.
        assert "(Optional)" not in browser.text.splitlines()
        assert "null" not in browser.text.splitlines()
        browser.picture(f"form-block-{ui}")
        page.get_by_text("Advanced", exact=True).last.click()
        browser.says("Trust domain")
        field = "xpath=//*[contains(text(),'Trust domain')]/following::textarea[1]"
        page.locator(field).first.fill("example.org")
        page.locator("input").first.fill(f"by-hand-{ui}")
        browser.saves(button)
        page.wait_for_url("**/blocks/block/**")
        data = server.get(f"block_documents/{page.url.rsplit('/', 1)[1]}")["data"]
        mesh = LinkerdMesh.model_validate(data)
        assert (mesh.trust_domain, mesh.upgrade) == ("example.org", LinkerdMesh().upgrade)
