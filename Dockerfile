# dwhctl as an image: its locked packages, a user of its own, no project. Build it in the checkout:
#   docker build --tag dwhctl:0.1.0 .
# A project is mounted at /project, or copied there by an image of yours that begins FROM this one.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
# Byte code by hash: some builders change the times of copied files, and each process would compile every module again.
COPY . /src
RUN python3 -m venv /opt/dwhctl \
 && /opt/dwhctl/bin/pip install --no-cache-dir --no-compile --require-hashes --requirement /src/constraints.txt \
 && /opt/dwhctl/bin/pip install --no-cache-dir --no-compile --no-deps --no-build-isolation /src \
 && /opt/dwhctl/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/dwhctl/lib \
 && /opt/dwhctl/bin/dwhctl --version

FROM ${BASE}
# Numbers: Kubernetes' runAsNonRoot does not look up names.
RUN groupadd --gid 10001 etl \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin etl \
 && install --directory --owner=10001 --group=10001 --mode=0700 /project/state
COPY --from=build /opt/dwhctl /opt/dwhctl
ENV DWHCTL_PROJECT=/project \
    PATH=/opt/dwhctl/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /project
VOLUME /project/state
# No init: dwhctl is process 1, stops on SIGTERM (exit code 143), and ends and waits for its workers itself.
ENTRYPOINT ["/opt/dwhctl/bin/dwhctl"]
CMD ["--help"]
