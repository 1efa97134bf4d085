# A small image of `resnext serve` for exported files (.onnx, .xml) on the CPU; it has no PyTorch.
# There is no Docker where this file was written: it was never built. tests/test_container.py reads it, and runs the
# command with the packages of docker/requirements-serve.txt alone.
#
#     docker build -t resnext-serve .
#     docker run --rm -p 127.0.0.1:8000:8000 -e RESNEXT_TOKEN=SECRET -v "$PWD/exports":/models:ro resnext-serve \
#         /models/model.onnx
FROM python:3.12-slim AS build
RUN python -m venv /opt/resnext
WORKDIR /source
COPY constraints.txt ./
COPY docker/requirements-serve.txt docker/
RUN /opt/resnext/bin/pip install --no-cache-dir -c constraints.txt -r docker/requirements-serve.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/resnext/bin/pip install --no-cache-dir --no-deps .

FROM python:3.12-slim
RUN useradd --uid 10001 --create-home resnext
COPY --from=build /opt/resnext /opt/resnext
ENV PATH=/opt/resnext/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/resnext
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD \
    ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
# Without the variable RESNEXT_TOKEN the server refuses to start: it can be reached from other machines.
ENTRYPOINT ["resnext", "serve", "--host", "0.0.0.0"]
CMD ["/models/model.onnx"]
