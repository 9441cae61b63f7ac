# ggl on the CPU: docker build -t ggl-audit . && docker run --rm -v "$PWD/runs:/work/runs" ggl-audit demo
# Torch comes from TORCH_INDEX, built for the CPU alone; everything else from the default index, versions as locked.
FROM python:3.11-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN pip install --no-cache-dir uv && uv venv /opt/ggl
COPY requirements.lock ./
RUN uv pip install --no-cache --python /opt/ggl/bin/python --no-deps --default-index "$TORCH_INDEX" \
    $(sed -nE 's/^((torch|torchvision)==[^ ]+).*/\1/p' requirements.lock)
COPY pyproject.toml README.md LICENSE MANIFEST.in ./
COPY ggl ./ggl
COPY generators ./generators
COPY optimizers ./optimizers
COPY benchmarks ./benchmarks
RUN uv pip install --no-cache --python /opt/ggl/bin/python --constraint requirements.lock ".[report,bench]"

FROM python:3.11-slim-bookworm
COPY --from=build /opt/ggl /opt/ggl
RUN useradd --create-home --uid 1000 ggl && mkdir -p /work/runs && chown -R ggl /work
USER ggl
WORKDIR /work
ENV PATH=/opt/ggl/bin:$PATH
ENTRYPOINT ["ggl"]
