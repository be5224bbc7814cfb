# The OPC Core Client as an image. Build it from the root of the project:
#
#   docker build -f deploy/client.Dockerfile --build-arg VERSION=2.1.0 -t REGISTRY/opc-client:2.1.0 .
#   docker push REGISTRY/opc-client:2.1.0
#   blackstart versions add 2.1.0 --image REGISTRY/opc-client@sha256:...   (the digest that `push` printed)
#
# `blackstart image build` makes the same without an engine.
ARG BASE=python:3.11-slim
FROM ${BASE}
ARG VERSION=0.0.0
LABEL org.opencontainers.image.title="opc-core-client" org.opencontainers.image.version="${VERSION}"
ENV OPC_VERSION="${VERSION}"
WORKDIR /app
COPY reference/client/app/*.py /app/
# The updater tells a good version from a bad one by this, by its own HTTP probe, or by both.
HEALTHCHECK --interval=5s --timeout=3s --start-period=5s --retries=3 CMD ["python3", "-I", "-S", "/app/check.py"]
# As words, not as a shell's line: the program is process 1, gets SIGTERM itself, and ends at once.
ENTRYPOINT ["python3", "-I", "-S", "/app/main.py"]
