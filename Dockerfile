ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}

# gpu: ONNX Runtime with its CUDA 12 libraries beside OpenVINO; the host brings the driver, and without one the CPU is
# used. cpu: OpenVINO alone.
ARG ENGINE=gpu

# The NVIDIA variables let hosts whose default runtime is NVIDIA's hand the GPU over without --gpus; others ignore them.
ENV PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# /tmp is the one place that is writable wherever the container runs.
RUN useradd --uid 10001 --user-group --no-log-init --no-create-home --home-dir /tmp l2snet

WORKDIR /opt/app

# From what changes least to what changes most: packages, code, weights.
COPY requirements.txt requirements-gpu.txt ./
RUN case "$ENGINE" in \
        cpu) list=requirements.txt ;; \
        gpu) list=requirements-gpu.txt ;; \
        *) echo "ENGINE is '$ENGINE'; expected cpu or gpu" >&2; exit 1 ;; \
    esac && \
    PIP_ROOT_USER_ACTION=ignore pip install --no-cache-dir --no-deps --only-binary :all: -r "$list" && \
    pip check

COPY LICENSE NOTICE process.py ./
COPY l2snet l2snet
# The program cannot write here at run time: byte code is made now.
RUN python -m compileall -q l2snet

# What the container runs: l2snet or step-by-step, as of l2snet predict --method.
ARG METHOD=l2snet
ENV L2SNET_METHOD=$METHOD
RUN python -c "import os; from l2snet.methods import check_method; check_method(os.environ['L2SNET_METHOD'])"

USER l2snet
ENTRYPOINT ["python", "process.py"]

COPY weights weights
