# The command avatar-bench for CPU, or for CUDA: --build-arg TORCH=cu130. See docs/install.md#container.
ARG BASE=debian:13.6-slim
FROM ${BASE}

# build of torch that uv's --torch-backend names; empty: the package index's own
ARG TORCH=cpu
ARG EXTRAS=demo,app,export,audit,pretrain
ARG UV=0.13.9

RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# scripts/demo takes this environment for its own
WORKDIR /opt/avatar_bench
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY avatar_bench avatar_bench
COPY conf conf
COPY scripts scripts
RUN python3 -m venv .venv \
    && .venv/bin/pip install --no-cache-dir uv==${UV} \
    && .venv/bin/uv pip install --no-cache --compile-bytecode --python .venv -c constraints.txt \
       ${TORCH:+--torch-backend=${TORCH}} torch torchvision \
    && .venv/bin/uv pip install --no-cache --compile-bytecode --python .venv -c constraints.txt --editable ".[${EXTRAS}]" \
    && .venv/bin/python -m compileall -q avatar_bench \
    && cat pyproject.toml constraints.txt | cksum > .venv/installed-demo

# any user may run the image, such as the owner of a mounted folder
RUN useradd --create-home --uid 1000 avatar \
    && install --directory --mode 1777 /cache /work runs
ENV PATH=/opt/avatar_bench/.venv/bin:$PATH \
    AVATAR_BENCH_CACHE=/cache/avatar_bench \
    HF_HOME=/cache/huggingface \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER avatar
WORKDIR /work
ENTRYPOINT ["avatar-bench"]
CMD ["--help"]
