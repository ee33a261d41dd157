# The server, with its page and the network `people`. It needs no connection and writes to /tmp only:
# docker build -t unetlib . && docker run --rm -p 8000:8000 --read-only --tmpfs /tmp unetlib
FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY unetlib unetlib
# Bytecode is made of what the server loads: it starts as quickly, and the image is smaller.
RUN python3 -m venv /opt/unetlib \
    && /opt/unetlib/bin/pip install --no-cache-dir --no-compile ".[serve]" \
    && /opt/unetlib/bin/python -c "import gradio, onnxruntime, unetlib.app.server" \
    && /opt/unetlib/bin/pip uninstall --yes pip setuptools

FROM python:3.13-slim
COPY --from=build /opt/unetlib /opt/unetlib
ENV PATH=/opt/unetlib/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp UNETLIB_SERVE_HOST=0.0.0.0
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python3", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('UNETLIB_SERVE_PORT', 8000)), timeout=4); c.request('GET', '/health'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["unetlib", "serve"]
