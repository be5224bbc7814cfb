# The updater as an image, for devices on which everything is a container. Build it from the root of the project:
#
#   docker build -f deploy/edge.Dockerfile -t blackstart-edge .
#
# How it is run, and what it has to see of the device: deploy/edge.compose.yml and docs/operations.md.
ARG BASE=python:3.11-slim
FROM ${BASE}
COPY . /src
RUN python3 -m venv /opt/blackstart && /opt/blackstart/bin/pip install --no-cache-dir /src && rm -rf /src
ENTRYPOINT ["/opt/blackstart/bin/blackstart", "edge", "run"]
CMD ["--config", "/var/lib/blackstart/edge.json"]
