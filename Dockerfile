# rlsched for machines with NVIDIA GPUs.
#
#   docker build -t rlsched .
#   docker run --rm --gpus all rlsched demo
#   docker run --rm --gpus all --shm-size 8g --user "$(id -u):$(id -g)" -v "$PWD:/work" -w /work \
#       rlsched run workflow.yaml --policy sjf
#
# (Shared memory is what the ranks of a data-parallel task exchange gradients through.)
# torch's wheels bring CUDA 13.0 with them; the host needs a driver of branch 580 or newer and the NVIDIA container
# toolkit. Without --gpus the image works too, on CPU slots.
#
# Verified: every step below on a plain Debian image, with the CPU build of torch, and the commands started as the user.
# Not verified: the NVIDIA base image itself, the CUDA build in it, and --gpus.
ARG CUDA_IMAGE=nvidia/cuda:13.0.3-runtime-ubuntu24.04
FROM ${CUDA_IMAGE}

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 rlsched

ENV PATH=/opt/venv/bin:$PATH \
    OMP_NUM_THREADS=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

WORKDIR /opt/rlsched
# The pinned dependencies first: this layer, by far the largest, is built again only when they change.
COPY constraints.txt requirements-examples.txt ./
RUN python3 -m venv /opt/venv \
    && pip install --constraint constraints.txt pip setuptools torch transformers \
    && pip install --no-deps --requirement requirements-examples.txt
COPY . .
RUN pip install --constraint constraints.txt --no-build-isolation '.[examples]'

# A folder that the user may write to: runs and results land beside the example workflows.
RUN cp -r experiments /home/rlsched/experiments && chown -R rlsched:rlsched /home/rlsched
USER rlsched
WORKDIR /home/rlsched

ENTRYPOINT ["rlsched"]
CMD ["--help"]
