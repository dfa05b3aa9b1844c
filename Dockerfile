# Two images from one file: `api` (API, sweeper, migrations, command line; no torch) and `worker` (with torch).
#   docker build --target api -t corpusmill-api:0.1.0 .
#   docker build --target worker -t corpusmill-worker:0.1.0 .

FROM python:3.11.13-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --create-home --uid 10001 corpusmill && mkdir /data /models && chown corpusmill /data /models
WORKDIR /app
COPY pyproject.toml constraints.txt README.md ./
COPY corpusmill corpusmill
COPY catalog catalog
COPY corpora corpora
COPY evaluation evaluation
COPY pipeline pipeline
COPY db db
COPY broker broker
COPY api api
COPY worker worker
COPY cli cli
COPY client client
COPY demo/__init__.py demo/__init__.py
COPY demo/corpora demo/corpora
COPY demo/models demo/models

FROM base AS api
RUN pip install -c constraints.txt ".[postgres]"
USER corpusmill
VOLUME ["/data", "/models"]
EXPOSE 8000
CMD ["corpusmill", "api"]

FROM base AS worker
RUN pip install -c constraints.txt ".[worker,postgres]"
USER corpusmill
VOLUME ["/data", "/models"]
CMD ["corpusmill", "worker"]
