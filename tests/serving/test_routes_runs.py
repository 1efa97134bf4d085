"""The routes of runs: a real run and made-up ones; names are looked up, links lead nowhere, reports are harmless."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from resnext.cli import main
from resnext.run import open_run
from resnext.serving.routes_runs import MAX_POINTS, make_runs_router
from resnext.training.lock import read_machine, read_process_namespace, read_start_time
from tests.conftest import TINY

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of three short epochs, trained once."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY)
    assert main(["train", str(folder / "tiny.yaml"), "--run", str(folder / "tiny")]) == 0
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for runs."""
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    """A client of a server with the routes of runs only."""
    with make_client(folder) as client:
        yield client


def make_client(folder: Path) -> TestClient:
    app = FastAPI()
    app.include_router(make_runs_router(folder))
    return TestClient(app)


def make_run(path: Path, steps: int = 5, epochs: int = 1, recipe: str = "train: {epochs: 4}\n") -> Path:
    """Write a run directory as one that was killed leaves it."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "recipe.yaml").write_text(recipe)
    rows = [{"kind": "step", "step": s, "epoch": 1, "loss": 3 - s / steps, "lr": 0.1} for s in range(1, steps + 1)]
    rows += [{"kind": "epoch", "epoch": e, "step": e * steps, "top1_error": 50.0 / e} for e in range(1, epochs + 1)]
    (path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = "".join(f"{e},{e * steps},{50.0 / e}\n" for e in range(1, epochs + 1))
    (path / "metrics.csv").write_text("epoch,step,top1_error\n" + lines)
    return path


def write_owner(run: Path, pid: int, **changes: object) -> None:
    """Write the file that a training process keeps in its run."""
    owner = {
        "token": "x",
        "machine": read_machine(),
        "processes": read_process_namespace(),
        "pid": pid,
        "started": read_start_time(pid),
        "since": "2026-01-01 00:00:00 UTC",
    }
    (run / ".owner.json").write_text(json.dumps(owner | changes))


def read_state(client: TestClient, name: str) -> str:
    """Return the state of a run as its page shows it."""
    return str(client.get(f"/v1/runs/{name}").json()["state"])


def test_a_finished_run_is_described_with_what_it_holds(trained: Path) -> None:
    run = open_run(trained / "tiny")
    with make_client(trained) as client:
        (line,) = client.get("/v1/runs").json()["runs"]
        assert line["id"] == line["name"] == "tiny"
        assert (line["state"], line["task"], line["model"], line["data"]) == (
            *("finished", "classification"),
            *("resnext11_2x4d", "digits"),
        )
        assert (line["epoch"], line["epochs"], line["step"]) == (3, 3, 18)
        assert line["metric"]["best"] == pytest.approx(min(run.metrics["top1_error"]))
        assert line["spark"] == pytest.approx(run.metrics["train_loss"].tolist())

        about = client.get("/v1/runs/tiny").json()
        assert about["recipe"] == (trained / "tiny" / "recipe.yaml").read_text()
        assert about["settings"]["optimizer.lr"] == 0.05
        assert about["metrics"]["val_loss"] == pytest.approx(run.metrics["val_loss"].tolist())
        assert about["environment"]["device"] == "cpu"
        assert run.evaluation is not None
        assert about["evaluation"]["top1_error"] == run.evaluation["top1_error"]
        pictures = {picture["name"] for picture in about["links"]["pictures"]}
        assert pictures == {"curves.png", "samples.png", "worst.png", "confusion.png", "reliability.png"}
        for picture in about["links"]["pictures"]:
            answer = client.get(picture["url"])
            assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
            assert answer.content.startswith(PNG)
        report = client.get(about["links"]["report"])
        assert report.content == (trained / "tiny" / "report.html").read_bytes()

        log = client.get("/v1/runs/tiny/log").json()
        rows = [json.loads(text) for text in (trained / "tiny" / "log.jsonl").read_text().splitlines()]
        steps = [row for row in rows if row["kind"] == "step"]
        assert log["steps"]["step"] == [row["step"] for row in steps]
        assert log["steps"]["loss"] == pytest.approx([row["loss"] for row in steps], rel=1e-5)
        assert log["epochs"]["epoch"] == [1, 2, 3]
        assert log["epochs"]["top5_error"] == pytest.approx(run.metrics["top5_error"].tolist())
        assert log["speed"]["seconds"] == pytest.approx(run.speed["seconds"].tolist())


def test_a_report_can_do_nothing(folder: Path, client: TestClient) -> None:
    (make_run(folder / "a") / "report.html").write_text("<script>alert(document.cookie)</script>")
    headers = client.get("/v1/runs/a/files/report.html").headers
    policy = [part.strip() for part in headers["content-security-policy"].split(";")]
    assert "sandbox" in policy  # without allow-scripts and allow-same-origin
    assert "default-src 'none'" in policy
    assert not any(part.startswith("script-src") for part in policy)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    "address",
    [
        "/v1/runs/..",
        "/v1/runs/%2e%2e",
        "/v1/runs/..%2fsecret",
        "/v1/runs/a%2f..%2f..%2fsecret/log",
        "/v1/runs/../secret/log",
        "/v1/runs/%2Fetc/log",
        "/v1/runs/a%00/log",
        "/v1/runs/a/files/..%2f..%2fsecret%2fworst.png",
        "/v1/runs/a/files/%2e%2e",
        "/v1/runs/a/files/recipe.yaml",
        "/v1/runs/a/files/.owner.json",
        "/v1/runs/secret",
        "/v1/runs/secret/files/report.html",
    ],
)
def test_no_name_in_a_request_becomes_a_path(folder: Path, client: TestClient, address: str) -> None:
    make_run(folder / "a")
    (make_run(folder.parent / "secret") / "report.html").write_text("secret")
    answer = client.get(address)
    assert answer.status_code == 404
    assert "secret" not in answer.text


def test_no_symbolic_link_is_followed(folder: Path, client: TestClient, tmp_path: Path) -> None:
    secret = make_run(tmp_path / "outside")
    (secret / "report.html").write_text("secret")
    (secret / "worst.png").write_bytes(b"secret")
    (folder / "linked").symlink_to(secret)
    run = make_run(folder / "a")
    for name in ("recipe.yaml", "log.jsonl", "metrics.csv"):
        (run / name).unlink()
        (run / name).symlink_to(secret / name)
    (run / "report.html").symlink_to(secret / "report.html")
    (run / "evaluation").symlink_to(secret)
    assert client.get("/v1/runs").json()["runs"] == []
    (run / "log.jsonl").unlink()
    (run / "log.jsonl").write_text("")
    time.sleep(2.1)  # the listing is kept two seconds
    about = client.get("/v1/runs/a").json()
    assert (about["recipe"], about["metrics"], about["links"]) == (None, {}, {"report": None, "pictures": []})
    for name in ("report.html", "worst.png"):
        assert client.get(f"/v1/runs/a/files/{name}").status_code == 404
    assert client.get("/v1/runs/linked").status_code == 404


def test_a_run_folder_swapped_for_a_link_after_the_listing_gives_nothing(folder: Path, client: TestClient) -> None:
    (make_run(folder / "a") / "report.html").write_text("mine")
    (make_run(folder.parent / "outside") / "report.html").write_text("secret")
    assert client.get("/v1/runs/a/files/report.html").text == "mine"
    shutil.move(folder / "a", folder.parent / "moved")
    (folder / "a").symlink_to(folder.parent / "outside")
    assert client.get("/v1/runs/a/files/report.html").status_code == 404
    assert client.get("/v1/runs/a/log").json()["steps"]["step"] == []


def test_a_pipe_in_place_of_a_log_blocks_nothing(folder: Path, client: TestClient) -> None:
    run = make_run(folder / "a")
    (run / "log.jsonl").unlink()
    os.mkfifo(run / "log.jsonl")
    assert client.get("/v1/runs/a/log").json()["next"] == 0


def test_runs_in_folders_and_with_any_name_have_addresses(folder: Path, client: TestClient) -> None:
    names = ["sweep/lr 0.1", "sweep~lr 0.1", "<img src=x onerror=alert(1)>", "ä/b", "x...", "plain-1.0"]
    for name in names:
        make_run(folder / name)
    os.mkdir(os.fsencode(folder) + b"/\xff")
    make_run(folder / os.fsdecode(b"\xff"))
    make_run(folder / ".hidden")
    lines = client.get("/v1/runs").json()["runs"]
    assert {line["name"] for line in lines} == {*names, "\\udcff"}
    assert len({line["id"] for line in lines}) == len(names) + 1
    for line in lines:
        assert client.get(f"/v1/runs/{line['id']}").json()["name"] == line["name"]
    assert "plain-1.0" in {line["id"] for line in lines}


def test_a_run_itself_can_be_served(folder: Path) -> None:
    make_run(folder / "digits")
    with make_client(folder / "digits") as client:
        assert client.get("/v1/runs/digits/log").json()["steps"]["step"] == [1, 2, 3, 4, 5]


def test_states_follow_the_process_the_steps_and_the_age(folder: Path, client: TestClient) -> None:
    run = make_run(folder / "a", recipe="train: {epochs: 2}\n")
    assert read_state(client, "a") == "interrupted"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        write_owner(run, process.pid)
        assert read_state(client, "a") == "running"
        os.utime(run / "log.jsonl", (0, time.time() - 3600))
        assert read_state(client, "a") == "stalled"
        write_owner(run, process.pid, since=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))
        assert read_state(client, "a") == "running"  # resumed just now
        process.communicate(b"\n")
    assert read_state(client, "a") == "interrupted"  # killed: its owner file is still there
    (run / ".owner.json").unlink()
    make_run(run, epochs=2, recipe="train: {epochs: 2}\n")
    assert read_state(client, "a") == "finished"
    make_run(run, steps=30, recipe="train: {steps: 31}\n")
    assert read_state(client, "a") == "interrupted"
    make_run(run, steps=31, recipe="train: {steps: 31}\n")
    assert read_state(client, "a") == "finished"
    make_run(run, steps=20, recipe="train: {steps: 31}\n")
    with open(run / "log.jsonl", "a") as log:
        log.write('{"kind": "stop", "step": 20, "epoch": 2, "reason": "after 20 of 31 steps: no better"}\n')
    assert read_state(client, "a") == "finished", "it ended early"


def test_the_state_of_a_run_on_another_machine_follows_its_heartbeat(folder: Path, client: TestClient) -> None:
    run = make_run(folder / "a")
    write_owner(run, 1, machine="another")
    assert read_state(client, "a") == "running"
    os.utime(run / ".owner.json", (0, time.time() - 120))
    assert read_state(client, "a") == "interrupted"


def test_a_poll_without_news_is_304_and_news_are_not(folder: Path, client: TestClient) -> None:
    run = make_run(folder / "a")
    first = client.get("/v1/runs/a/log").json()
    query = {"after": first["next"], "generation": first["generation"]}
    second = client.get("/v1/runs/a/log", params=query)
    assert second.json()["steps"]["step"] == []
    known = {"If-None-Match": second.headers["ETag"]}
    third = client.get("/v1/runs/a/log", params=query, headers=known)
    assert (third.status_code, third.content, third.headers["ETag"]) == (304, b"", second.headers["ETag"])
    with open(run / "log.jsonl", "a") as file:
        file.write('{"kind": "step", "step": 6, "epoch": 2, "loss": 1.5, "lr": 0.1}\n')
    fourth = client.get("/v1/runs/a/log", params=query, headers=known)
    assert fourth.json()["steps"] == {"step": [6], "loss": [1.5]}
    for address in ("/v1/runs", "/v1/runs/a"):
        tag = client.get(address).headers["ETag"]
        assert client.get(address, headers={"If-None-Match": f'"x", W/{tag}'}).status_code == 304


def test_speeds_of_an_epoch_that_ends_later_than_its_row_are_news(folder: Path, client: TestClient) -> None:
    run = make_run(folder / "a")
    first = client.get("/v1/runs/a/log").json()
    query = {"after": first["next"], "generation": first["generation"]}
    tag = client.get("/v1/runs/a/log", params=query).headers["ETag"]
    (run / "speed.csv").write_text("epoch,images_per_second,seconds\n1,90.5,8\n1,100.5,9\n")
    answer = client.get("/v1/runs/a/log", params=query, headers={"If-None-Match": tag})
    assert answer.json()["speed"] == {"epoch": [1], "images_per_second": [100.5], "seconds": [9.0]}


def test_a_long_log_is_answered_with_few_points_whose_extremes_are_the_logs(folder: Path, client: TestClient) -> None:
    make_run(folder / "a")
    with open(folder / "a" / "log.jsonl", "w") as file:
        for step in range(1, 20_001):
            loss = 50.0 if step == 12_345 else 2 + (step % 7) / 10
            file.write(json.dumps({"kind": "step", "step": step, "epoch": 1, "loss": loss, "lr": 1e-3}) + "\n")
    answer = client.get("/v1/runs/a/log")
    while answer.json()["more"]:
        answer = client.get("/v1/runs/a/log")
    values = answer.json()
    assert values["count"] == 20_000
    assert len(values["steps"]["step"]) <= MAX_POINTS
    assert dict(zip(values["steps"]["step"], values["steps"]["loss"], strict=True))[12_345] == 50.0
    assert len(values["mean"]["step"]) <= MAX_POINTS
    middle = sum(values["mean"]["loss"]) / len(values["mean"]["loss"])
    assert middle == pytest.approx(2.3 + 47.6 / 20_000, abs=0.01)
    assert len(answer.content) < 100_000


@pytest.mark.parametrize("name", ["recipe.yaml", "metrics.csv", "speed.csv", "environment.json", "evaluation"])
def test_damaged_files_hide_only_themselves(folder: Path, client: TestClient, name: str) -> None:
    run = make_run(folder / "a")
    path = run / "evaluation" / "metrics.json" if name == "evaluation" else run / name
    path.parent.mkdir(exist_ok=True)
    damages: list[bytes] = [
        b"",
        b"\0\xff\n",
        b"[" * 100_000,
        b"a: *b\n",
        b'"',
        b"1\n2,3\n,,,,\n",
        b"epoch,step\nx,nan\n",
    ]
    for damage in damages:
        path.write_bytes(damage)
        for address in ("/v1/runs", "/v1/runs/a"):
            assert client.get(address).status_code == 200
        assert client.get("/v1/runs/a/log").json()["steps"]["step"] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("query", ["after=-1", "after=x", f"after={10**30}", "generation=" + "x" * 100])
def test_impossible_cursors_are_refused(folder: Path, client: TestClient, query: str) -> None:
    make_run(folder / "a")
    assert client.get(f"/v1/runs/a/log?{query}").status_code == 422


def test_a_detector_shows_its_average_precision(folder: Path, client: TestClient) -> None:
    run = make_run(folder / "a", recipe="train: {epochs: 2, stage: detector}\nmodel: {backbone: resnext11_2x4d}\n")
    (run / "metrics.csv").write_text("epoch,step,train_loss,ap,ap50\n1,10,2.5,0.25,0.5\n2,20,2.0,0.2,\n")
    (line,) = client.get("/v1/runs").json()["runs"]
    assert line["metric"] == {"name": "ap", "label": "AP", "lower": False, "last": 0.2, "best": 0.25}


def test_the_routes_need_no_torch(folder: Path) -> None:
    make_run(folder / "a")
    script = """
import sys, pathlib
from resnext.serving.routes_runs import make_runs_router
from resnext.serving.run_table import RunTable
from resnext.serving.run_facts import RunFacts
make_runs_router(pathlib.Path(sys.argv[1]))
assert RunFacts(RunTable(pathlib.Path(sys.argv[1]))).list_lines()[0]["name"] == "a"
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)


def test_the_schema_names_the_routes(client: TestClient) -> None:
    paths: dict[str, Any] = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/v1/runs", "/v1/runs/{run_id}", "/v1/runs/{run_id}/log", "/v1/runs/{run_id}/files/{name}"}
