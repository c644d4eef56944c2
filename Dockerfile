# Two images: `shop`, the example project with its beats and workers, and `tests`, the whole suite.
#   docker build --target shop .
#   docker build --target tests .

FROM python:3.11.14-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --create-home --uid 10001 leader \
    && mkdir /data \
    && chown leader:leader /data
WORKDIR /app

FROM base AS shop
COPY pyproject.toml LICENSE README.md ./
COPY celery_safe_leader ./celery_safe_leader
COPY example_project/requirements.txt ./example_project/
RUN pip install . -r example_project/requirements.txt
COPY example_project ./example_project
COPY demo ./demo
USER leader
WORKDIR /app/example_project
CMD ["celery", "-A", "shop", "worker", "--loglevel=INFO"]

FROM base AS tests
COPY . .
RUN pip install --editable ".[dev]" \
    && chown --recursive leader:leader /app
USER leader
CMD ["pytest"]
