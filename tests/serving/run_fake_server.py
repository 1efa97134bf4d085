"""Serve a fake model in a process of its own: ``python run_fake_server.py SECONDS_AN_IMAGE [LIMIT=VALUE ...]``."""

import sys

from resnext.serving.app import make_app
from resnext.serving.limits import Limits
from resnext.serving.served_model import ServedModel
from resnext.serving.server import bind_socket, exit_process, format_address, run_server
from resnext.serving.service import Service
from tests.serving.fakes import FakeClassifier

if __name__ == "__main__":
    values = {name: type(getattr(Limits(), name))(float(value)) for name, value in (a.split("=") for a in sys.argv[2:])}
    service = Service(Limits(**values))
    bound = bind_socket("127.0.0.1", 0)
    model = FakeClassifier(float(sys.argv[1]))
    loaders = [lambda: ServedModel("fake", model)]
    run_server(service, make_app(service), bound, loaders, lambda: print(format_address(bound), flush=True))
    print(f"computed {sum(model.batches)}", flush=True)
    exit_process(0)
