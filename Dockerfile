# The bot itself, for `docker compose up`. Worklets have their own image (worklets/image).
FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv git openssh-client ca-certificates \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/flow
RUN python3 -m venv /opt/venv
COPY requirements.lock .
RUN /opt/venv/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY . .
RUN /opt/venv/bin/pip install --no-cache-dir "setuptools>=77" \
 && /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
 && python3 -m compileall -q /opt/venv/lib
ENV FLOW_SHARE_DIR=/var/lib/flow FLOW_HTTP_HOST=0.0.0.0 PATH=/opt/venv/bin:$PATH
WORKDIR /var/lib/flow
ENTRYPOINT ["flow"]
CMD ["serve"]
