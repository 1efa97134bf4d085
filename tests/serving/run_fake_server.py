"""Serve a fake model in a process of its own: ``python run_fake_server.py SECONDS_AN_IMAGE [LIMIT=VALUE ...]``.

``load_seconds=N`` is how long the model takes to load.
"""

import sys
import time

from resnext.serving.app import make_app
from resnext.serving.limits import Limits
from resnext.serving.routes_hf import make_hf_router
from resnext.serving.routes_v2 import make_v2_router
from resnext.serving.served_model import ServedModel
from resnext.serving.server import bind_socket, exit_process, format_address, run_server
from resnext.serving.service import Service
from tests.serving.fakes import FakeClassifier


def main() -> None:
    """Serve until SIGTERM."""
    pairs = dict(argument.split("=") for argument in sys.argv[2:])
    load_seconds = float(pairs.pop("load_seconds", 0))
    limits = Limits(**{name: type(getattr(Limits(), name))(float(value)) for name, value in pairs.items()})
    service = Service(limits)
    bound = bind_socket("127.0.0.1", 0)
    model = FakeClassifier()

    def load() -> ServedModel:
        time.sleep(load_seconds)
        return ServedModel("fake", model)

    def announce() -> None:
        model.seconds = float(sys.argv[1])
        batcher = service.models["fake"].batcher
        assert batcher is not None
        batcher.seconds_per_image = model.seconds
        print(format_address(bound), flush=True)

    app = make_app(service, routers=[make_hf_router(service), make_v2_router(service)])
    run_server(service, app, bound, [load], announce)
    exit_process(0)


if __name__ == "__main__":
    main()
