"""Weights from elsewhere, against a server on this machine that speaks the hub's protocol, and misbehaves."""

import hashlib
import importlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

import resnext
from resnext.cli import main
from resnext.data.preprocessing import Preprocessing
from resnext.data.sources.digits import open_digits
from resnext.errors import RequestError, WorkError
from resnext.model.network import Network, create_model
from resnext.settings import DataSettings
from resnext.weights import load, released
from resnext.weights.hub import check_reachable, fetch, is_remote, parse_hub_name, parse_url
from resnext.weights.native import serialize_network
from resnext.weights.released import PublishedError, ReleasedFile, find_pretrained

COMMIT, OTHER = "a" * 40, "b" * 40
WEIGHTS = bytes(i * 11 % 253 for i in range(50_000))
SUM = hashlib.sha256(WEIGHTS).hexdigest()
RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


class Hub(ThreadingHTTPServer):
    """Repositories by name: {file: bytes}. ``plain`` are files beside them, as any web server has them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = {"lab/net": {"model.safetensors": WEIGHTS, "config.json": b'{"a": 1}'}}
        self.revisions = {"main": COMMIT, "v1": OTHER}
        self.gated: set[str] = set()
        self.plain: dict[str, bytes] = {}
        self.sends: dict[str, bytes] = {}  # what a GET sends instead
        self.broken: list[int] = []  # error codes of the next answers
        self.cuts: list[int] = []  # break off the next bodies after so many bytes
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = unquote(self.path)
        self.server.asked.append(f"{self.command} {path}")
        if self.server.broken:
            self.refuse(self.server.broken.pop(0))
        elif path in self.server.plain:
            self.send(self.server.plain[path], {}, body)
        elif match := RESOLVE.fullmatch(path):
            self.resolve(match["repo"], match["revision"], match["file"], body)
        else:
            self.refuse(404)

    def resolve(self, repo: str, revision: str, file: str, body: bool) -> None:
        server = self.server
        commit = server.revisions.get(revision, revision if revision in server.revisions.values() else None)
        if repo in server.gated:
            self.refuse(403, "GatedRepo")
        elif repo not in server.repositories:
            self.refuse(401, "RepoNotFound")
        elif commit is None:
            self.refuse(404, "RevisionNotFound")
        elif file not in server.repositories[repo]:
            self.refuse(404, "EntryNotFound", commit)
        else:
            content = server.repositories[repo][file]
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
            self.send(server.sends.get(file, content) if body else content, headers, body)

    def send(self, content: bytes, headers: dict[str, str], body: bool) -> None:
        wanted = self.headers["Range"] if body else None
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.send_response(206 if start else 200)
        if start:
            headers = headers | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        for name, value in (headers | {"Content-Length": str(len(content) - start)}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            cut = self.server.cuts.pop(0) if self.server.cuts else len(content)
            with suppress(ConnectionError):
                self.wfile.write(content[start : start + cut])

    def refuse(self, code: int, word: str = "", commit: str = "") -> None:
        self.send_response(code)
        for name, value in (("X-Error-Code", word), ("X-Repo-Commit", commit)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def close_session() -> None:
    """Let the next request make a new session, in all versions of huggingface_hub."""
    if hasattr(huggingface_hub, "close_session"):
        huggingface_hub.close_session()
    else:
        importlib.import_module("huggingface_hub.utils").reset_sessions()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The server, as huggingface_hub's endpoint, with empty caches."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("RESNEXT_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)  # older versions have no XET
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with Hub() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        file_download = importlib.import_module("huggingface_hub.file_download")  # older versions keep it here too
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        close_session()
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()
    close_session()


@pytest.mark.parametrize(
    ("source", "remote"),
    [
        ("hf://lab/net", True),
        ("https://x.org/a.pth", True),
        ("http://127.0.0.1/a", True),
        ("HTTPS://x.org/a", True),
        ("runs/a", False),
        ("/a/b://c", False),
        ("C:\\weights.pth", False),
    ],
)
def test_names_and_paths_are_told_apart(source: str, remote: bool) -> None:
    assert is_remote(source) is remote


def test_a_repository_gives_its_weights_with_its_config_beside(server: Hub) -> None:
    path = fetch("hf://lab/net")
    assert path.name == "model.safetensors"
    assert path.read_bytes() == WEIGHTS
    assert json.loads((path.parent / "config.json").read_text()) == {"a": 1}
    gets = [line for line in server.asked if line.startswith("GET")]
    assert fetch("hf://lab/net") == path
    assert [line for line in server.asked if line.startswith("GET")] == gets


def test_whether_weights_can_be_had_is_asked_once_and_not_if_they_are_cached(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_reachable("hf://lab/net", 5)
    server.broken = [500]
    assert check_reachable("hf://lab/net", 5)  # an answer: fetch() explains it
    fetch("hf://lab/net")
    asked = len(server.asked)
    assert not check_reachable("hf://lab/net", 5)
    assert len(server.asked) == asked
    with pytest.raises(WorkError, match="HF_HUB_OFFLINE forbids"), monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        check_reachable("hf://lab/other", 5)


def test_a_hub_that_does_not_answer_is_left_after_the_stated_seconds(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections, and never answers
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(WorkError, match=r"is not in the cache, and http://127\S* does not answer"):
            check_reachable("hf://lab/net", 0.2)
    assert server.asked == []


@pytest.fixture
def model(server: Hub) -> Network:
    """What ``hf://lab/net`` holds."""
    network = create_model("resnext11_2x4d", seed=1, base_channels=4, num_classes=10, in_channels=1).eval()
    settings = DataSettings()
    network.preprocessing = Preprocessing.from_settings(settings, open_digits(settings))
    network.classes = tuple("0123456789")
    server.repositories["lab/net"] = {"model.safetensors": serialize_network(network), "config.json": b"{}"}
    return network


@pytest.mark.usefixtures("model")
def test_the_protocol_of_weights_from_the_hub_names_their_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "hf://lab/net@v1", "--source", "digits"]) == 0
    assert "weights hf://lab/net@v1" in capsys.readouterr().out


def test_a_network_is_loaded_from_the_hub_and_converted_with_its_address(model: Network, tmp_path: Path) -> None:
    x = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(load("hf://lab/net")(x), model(x))
    assert main(["convert", "hf://lab/net@v1", str(tmp_path / "out.safetensors")]) == 0
    source = load(tmp_path / "out.safetensors").provenance["source"]
    assert (source["hub"], source["file"], source["format"]) == ("lab/net", "model.safetensors", "resnext")
    assert source["sha256"] == hashlib.sha256(serialize_network(model)).hexdigest()


def test_a_revision_is_asked_for_and_its_config_is_of_the_same_commit(server: Hub) -> None:
    path = fetch("hf://lab/net@v1")
    assert path.parent.name == OTHER
    assert "HEAD /lab/net/resolve/v1/model.safetensors" in server.asked
    assert f"HEAD /lab/net/resolve/{OTHER}/config.json" in server.asked
    assert (path.parent / "config.json").exists()


def test_a_file_in_a_folder_of_a_repository_is_named_whole(server: Hub) -> None:
    server.repositories["lab/net"] |= {"small/w.safetensors": b"small", "small/config.json": b"{}"}
    path = fetch("hf://lab/net/small/w.safetensors@main")
    assert (path.read_bytes(), (path.parent / "config.json").read_bytes()) == (b"small", b"{}")


def test_what_is_cached_is_there_without_a_network(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repositories["lab/old"] = {"pytorch_model.bin": WEIGHTS}
    paths = [fetch("hf://lab/net"), fetch("hf://lab/old")]
    assert [path.name for path in paths] == ["model.safetensors", "pytorch_model.bin"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    server.asked.clear()
    assert [fetch("hf://lab/net"), fetch("hf://lab/old")] == paths
    assert server.asked == []
    with pytest.raises(WorkError, match=r"hf://lab/other is not in the cache .* yourself"):
        fetch("hf://lab/other")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("hf://lab/none", r"there is no repository http.*/lab/none, or it is private"),
        ("hf://lab/closed", r"lab/closed is gated: accept its terms at .* HF_TOKEN.* yourself"),
        ("hf://lab/net@v9", r"has no revision 'v9'"),
        ("hf://lab/net/other.pth", r"hf://lab/net/other.pth has no other.pth"),
        ("hf://lab/empty", r"has no model.safetensors and no pytorch_model.bin .* name one as hf://lab/empty/FILE"),
        ("hf://la b/net!", r"is not a valid repository"),
    ],
)
def test_what_is_not_there_is_named_in_one_sentence(server: Hub, source: str, says: str) -> None:
    server.gated.add("lab/closed")
    server.repositories["lab/empty"] = {"README.md": b"x"}
    with pytest.raises(RequestError, match=says) as caught:
        fetch(source)
    assert "\n" not in str(caught.value)


def test_wrong_bytes_are_named_and_leave_the_cache(server: Hub) -> None:
    server.sends = {"model.safetensors": b"x" * len(WEIGHTS)}
    with pytest.raises(WorkError, match=f"SHA-256 .* expected {SUM}.*try again"):
        fetch("hf://lab/net")
    server.sends = {}
    assert fetch("hf://lab/net").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("fault", "value", "says"),
    [("cuts", 10, "hf://lab/net could not be downloaded: "), ("broken", 500, "hf://lab/net ")],
)
def test_a_hub_that_fails_is_named_and_can_be_asked_again(
    server: Hub, monkeypatch: pytest.MonkeyPatch, fault: str, value: int, says: str
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    setattr(server, fault, [value] * 50)
    with pytest.raises(WorkError, match=f"{says}.*yourself"):
        fetch("hf://lab/net")
    setattr(server, fault, [])
    assert fetch("hf://lab/net").read_bytes() == WEIGHTS


UNCLEAR = ("hf://net", "hf://", "hf://lab/", "hf://lab/net/../x", "hf://lab/net@", "hf://lab//x", "hf://a/b\\c")


@pytest.mark.parametrize(
    ("source", "says"),
    [*((name, "") for name in UNCLEAR), ("hf://lab/net@main/model.safetensors", "the revision comes last; ")],
)
def test_a_name_that_means_nothing_says_the_form(source: str, says: str) -> None:
    with pytest.raises(RequestError, match=f"{says}expected hf://owner/name"):
        parse_hub_name(source)


def test_an_address_is_fetched_once_and_checked_by_its_name(server: Hub, tmp_path: Path) -> None:
    name = f"/net-{SUM[:8]}.pth"
    server.plain[name] = WEIGHTS
    path = fetch(server.url + name)
    assert path.read_bytes() == WEIGHTS
    assert path.parent == tmp_path / "data" / "weights"
    assert path.name == hashlib.sha256((server.url + name).encode()).hexdigest() + f"-net-{SUM[:8]}.pth"
    assert fetch(server.url + name) == path
    assert server.asked == [f"GET {name}"]


@pytest.mark.parametrize("end", ["-12345678.pth", f".pth#sha256={'0' * 64}"])
def test_bytes_that_do_not_fit_their_checksum_are_refused(server: Hub, tmp_path: Path, end: str) -> None:
    server.plain[f"/net{end.partition('#')[0]}"] = WEIGHTS
    with pytest.raises(WorkError, match=f"SHA-256 is {SUM}, expected"):
        fetch(f"{server.url}/net{end}")
    assert [p for p in (tmp_path / "data" / "weights").iterdir() if not p.name.endswith(".lock")] == []


def test_an_address_without_checksum_is_fetched_with_a_warning(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    server.plain["/net.pth"] = WEIGHTS
    assert fetch(server.url + "/net.pth").read_bytes() == WEIGHTS
    assert re.search(rf"warning: .* without a checksum to verify; its SHA-256 is {SUM}", capsys.readouterr().err)
    fetch(server.url + f"/net.pth#sha256={SUM.upper()}")
    assert "warning" not in capsys.readouterr().err


def test_a_cut_transfer_of_an_address_is_taken_up_again(server: Hub) -> None:
    server.plain["/net.pth"] = WEIGHTS
    server.cuts = [20_000]
    assert fetch(f"{server.url}/net.pth#sha256={SUM}").read_bytes() == WEIGHTS
    assert len(server.asked) == 2


def test_an_address_that_is_not_there_says_how_to_go_on(server: Hub) -> None:
    with pytest.raises(WorkError, match=r"answers 404.*by hand"):
        fetch(server.url + "/none.pth")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("http://x.org/a.pth", "http is not secure"),
        ("https:///a.pth", "is not a URL"),
        ("https://x.org:99999/a.pth", "is not a URL"),
        ("https://x.org/a b.pth", "is not a URL"),
        ("https://[::1/a.pth", "is not a URL"),
        ("https://x.org/a.pth#md5=00", "expected sha256="),
        ("https://x.org/a.pth#sha256=12", "expected sha256="),
        ("ftp://x.org/a.pth", "ftp:// is not supported"),
    ],
)
def test_an_address_that_cannot_be_used_says_why(source: str, says: str) -> None:
    with pytest.raises(RequestError, match=re.escape(says)):
        fetch(source)


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("resnet50-0676ba61.pth", "0676ba61"),
        ("semi_supervised_resnet50-08389792.pth", "08389792"),
        ("run-20240131.pth", None),
        ("resnet50.pth", None),
        ("net-final.pth", None),
        ("net-ABCDEF12.pth", None),
    ],
)
def test_a_checksum_in_a_name_is_told_from_a_date(name: str, digest: str | None) -> None:
    assert parse_url(f"https://x.org/d/{name}").sha256 == digest


@pytest.mark.parametrize("path", ["/..%2f..%2fetc%2fpasswd", "/a/..", "/%00x", "/" + "n" * 5000, "/ü.pth", "/?x=../y"])
def test_names_in_the_cache_stay_plain(path: str) -> None:
    name = parse_url("https://x.org" + path).name
    assert re.fullmatch(r"[0-9a-f]{64}-[A-Za-z0-9._-]{1,100}", name)


def test_sources_that_differ_only_in_their_query_are_kept_apart() -> None:
    assert parse_url("https://x.org/a.pth?v=1").name != parse_url("https://x.org/a.pth?v=2").name


@pytest.fixture
def published(server: Hub, model: Network, monkeypatch: pytest.MonkeyPatch) -> ReleasedFile:
    """The network as public weights of the name resnext11_2x4d, in a file with its checksum in the name."""
    data = serialize_network(model)
    digest = hashlib.sha256(data).hexdigest()
    server.plain[f"/net-{digest[:8]}.safetensors"] = data
    view = {"image_size": 8, "resize": 8, "interpolation": "bicubic"}
    figure = PublishedError(top1_error=20, top5_error=None, data="ImageNet", source="us", **view)  # type: ignore[arg-type]
    best = ReleasedFile(
        name="ours", architecture="resnext11_2x4d", format="resnext", licence="mit", figures=(figure,),
        url=f"{server.url}/net-{digest[:8]}.safetensors", hub="lab/resnext11_2x4d.ours", sha256=digest[:8],
    )  # fmt: skip
    worse = replace(best, name="worse", hub="lab/resnext11_2x4d.worse", figures=(replace(figure, top1_error=21),))
    low = (replace(figure, top1_error=1),)
    closed = replace(best, licence="cc-by-nc-4.0", hub="lab/resnext11_2x4d.nc", figures=low)
    monkeypatch.setattr(released, "load_released", lambda: (closed, worse, best))
    return best


def test_public_weights_are_downloaded_by_the_name_of_their_network(
    server: Hub, model: Network, published: ReleasedFile, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_pretrained("resnext11_2x4d") == published
    x = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        for _ in range(2):
            assert torch.equal(resnext.load("resnext11_2x4d")(x), model(x))
        assert torch.equal(resnext.create_model("resnext11_2x4d.ours", pretrained=True)(x), model(x))
    assert len(server.asked) == 1, "it is in the cache"
    other = resnext.create_model("resnext11_2x4d", pretrained=True, num_classes=3, in_channels=3, output_stride=2)
    assert other(torch.randn(1, 3, 32, 32)).shape == (1, 3)
    assert torch.equal(other.layer1[0].conv1.weight, model.layer1[0].conv1.weight)
    assert main(["info", "resnext11_2x4d"]) == 0
    assert main(["models", "--pretrained"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "resnext11_2x4d." in line]
    assert [line[:2] for line in lines] == [
        ["resnext11_2x4d.nc", "1.00"],
        ["resnext11_2x4d.worse", "21.00"],
        ["resnext11_2x4d.ours", "*"],
    ]


@pytest.mark.usefixtures("published")
def test_a_run_starts_from_public_weights_by_name(tmp_path: Path) -> None:
    words = ["--model.name", "resnext11_2x4d", "--model.base_channels", "4", "--model.blocks", "[1, 1, 1]"]
    short = ["--train.epochs", "2", "--data.max_train_images", "64", "--data.max_val_images", "20"]
    run = tmp_path / "run"
    assert main(["train", "small/digits", "--init", "resnext11_2x4d", "--run", str(run), *words, *short]) == 0
    assert load(run).provenance["init"]["weights"] == "resnext11_2x4d"


def test_weights_that_are_not_public_are_named_with_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"no public weights for resnext50_32x5d; did you mean 'resnext50_32x4d'"):
        resnext.create_model("resnext50_32x5d", pretrained=True)
    with pytest.raises(RequestError, match="another depth; what can change: num_classes"):
        resnext.create_model("resnext50_32x4d", pretrained=True, depth=101)


def test_the_default_weights_of_a_network_are_free_and_have_a_checksum() -> None:
    found = find_pretrained("resnext50_32x4d")
    assert found is not None
    assert (found.short_name, found.licence) == ("resnext50_32x4d.tv2_in1k", "bsd-3-clause")
    assert found.address == "https://download.pytorch.org/models/resnext50_32x4d-1a0047aa.pth"
    ssl = find_pretrained("resnext50_32x4d.fb_ssl_yfcc100m_ft_in1k")
    assert ssl is not None
    assert ssl.licence == "cc-by-nc-4.0"
    assert find_pretrained("resnext50_64x4d") is None
