"""Makes the pictures of `docs/mlflow.md` anew, after the commands of that page, in their folder.

    pip install playwright
    python docs/make_pictures.py --chromium /usr/bin/chromium

Without `--chromium` the browser is Playwright's own (`playwright install chromium`).
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from mlflow import MlflowClient
from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

PICTURES = Path(__file__).parent / "pictures"
# The last one for what is still drawn when a text is there; some pages never stop asking.
START_SECONDS, PAGE_SECONDS, SETTLE_SECONDS = 180, 60, 5
WIDTH, COLOURS = 1440, 128
# Else MLflow's assistant opens itself over a part of the first page.
NO_ASSISTANT = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"


def main() -> None:
    """Starts MLflow's server, looks at five of its pages, and ends it."""
    parser = argparse.ArgumentParser(description="Makes the pictures of docs/mlflow.md anew.")
    parser.add_argument("--mlflow", default="sqlite:///runs/mlflow.db", metavar="URI")
    parser.add_argument("--study", default="parts", metavar="NAME")
    parser.add_argument("--out", type=Path, default=PICTURES, metavar="DIR")
    parser.add_argument("--chromium", metavar="PATH", help="default: Playwright's own")
    given = parser.parse_args()
    client = MlflowClient(given.mlflow)
    experiment = client.get_experiment_by_name(given.study)
    if experiment is None:
        sys.exit(f"error: {given.mlflow} has no study {given.study!r}; docs/mlflow.md makes one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", f"{port}"]
    server = subprocess.Popen(
        [sys.executable, "-m", *command, "--backend-store-uri", given.mlflow],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )
    try:
        wait_for(server, port)
        with sync_playwright() as playwright:
            page = playwright.chromium.launch(executable_path=given.chromium).new_page()
            page.add_init_script(NO_ASSISTANT)
            page.set_default_timeout(1000 * PAGE_SECONDS)
            look(page, f"http://127.0.0.1:{port}/#", client, experiment.experiment_id, given.out)
    finally:
        server.terminate()
        server.wait()


def wait_for(server: subprocess.Popen, port: int) -> None:
    """Waits until the server answers."""
    end = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < end:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(1)
    sys.exit(f"error: MLflow's server did not start within {START_SECONDS} s")


def look(page: Page, address: str, client: MlflowClient, experiment: str, out: Path) -> None:
    """Goes to each page by its address and saves what is to be seen there."""

    def runs(level: str) -> list:
        wanted = f"tags.level = '{level}'"
        return client.search_runs([experiment], wanted, order_by=["attributes.start_time"])

    def save(name: str, height: int, shown: Locator) -> None:
        page.set_viewport_size({"width": WIDTH, "height": height})
        shown.first.wait_for()
        page.wait_for_timeout(1000 * SETTLE_SECONDS)
        # A button that lies over the page, and where the files are on this machine.
        for found in page.locator("[data-assistant-ui], :text('Path: ')").all():
            found.evaluate("element => element.style.visibility = 'hidden'")
        path = out / f"mlflow-{name}.png"
        page.screenshot(path=path)
        picture = Image.open(path).convert("RGB")  # Few colours: a third of the size.
        picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)

    page.goto(f"{address}/experiments/{experiment}/runs")
    configurations = runs("configuration")
    for run in (*runs("study"), configurations[1]):  # What lies below them is shown too.
        page.locator(".ag-row", has_text=run.info.run_name).locator("button").first.click()
    save("runs", 700, page.locator(".ag-row", has_text="-seed"))

    compared = json.dumps([run.info.run_id for run in configurations[:3]])
    page.goto(f"{address}/compare-runs?runs={compared}&experiments={json.dumps([experiment])}")
    page.get_by_text("Show diff only").first.click()
    metrics = page.get_by_role("combobox").nth(1)
    metrics.press("Backspace")  # The one that MLflow has chosen.
    metrics.fill("objective")
    metrics.press("Enter")
    metrics.press("Escape")
    save("compare", 1750, page.get_by_text("Comparing"))

    fit = runs("fit")[0].info.run_id
    page.goto(f"{address}/experiments/{experiment}/runs/{fit}/artifacts/worst.png")
    save("fit", 520, page.locator("img[alt='worst.png']"))

    promoted = [run.info.run_id for run in runs("promotion") if run.data.tags["category"] == "wood"]
    version = client.search_model_versions(f"run_id = '{promoted[-1]}'")[0]
    page.goto(f"{address}/models/{version.name}")
    save("model", 1500, page.get_by_text("@ champion"))
    page.goto(f"{address}/models/{version.name}/versions/{version.version}")
    save("version", 660, page.get_by_text("Inspects"))


if __name__ == "__main__":
    main()
